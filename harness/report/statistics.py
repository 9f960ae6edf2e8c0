"""Statistics over seeds: pure functions over arrays of one number per run.

An interval here is Student's t interval for a mean: with the 3 to 10 seeds of a sweep it is the one that keeps its
coverage, where a percentile bootstrap covers far less than it says. It rests on seed noise that is about normal.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # Student's t quantile; scipy.stats would add a second to the start of a command

LEVEL = 0.95


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


def paired_difference(arm: npt.ArrayLike, baseline: npt.ArrayLike, level: float = LEVEL) -> Interval:
    """Mean of the differences arm − baseline over seeds, with the t interval of those differences.

    Runs of one seed share initial weights and order of data, so their difference loses what the seed contributes
    to both; an interval of unpaired means would be wider for no reason.

    Args:
        arm: shape (n,), finite; position i is the same seed as in `baseline`.
        baseline: shape (n,), finite.
        level: confidence level, between 0 and 1.

    Raises:
        ValueError: the shapes differ, or what `mean_interval` refuses.
    """
    first, second = np.asarray(arm, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values: found shapes {first.shape} and {second.shape}; allowed: one pair per seed")
    return mean_interval(first - second, level)
