"""The rule that turns the paired differences of a sweep into one word per arm, fixed before any run was seen.

Better or worse: the paired t test, Holm-adjusted over all arms but the baseline, has p ≤ α. No difference larger than
δ: not that, and the (1 − α/m) t interval of the difference lies between −δ and δ. Undecided: neither, which is also
what fewer than two pairs give.

Where more seeds are trained for what is undecided, the data are looked at several times. Each look then has a level of
its own, α_k, in the place of α (`harness.analysis.significance.look_levels`; they add up to α), and an arm's verdict is
the first that is not undecided: seeds trained after it change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.analysis.significance import ALPHA, holm, look_levels, paired_t_p, sign_flip_p
from harness.analysis.statistics import (
    LEVEL,
    Interval,
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


DIFFERENT: Final = (Verdict.BETTER, Verdict.WORSE)


@dataclass(frozen=True)
class Judgement:
    """A verdict on one arm, and what it rests on. NaN stands for what the number of pairs does not allow.

    Attributes:
        alpha: level of the tests at the look that decided: all of α with one look, else its share.
        pairs: seeds that the arm and the baseline both have, up to the look that decided.
        interval: mean of the differences and its t interval, of level 95 %; with several looks of 1 − α_k, so that it
            holds the true difference in 95 % of sweeps whichever look was the last (Jennison and Turnbull 1989).
        difference_se: standard error of the mean difference.
        p: of the paired t test, by itself.
        p_holm: the same, adjusted for all comparisons of the sweep and all looks; the verdict follows it.
        sign_flip_p: of the sign-flip test, by itself: the check that needs no normal noise.
        d_z: the mean difference in units of the spread of the differences.
        probability_better: share of seeds on which the arm did better than the baseline.
        mde: the true difference that this many pairs of this spread would have shown in 80 % of sweeps.
        seeds_needed: pairs with which a true difference of δ would be shown in 80 % of sweeps.
        verdict: the word.
    """

    alpha: float
    pairs: int
    interval: Interval
    difference_se: float
    p: float
    p_holm: float
    sign_flip_p: float
    d_z: float
    probability_better: float
    mde: float
    seeds_needed: float
    verdict: Verdict


@dataclass
class _Standing:
    """Where one arm stands after a look: the pairs it was judged by, the level, p as it came and adjusted."""

    values: npt.NDArray[np.float64]
    level: float
    p: float = math.nan
    adjusted: float = math.nan
    verdict: Verdict = Verdict.UNDECIDED


def judge(
    differences: Sequence[npt.ArrayLike], delta: float, alpha: float = ALPHA, looks: Sequence[int] | None = None
) -> list[Judgement]:
    """Judge every arm of a sweep but its baseline.

    Args:
        differences: for each arm its differences, arm minus baseline, one per seed (possibly none), of a metric of
            which less is better; NaN for a seed that the two do not both have. An arm without a result has its place
            too: it counts as a comparison.
        delta: the smallest difference that matters, in the metric's unit; NaN where there is none, so that no arm
            can be shown not to differ.
        alpha: the share of sweeps without any true difference in which some arm may be called better or worse.
        looks: seeds per arm at which the sweep looks; differences are then in the order of the seeds. None: one look
            at everything.
    """
    data = [np.asarray(values, dtype=np.float64) for values in differences]
    if not data:
        return []
    return [_judgement(standing, len(data), delta, alpha) for standing in _stand(data, delta, alpha, looks)]


def verdicts(
    differences: Sequence[npt.ArrayLike], delta: float, alpha: float = ALPHA, looks: Sequence[int] | None = None
) -> list[tuple[Verdict, int]]:
    """The words of `judge` alone and the pairs that each rests on, many times as fast: for simulations."""
    data = [np.asarray(values, dtype=np.float64) for values in differences]
    return [(standing.verdict, standing.values.size) for standing in _stand(data, delta, alpha, looks)]


def _stand(
    data: Sequence[npt.NDArray[np.float64]], delta: float, alpha: float, looks: Sequence[int] | None
) -> list[_Standing]:
    """Go through the looks; what is decided at one is not looked at again."""
    sizes = tuple(looks) if looks else (max((len(values) for values in data), default=0) or 1,)
    levels = look_levels(sizes, alpha)
    arms = [_Standing(_pairs(values, sizes[0]), levels[0]) for values in data]
    for before, n, level in zip((0, *sizes), sizes, levels, strict=False):
        # An arm takes part in a look if it has a pair that the look before had not.
        active = [
            index
            for index, arm in enumerate(arms)
            if arm.verdict is Verdict.UNDECIDED and not np.isnan(data[index][before:n]).all()
        ]
        for index in active:
            values = _pairs(data[index], n)
            arms[index] = _Standing(values, level, float(paired_t_p(values)))
        # Of the others, those found different before are out of Holm's way and every other one counts.
        waiting = [
            arm.p if index in active else 0.0 if arm.verdict in DIFFERENT else math.nan
            for index, arm in enumerate(arms)
        ]
        for index, adjusted in enumerate(holm(waiting)):
            if index in active:
                arms[index].adjusted = float(adjusted)
                arms[index].verdict = _verdict(arms[index], delta, level / len(data))
    return arms


def _pairs(values: npt.NDArray[np.float64], n: int) -> npt.NDArray[np.float64]:
    """The differences over the first `n` seeds, missing ones left out."""
    first = values[:n]
    known: npt.NDArray[np.float64] = first[~np.isnan(first)]
    return known


def _verdict(arm: _Standing, delta: float, share: float) -> Verdict:
    if arm.values.size < 2:
        return Verdict.UNDECIDED
    if arm.adjusted <= arm.level:
        return Verdict.BETTER if arm.values.mean() < 0 else Verdict.WORSE
    _, low, high = mean_interval(arm.values, 1 - share)
    return Verdict.NO_DIFFERENCE if -delta < low and high < delta else Verdict.UNDECIDED


def _judgement(arm: _Standing, comparisons: int, delta: float, alpha: float) -> Judgement:
    values, share = arm.values, arm.level / comparisons
    spread = float(values.std(ddof=1)) if values.size > 1 else math.nan
    return Judgement(
        alpha=arm.level,
        pairs=values.size,
        interval=mean_interval(values, 1 - arm.level / alpha * (1 - LEVEL)),
        difference_se=spread / math.sqrt(values.size) if values.size > 1 else math.nan,
        p=arm.p,
        p_holm=float(np.minimum(1, arm.adjusted * (alpha / arm.level))),
        sign_flip_p=sign_flip_p(values),
        d_z=effect_size(values),
        probability_better=probability_better(values),
        mde=detectable_effect(spread, values.size, share),
        seeds_needed=seeds_to_detect(delta, spread, share),
        verdict=arm.verdict,
    )
