"""Statistics over seeds: pure functions over arrays of one number per run.

An interval here is Student's t interval for a mean: with the 3 to 10 seeds of a sweep it is the one that keeps its
coverage, where a percentile bootstrap covers far less than it says. It rests on seed noise that is about normal.

Differences are paired: runs of one seed share initial weights and order of data, so the difference arm − baseline of
one seed loses what the seed contributes to both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Of chi-square and of Student's t; scipy.stats would add a second to the start of a command.
from scipy.special import chdtri, nctdtrinc, stdtrit

LEVEL = 0.95
POWER = 0.8  # the probability with which an effect counts as one that could have been seen


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval, in the unit of the values; NaN where n does not allow one.

    Of another estimate, such as a standard deviation, `mean` is the estimate.
    """

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """What stands after the ± sign: t intervals lie symmetrically about the mean."""
        return (self.high - self.low) / 2

    def under(self, *names: str) -> dict[str, float]:
        """Mean and ends as columns of these three names."""
        return dict(zip(names, self, strict=True))

    @property
    def includes_zero(self) -> bool:
        """Whether 0 lies in the interval, its ends counted in; false where there is no interval."""
        return self.low <= 0 <= self.high


def mean_interval(values: npt.ArrayLike, level: float = LEVEL) -> Interval:
    """Mean of independent values and its t interval, mean ± t((1+level)/2, n−1) · s/√n.

    Args:
        values: shape (n,), finite, in any unit. One value has a mean but no interval, none has neither.
        level: confidence level, between 0 and 1.

    Raises:
        ValueError: a value is NaN or infinite, the values are not one list, or the level is out of range.
    """
    data = np.asarray(values, dtype=np.float64)
    _check(data, level)
    if data.size == 0:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(data.mean())
    if data.size == 1:
        return Interval(mean, math.nan, math.nan)
    quantile = float(stdtrit(data.size - 1, (1 + level) / 2))
    half = quantile * float(data.std(ddof=1)) / math.sqrt(data.size)
    return Interval(mean, mean - half, mean + half)


def _check(data: npt.NDArray[np.float64], level: float) -> None:
    if data.ndim != 1:
        raise ValueError(f"values: found an array of shape {data.shape}; allowed: one number per run, shape (n,)")
    if not np.isfinite(data).all():
        raise ValueError(f"values: found {data[~np.isfinite(data)][0]}; allowed: finite numbers")
    if not 0 < level < 1:
        raise ValueError(f"level: found {level}; allowed: a number between 0 and 1")


def deviation_interval(values: npt.ArrayLike, level: float = LEVEL) -> Interval:
    """Standard deviation s of independent normal values and its interval, s·√((n−1)/χ²) at both χ² quantiles.

    (n−1)·s²/σ² has the chi-square distribution with n−1 degrees of freedom (Hahn and Meeker 1991, ch. 4).
    Unlike the interval of a mean it stays wrong with many values where they are not normal.

    Args:
        values: shape (n,), finite, in any unit. NaN in all three parts for n < 2.
        level: confidence level, between 0 and 1; either tail has half of the rest.

    Raises:
        ValueError: as for `mean_interval`.
    """
    data = np.asarray(values, dtype=np.float64)
    _check(data, level)
    if data.size < 2:
        return Interval(math.nan, math.nan, math.nan)
    freedom = data.size - 1
    spread = float(data.std(ddof=1)) if np.ptp(data) else 0.0  # the mean of equal values may be off in its last bit
    low, high = (spread * math.sqrt(freedom / float(chdtri(freedom, (1 + sign * level) / 2))) for sign in (-1, 1))
    return Interval(spread, low, high)


