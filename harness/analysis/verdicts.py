"""The rule that turns the paired differences of a sweep into one verdict per arm. It is fixed before any run.

- Better or worse: the test of the plan's method, Holm-adjusted over the m arms beside the baseline, has p ≤ α. The
  method is the paired t test, adjusted where the differences look skewed (`harness.analysis.methods`).
- No difference larger than δ: the test does not reject, and the (1 − α/m) t interval of the difference lies inside ±δ.
- Undecided: neither of these, or fewer than two pairs.

A diverged run is the worst result of its arm (`harness.analysis.divergence`). So an arm with one can only be worse or
undecided, and against a baseline with one only better or undecided. It is tested twice in that one direction, with the
diverged runs as untrained models and without their pairs, and the lower p counts: each test uses half of α.

An adaptive sweep trains more seeds for undecided arms, so it looks at the data several times. Each look uses its own
level α_k instead of α (`harness.analysis.significance.look_levels`; they add up to α). The first verdict that is not
undecided is final: later seeds do not change it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.analysis.divergence import Pairs
from harness.analysis.methods import METHODS, Method
from harness.analysis.plan import METHOD_VERSION
from harness.analysis.significance import ALPHA, holm, look_levels, paired_t_p, pooled_skewness, sign_flip_p
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
    """The verdict on one arm. δ is the smallest difference that matters, as the spec sets it."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference larger than δ"
    UNDECIDED = "undecided"


DIFFERENT: Final = (Verdict.BETTER, Verdict.WORSE)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judgement:
    """The verdict on one arm with its statistics. A statistic is NaN where there are too few pairs for it.

    Attributes:
        alpha: level of the tests at the deciding look: α with one look, else the α_k of that look.
        pairs: number of seeds that the arm and the baseline both have, up to the deciding look.
        interval: mean difference and its t interval, at 95 %; with several looks at 1 − α_k, so that it covers the true
            difference in 95 % of sweeps whichever look was the last (Jennison and Turnbull 1989).
        difference_se: standard error of the mean difference.
        p: of the paired t test, unadjusted.
        tested_p: of the method's test: higher than `p` where differences look skewed.
        p_holm: the same, adjusted for all comparisons of the sweep and all looks; the verdict follows it.
        skewness: of the differences at the deciding look, pooled over the arms.
        sign_flip_p: of the sign-flip test, unadjusted: a check that does not need normal noise.
        d_z: Cohen's d_z, the mean difference over the standard deviation of the differences.
        probability_better: share of seeds on which the arm did better than the baseline.
        mde: minimum detectable effect at 80 % power with these pairs and this standard deviation; NaN if a run of the
            arm or the baseline diverged.
        seeds_needed: pairs needed to detect a true difference of δ with 80 % power; NaN if a run diverged.
        verdict: the verdict.
        t_verdict: the verdict if `p` alone decided.
    """

    alpha: float
    pairs: int
    interval: Interval
    difference_se: float
    p: float
    tested_p: float
    p_holm: float
    skewness: float
    sign_flip_p: float
    d_z: float
    probability_better: float
    mde: float
    seeds_needed: float
    verdict: Verdict
    t_verdict: Verdict


@dataclass
class _ArmState:
    """The state of one arm after a look: the tested differences, the method's p and verdict, those of the t test."""

    values: Floats
    level: float
    diverged: bool = False
    p: float = math.nan
    adjusted: float = math.nan
    verdict: Verdict = Verdict.UNDECIDED
    skewness: float = math.nan
    t_p: float = math.nan
    t_verdict: Verdict = Verdict.UNDECIDED


def judge(
    differences: Sequence[npt.ArrayLike | Pairs],
    delta: float,
    alpha: float = ALPHA,
    looks: Sequence[int] | None = None,
    method: str = METHOD_VERSION,
) -> list[Judgement]:
    """Judge every arm of a sweep except the baseline.

    Args:
        differences: one array per arm: arm minus baseline, one value per seed (possibly none), of a metric where lower
            is better; NaN for a seed that only one of the two has; `Pairs` where runs may have diverged. Pass an empty
            array for an arm without a result: it still counts as a comparison.
        delta: the smallest difference that matters, in the metric's unit; NaN if there is none, and then no arm gets
            "no difference larger than δ".
        alpha: familywise error rate of the whole sweep.
        looks: seeds per arm at each look; the differences must then be in the order of the seeds. None: one look at
            all seeds.
        method: version of the test, a key of `harness.analysis.methods.METHODS`.
    """
    data = _all_pairs(differences)
    if not data:
        return []
    return [_judgement(arm, len(data), delta, alpha) for arm in _test_looks(data, delta, alpha, looks, METHODS[method])]


def verdicts(
    differences: Sequence[npt.ArrayLike | Pairs],
    delta: float,
    alpha: float = ALPHA,
    looks: Sequence[int] | None = None,
    method: str = METHOD_VERSION,
) -> list[tuple[Verdict, int]]:
    """Only the verdicts of `judge` and their numbers of pairs; many times faster, for simulations."""
    data = _all_pairs(differences)
    return [(arm.verdict, arm.values.size) for arm in _test_looks(data, delta, alpha, looks, METHODS[method])]


