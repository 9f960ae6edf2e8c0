"""The rule that turns the paired differences of a sweep into one word per arm, fixed before any run was seen.

Better or worse: the paired t test, Holm-adjusted over all arms but the baseline, has p ≤ α. No difference larger than
δ: not that, and the (1 − α/m) t interval of the difference lies between −δ and δ. Undecided: neither, which is also
what fewer than two pairs give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from harness.report.significance import ALPHA, holm, paired_t_p, sign_flip_p
from harness.report.statistics import (
    detectable_effect,
    effect_size,
    mean_interval,
    probability_better,
    seeds_to_detect,
)


class Verdict(StrEnum):
    """What a comparison may say of an arm, δ being the smallest difference that matters to whoever asked."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference larger than δ"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Judgement:
    """A verdict on one arm, and what it rests on. NaN stands for what the number of pairs does not allow.

    Attributes:
        p: of the paired t test, by itself.
        p_holm: the same, adjusted for all comparisons of the sweep; the verdict follows it.
        sign_flip_p: of the sign-flip test, by itself: the check that needs no normal noise.
        d_z: the mean difference in units of the spread of the differences.
        probability_better: share of seeds on which the arm did better than the baseline.
        mde: the true difference that this many pairs of this spread would have shown in 80 % of sweeps.
        seeds_needed: pairs with which a true difference of δ would be shown in 80 % of sweeps.
        verdict: the word.
    """

    p: float
    p_holm: float
    sign_flip_p: float
    d_z: float
    probability_better: float
    mde: float
    seeds_needed: float
    verdict: Verdict


def judge(differences: Sequence[npt.ArrayLike], delta: float, alpha: float = ALPHA) -> list[Judgement]:
    """Judge every arm of a sweep but its baseline.

    Args:
        differences: for each arm its differences, arm minus baseline, one per seed that both have (possibly none), of
            a metric of which less is better. An arm without a result has its place too: it counts as a comparison.
        delta: the smallest difference that matters, in the metric's unit; NaN where there is none, so that no arm
            can be shown not to differ.
        alpha: the share of sweeps without any true difference in which some arm may be called better or worse.
    """
    data = [np.asarray(values, dtype=np.float64) for values in differences]
    if not data:
        return []
    share = alpha / len(data)
    raw = [float(paired_t_p(values)) for values in data]
    found = []
    for values, p, adjusted in zip(data, raw, holm(raw), strict=True):
        spread = float(values.std(ddof=1)) if values.size > 1 else math.nan
        found.append(
            Judgement(
                p=p,
                p_holm=float(adjusted),
                sign_flip_p=sign_flip_p(values),
                d_z=effect_size(values),
                probability_better=probability_better(values),
                mde=detectable_effect(spread, values.size, share),
                seeds_needed=seeds_to_detect(delta, spread, share),
                verdict=_verdict(values, adjusted, delta, share, alpha),
            )
        )
    return found


def _verdict(values: npt.NDArray[np.float64], p: float, delta: float, share: float, alpha: float) -> Verdict:
    if values.size < 2:
        return Verdict.UNDECIDED
    if p <= alpha:
        return Verdict.BETTER if values.mean() < 0 else Verdict.WORSE
    _, low, high = mean_interval(values, 1 - share)
    return Verdict.NO_DIFFERENCE if -delta < low and high < delta else Verdict.UNDECIDED