def seed_difference(spread: float, runs: int, level: float = LEVEL) -> float:
    """The size below which the difference of two new runs with different seeds lies in `level` of cases.

    A prediction interval: the difference of two independent runs of one configuration has mean 0 and variance 2σ²,
    and σ is known from `runs` other ones only, so difference / (s·√2) has Student's t distribution with n−1 degrees
    of freedom (Hahn and Meeker 1991, ch. 4, do it for one new value). The size is t((1+level)/2, n−1)·s·√2.

    Args:
        spread: standard deviation s of single runs, in any unit.
        runs: n, the runs that s was computed from. NaN is returned for n < 2.
        level: share of cases.
    """
    if runs < 2:
        return math.nan
    return float(stdtrit(runs - 1, (1 + level) / 2)) * spread * math.sqrt(2)


def effect_size(differences: npt.ArrayLike) -> float:
    """d_z = mean / s: the paired difference in units of its own spread over seeds (Cohen 1988).

    Args:
        differences: shape (n,), finite. NaN for n < 2; without any spread 0 or infinite.
    """
    data = np.asarray(differences, dtype=np.float64)
    if data.size < 2:
        return math.nan
    mean, spread = float(data.mean()), float(data.std(ddof=1))
    if spread == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / spread


def probability_better(differences: npt.ArrayLike) -> float:
    """Share of seeds on which the arm's loss is the lower one, ties counted half (Bouthillier et al. 2021).

    Args:
        differences: shape (n,), arm minus baseline, of a metric of which less is better. NaN for n = 0.
    """
    data = np.asarray(differences, dtype=np.float64)
    return float((np.mean(data < 0) + np.mean(data <= 0)) / 2) if data.size else math.nan


def detectable_effect(spread: float, pairs: int, alpha: float, power: float = POWER) -> float:
    """The true difference that a two-sided paired t test at α finds with the given probability: λ·s/√n.

    λ solves P(T(n−1, λ) > t(1−α/2, n−1)) = power for Student's noncentral t; the test's other tail, which could only
    add to the power, is left out.

    Args:
        spread: standard deviation of the differences, in any unit.
        pairs: n. NaN is returned for n < 2.
        alpha: level of one test: α/m for the first step of Holm over m comparisons.
    """
    if pairs < 2:
        return math.nan
    return _noncentrality(pairs - 1, alpha, power) * spread / math.sqrt(pairs)


def unpaired_detectable_effect(spread: float, seeds: int, alpha: float, power: float = POWER) -> float:
    """The same for two arms whose runs share nothing: λ·s·√(2/n), with 2n−2 degrees of freedom (Cohen 1988, ch. 2).

    Args:
        spread: standard deviation of single runs, the same in both arms, in any unit.
        seeds: n, runs per arm. NaN is returned for n < 2.
        alpha: level of one test.
    """
    if seeds < 2:
        return math.nan
    return _noncentrality(2 * seeds - 2, alpha, power) * spread * math.sqrt(2 / seeds)


def _noncentrality(freedom: int, alpha: float, power: float) -> float:
    return float(nctdtrinc(freedom, 1 - power, stdtrit(freedom, 1 - alpha / 2)))


def seeds_to_detect(
    effect: float,
    spread: float,
    alpha: float,
    power: float = POWER,
    detectable: Callable[[float, int, float, float], float] = detectable_effect,
) -> float:
    """The fewest pairs of which `detectable_effect` is at most `effect`; infinite beyond a million.

    Args:
        effect: true difference to be found, above 0, in the unit of `spread`.
        spread: standard deviation of the differences. NaN for NaN.
        alpha: level of one test.
        power: the probability with which it is found.
        detectable: `unpaired_detectable_effect` asks for seeds per arm instead, and takes the spread of single runs.
    """
    if math.isnan(spread) or math.isnan(effect):
        return math.nan
    low, high = 1, 2  # low never suffices
    while detectable(spread, high, alpha, power) > effect:
        low, high = high, 2 * high
        if high > 1_000_000:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        if detectable(spread, middle, alpha, power) > effect:
            low = middle
        else:
            high = middle
    return float(high)