def _all_pairs(differences: Sequence[npt.ArrayLike | Pairs]) -> list[Pairs]:
    return [values if isinstance(values, Pairs) else Pairs.of(values) for values in differences]


def _test_looks(
    data: Sequence[Pairs], delta: float, alpha: float, looks: Sequence[int] | None, method: Method
) -> list[_ArmState]:
    """Test the arms look by look; an arm that is decided is not tested again."""
    sizes = tuple(looks) if looks else (max((len(pairs.values) for pairs in data), default=0) or 1,)
    levels = look_levels(sizes, alpha)
    arms = [_ArmState(np.empty(0), levels[0]) for _ in data]
    for before, n, level in zip((0, *sizes), sizes, levels, strict=False):
        # An arm takes part in a look only if it has a new pair since the look before.
        active = [
            index
            for index, arm in enumerate(arms)
            if arm.verdict is Verdict.UNDECIDED and not np.isnan(data[index].values[before:n]).all()
        ]
        if not active:
            continue
        trained = [pairs.trained(n) for pairs in data]
        p_values, skewness = method(trained, n == sizes[-1]), pooled_skewness(trained)
        for index in active:
            arms[index] = _tested(data[index], n, level, float(p_values[index]))
            arms[index].skewness = skewness
        for index, adjusted in _holm([arm.p for arm in arms], arms, active):
            arms[index].adjusted = adjusted
        for index, adjusted in _holm([arm.t_p for arm in arms], arms, active):
            arms[index].t_verdict = _verdict(arms[index], adjusted, delta, level / len(data))
        for index in active:
            arms[index].verdict = _verdict(arms[index], arms[index].adjusted, delta, level / len(data))
    return arms


def _holm(p: Sequence[float], arms: Sequence[_ArmState], active: Sequence[int]) -> Iterator[tuple[int, float]]:
    """The adjusted p of each active arm. An arm already found different counts as rejected (p = 0)."""
    waiting = [
        p[index] if index in active else 0.0 if arm.verdict in DIFFERENT else math.nan for index, arm in enumerate(arms)
    ]
    adjusted = holm(waiting)
    yield from ((index, float(adjusted[index])) for index in active)


def _tested(pairs: Pairs, n: int, level: float, p_trained: float) -> _ArmState:
    """Test one arm on its first `n` seeds; `p_trained` is the method's p of the pairs in which no run diverged."""
    ours, theirs, trained = (
        bool(pairs.arm_diverged[:n].any()),
        bool(pairs.baseline_diverged[:n].any()),
        pairs.trained(n),
    )
    if not ours and not theirs:
        return _ArmState(trained, level, p=p_trained, t_p=float(paired_t_p(trained)))
    # Equal losses of untrained models look like a result without noise. The p of n pairs is at least the chance that
    # all of them differ in one direction where half of all runs diverge by chance: 2 · (1/4)ⁿ.
    counted = pairs.values[:n][~np.isnan(pairs.values[:n])]
    p = max(float(paired_t_p(counted)), 2 * 0.25**counted.size)
    tested = [_one_direction(counted, p, ours, theirs), _one_direction(trained, p_trained, ours, theirs)]
    used, p = min(tested, key=lambda one: one[1] if one[1] < 1 else 1.0)
    return _ArmState(used, level, True, p=p, t_p=p)


def _one_direction(values: Floats, p: float, arm_diverged: bool, baseline_diverged: bool) -> tuple[Floats, float]:
    """The values and their p, 1 where they point in a direction that a diverged run rules out."""
    mean = values.mean() if values.size else 0.0
    ruled_out = (arm_diverged and mean <= 0) or (baseline_diverged and mean >= 0)
    return values, 1.0 if ruled_out else p


def _verdict(arm: _ArmState, adjusted: float, delta: float, share: float) -> Verdict:
    if arm.values.size < 2:
        return Verdict.UNDECIDED
    if adjusted <= arm.level:
        return Verdict.BETTER if arm.values.mean() < 0 else Verdict.WORSE
    if arm.diverged:
        return Verdict.UNDECIDED
    _, low, high = mean_interval(arm.values, 1 - share)
    return Verdict.NO_DIFFERENCE if -delta < low and high < delta else Verdict.UNDECIDED


def _judgement(arm: _ArmState, comparisons: int, delta: float, alpha: float) -> Judgement:
    values, share = arm.values, arm.level / comparisons
    spread = float(values.std(ddof=1)) if values.size > 1 else math.nan
    return Judgement(
        alpha=arm.level,
        pairs=values.size,
        interval=mean_interval(values, 1 - arm.level / alpha * (1 - LEVEL)),
        difference_se=spread / math.sqrt(values.size) if values.size > 1 else math.nan,
        p=arm.t_p,
        tested_p=arm.p,
        p_holm=float(np.minimum(1, arm.adjusted * (alpha / arm.level))),
        skewness=arm.skewness,
        sign_flip_p=sign_flip_p(values),
        d_z=effect_size(values),
        probability_better=probability_better(values),
        mde=math.nan if arm.diverged else detectable_effect(spread, values.size, share),
        seeds_needed=math.nan if arm.diverged else seeds_to_detect(delta, spread, share),
        verdict=arm.verdict,
        t_verdict=arm.t_verdict,
    )
