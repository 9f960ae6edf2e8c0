"""Estimates the time that a sweep still takes, with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# The 0.95 quantile of Student's t, from 1 degree of freedom on: for an interval of 90 %.
_T95: Final = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)
_T95_MANY: Final = 1.75  # for more: 1.80 at 11 degrees of freedom, 1.72 at 20, 1.645 in the limit


@dataclass(frozen=True)
class TimeLeft:
    """Seconds of wall time.

    Attributes:
        seconds: the expectation.
        low, high: the 90 % interval; both None if fewer than two runs have been measured.
    """

    seconds: float
    low: float | None = None
    high: float | None = None


def time_left(
    measured: Sequence[tuple[float, float]],
    left: Sequence[float],
    parallel: int,
    per_run: float = 0.0,
    at_end: float = 0.0,
) -> TimeLeft | None:
    """Predict the time left from the speeds measured in this process.

    The pace of a run is its seconds per unit of work. The work left is done at the mean pace m of the k measured runs
    (weighted by their work), divided over the parallel runs; it takes at least as long as its largest piece alone.

    The interval is a prediction interval: paces of future runs are drawn from the distribution of the measured ones,
    with their standard deviation s. The total over pieces of work w has the variance s²·(Σw² + (Σw)²/k), from the
    scatter of the paces and of m; the half-width is its root times Student's t with k − 1 degrees of freedom. The
    interval does not cover later changes: a busier machine, pruned trials, more seeds.

    Args:
        measured: (work, seconds) of every run that has made progress.
        left: work of every run to come, and what is left of running ones.
        parallel: runs that train at the same time.
        per_run: seconds to record a run; runs are recorded one after the other, while others train.
        at_end: seconds after the last run.

    Returns:
        None if nothing was measured.
    """
    paces = [seconds / work for work, seconds in measured if work > 0]
    if not paces:
        return None
    total, largest, k = sum(left), max(left, default=0.0), len(paces)
    pace = sum(seconds for work, seconds in measured if work > 0) / sum(work for work, _ in measured)
    shared = total / max(1, parallel)
    expected, least = pace * max(shared, largest), per_run * len(left)
    if k < 2:
        return TimeLeft(max(least, expected) + at_end)
    mean = sum(paces) / k
    deviation = math.sqrt(sum((one - mean) ** 2 for one in paces) / (k - 1))
    if shared >= largest:
        error = deviation * math.sqrt(sum(work * work for work in left) + total * total / k) / max(1, parallel)
    else:
        error = deviation * largest * math.sqrt(1 + 1 / k)
    half = error * (_T95[k - 2] if k - 2 < len(_T95) else _T95_MANY)
    low, high = (max(least, seconds) + at_end for seconds in (expected - half, expected + half))
    return TimeLeft(max(least, expected) + at_end, low, high)
