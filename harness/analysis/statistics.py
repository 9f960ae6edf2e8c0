"""Statistics over seeds: pure functions over arrays with one number per run.

Intervals of a mean are Student's t intervals. With the 3 to 10 seeds of a sweep they keep their nominal coverage, while
a percentile bootstrap covers far less. They assume that the noise between seeds is approximately normal.

Differences are paired by seed: runs with the same seed share initial weights and data order, so what the seed adds to
both losses cancels in the difference arm − baseline.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Quantiles of chi-square and Student's t. Importing scipy.stats would add a second to the start of a command.
from scipy.special import chdtri, nctdtrinc, stdtrit

LEVEL = 0.95
POWER = 0.8  # power at which an effect counts as detectable


class Interval(NamedTuple):
    """A mean and its confidence interval, in the unit of the values; NaN where there are too few values.

    For another estimate, such as a standard deviation, `mean` holds that estimate.
    """

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval, the number after ±. A t interval is symmetric about its mean."""
        return (self.high - self.low) / 2

    def as_columns(self, *names: str) -> dict[str, float]:
        """Mean, low and high as a dict under these three column names."""
        return dict(zip(names, self, strict=True))

    @property
    def includes_zero(self) -> bool:
        """Whether 0 lies in the closed interval; false where there is no interval."""
        return self.low <= 0 <= self.high


def mean_interval(values: npt.ArrayLike, level: float = LEVEL) -> Interval:
    """Mean of independent values and its t interval, mean ± t((1+level)/2, n−1) · s/√n.

    Args:
        values: shape (n,), finite, in any unit. One value gives a mean without an interval; no value gives NaN.
        level: confidence level, between 0 and 1.

    Raises:
        ValueError: a value is NaN or infinite, the array is not one-dimensional, or the level is out of range.
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
    """Sample standard deviation s of normal values and its chi-square interval, s·√((n−1)/χ²) at both χ² quantiles.

    (n−1)·s²/σ² has a chi-square distribution with n−1 degrees of freedom (Hahn and Meeker 1991, ch. 4). Unlike the
    interval of a mean, this one stays wrong for values that are not normal, however many there are.

    Args:
        values: shape (n,), finite, in any unit. For n < 2 all three parts are NaN.
        level: confidence level, between 0 and 1; equal-tailed.

    Raises:
        ValueError: as for `mean_interval`.
    """
    data = np.asarray(values, dtype=np.float64)
    _check(data, level)
    if data.size < 2:
        return Interval(math.nan, math.nan, math.nan)
    freedom = data.size - 1
    spread = float(data.std(ddof=1)) if np.ptp(data) else 0.0  # rounding of the mean would give equal values a spread
    low, high = (spread * math.sqrt(freedom / float(chdtri(freedom, (1 + sign * level) / 2))) for sign in (-1, 1))
    return Interval(spread, low, high)


def seed_difference(spread: float, runs: int, level: float = LEVEL) -> float:
    """Prediction bound for the absolute difference of two new runs with different seeds: t((1+level)/2, n−1)·s·√2.

    The difference of two independent runs of one configuration has mean 0 and variance 2σ². σ is estimated from n
    other runs, so difference / (s·√2) has Student's t distribution with n−1 degrees of freedom. (Hahn and Meeker 1991,
    ch. 4, derive the prediction interval of one new value in the same way.)

    Args:
        spread: standard deviation s of single runs, in any unit.
        runs: n, the number of runs that s was computed from. Returns NaN for n < 2.
        level: share of pairs whose difference stays below the bound.
    """
    if runs < 2:
        return math.nan
    return float(stdtrit(runs - 1, (1 + level) / 2)) * spread * math.sqrt(2)


def effect_size(differences: npt.ArrayLike) -> float:
    """Cohen's d_z: the mean of the paired differences over their standard deviation (Cohen 1988).

    Args:
        differences: shape (n,), finite. Returns NaN for n < 2; if all differences are equal, 0 or infinity.
    """
    data = np.asarray(differences, dtype=np.float64)
    if data.size < 2:
        return math.nan
    mean, spread = float(data.mean()), float(data.std(ddof=1))
    if spread == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / spread


def probability_better(differences: npt.ArrayLike) -> float:
    """Share of seeds on which the arm beats the baseline, ties counted as half (Bouthillier et al. 2021).

    Args:
        differences: shape (n,), arm minus baseline, of a metric where lower is better. Returns NaN for n = 0.
    """
    data = np.asarray(differences, dtype=np.float64)
    return float((np.mean(data < 0) + np.mean(data <= 0)) / 2) if data.size else math.nan


def detectable_effect(spread: float, pairs: int, alpha: float, power: float = POWER) -> float:
    """Minimum detectable effect of a two-sided paired t test: the true difference found with this power, λ·s/√n.

    λ solves P(T(n−1, λ) > t(1−α/2, n−1)) = power for Student's noncentral t (Cohen 1988, ch. 2). The opposite tail of
    the test is left out; it could only add to the power.

    Args:
        spread: standard deviation s of the differences, in any unit.
        pairs: n. Returns NaN for n < 2.
        alpha: level of one test: α/m for the first step of Holm over m comparisons.
        power: probability of finding the difference.
    """
    if pairs < 2:
        return math.nan
    return _noncentrality(pairs - 1, alpha, power) * spread / math.sqrt(pairs)


def unpaired_detectable_effect(spread: float, seeds: int, alpha: float, power: float = POWER) -> float:
    """Minimum detectable effect of a two-sample t test: λ·s·√(2/n), with 2n−2 degrees of freedom (Cohen 1988, ch. 2).

    Args:
        spread: standard deviation s of single runs, the same in both arms, in any unit.
        seeds: n, runs per arm. Returns NaN for n < 2.
        alpha: level of one test.
        power: probability of finding the difference.
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
    """Sample size: the fewest pairs whose minimum detectable effect is at most `effect`; infinity above a million.

    Args:
        effect: true difference to find, above 0, in the unit of `spread`. Returns NaN for NaN.
        spread: standard deviation of the differences. Returns NaN for NaN.
        alpha: level of one test.
        power: probability of finding the difference.
        detectable: the effect that n pairs detect. With `unpaired_detectable_effect` the result is seeds per arm, and
            `spread` is that of single runs.
    """
    if math.isnan(spread) or math.isnan(effect):
        return math.nan
    low, high = 1, 2  # invariant: low is too few
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
