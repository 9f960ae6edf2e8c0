"""Statistics over seeds: pure functions over arrays of one number per run.

An interval here is Student's t interval for a mean: with the 3 to 10 seeds of a sweep it is the one that keeps its
coverage, where a percentile bootstrap covers far less than it says. It rests on seed noise that is about normal.

Differences are paired: runs of one seed share initial weights and order of data, so the difference arm − baseline of
one seed loses what the seed contributes to both.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import nctdtrinc, stdtrit  # of Student's t; scipy.stats would add a second to the start of a command

LEVEL = 0.95
POWER = 0.8  # the probability with which an effect counts as one that could have been seen


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval, in the unit of the values; NaN where n does not allow one."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """What stands after the ± sign: t intervals lie symmetrically about the mean."""
        return (self.high - self.low) / 2

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
    if data.ndim != 1:
        raise ValueError(f"values: found an array of shape {data.shape}; allowed: one number per run, shape (n,)")
    if not np.isfinite(data).all():
        raise ValueError(f"values: found {data[~np.isfinite(data)][0]}; allowed: finite numbers")
    if not 0 < level < 1:
        raise ValueError(f"level: found {level}; allowed: a number between 0 and 1")
    if data.size == 0:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(data.mean())
    if data.size == 1:
        return Interval(mean, math.nan, math.nan)
    quantile = float(stdtrit(data.size - 1, (1 + level) / 2))
    half = quantile * float(data.std(ddof=1)) / math.sqrt(data.size)
    return Interval(mean, mean - half, mean + half)


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
    quantile = stdtrit(pairs - 1, 1 - alpha / 2)
    return float(nctdtrinc(pairs - 1, 1 - power, quantile)) * spread / math.sqrt(pairs)


def seeds_to_detect(effect: float, spread: float, alpha: float, power: float = POWER) -> float:
    """The fewest pairs of which `detectable_effect` is at most `effect`; infinite beyond a million.

    Args:
        effect: true difference to be found, above 0, in the unit of `spread`.
        spread: standard deviation of the differences. NaN for NaN.
        alpha: level of one test.
    """
    if math.isnan(spread) or math.isnan(effect):
        return math.nan
    low, high = 1, 2  # low never suffices
    while detectable_effect(spread, high, alpha, power) > effect:
        low, high = high, 2 * high
        if high > 1_000_000:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        if detectable_effect(spread, middle, alpha, power) > effect:
            low = middle
        else:
            high = middle
    return float(high)
