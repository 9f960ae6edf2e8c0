"""How long a sweep still takes, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# Student's t, quantile 0.95, by degrees of freedom: 90 % of a prediction lies within so many standard errors.
_T95: Final = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)
_T95_MANY: Final = 1.75  # from 11 to 20 degrees of freedom 1.80 to 1.72; 1.645 without end


@dataclass(frozen=True)
class TimeLeft:
    """Seconds of wall time.

    Attributes:
        seconds: the expectation.
        low, high: the 90 % interval; both None where fewer than two runs have been seen.
    """

    seconds: float
    low: float | None = None
    high: float | None = None


def time_left(seen: Sequence[tuple[float, float]], left: Sequence[float], at_once: int) -> TimeLeft | None:
    """Predict from the speeds seen in this process.

    A run's pace is its seconds per unit of work. What is left takes the mean pace m of the k runs seen (weighted by
    their work), over the runs that train at once, and no less than its largest piece takes alone. The interval is that
    of a prediction: the paces of future runs are drawn from where those seen came from, with their standard deviation
    s, so the sum over pieces of work w has the variance s²·(Σw² + (Σw)²/k) (their own scatter, and that of m), times
    Student's t with k − 1 degrees of freedom. It knows nothing of what did not happen yet: a machine that gets busier,
    runs that the pruner will stop, seeds that the verdicts will ask for.

    Args:
        seen: (work done, seconds it took) of every run that got anywhere.
        left: work of every run that is to be done, what is left of a running one included.
        at_once: how many runs train at once.

    Returns:
        None where nothing was seen.
    """
    paces = [seconds / work for work, seconds in seen if work > 0]
    if not paces:
        return None
    total, largest, k = sum(left), max(left, default=0.0), len(paces)
    pace = sum(seconds for work, seconds in seen if work > 0) / sum(work for work, _ in seen)
    shared = total / max(1, at_once)
    expected = pace * max(shared, largest)
    if k < 2:
        return TimeLeft(expected)
    mean = sum(paces) / k
    deviation = math.sqrt(sum((one - mean) ** 2 for one in paces) / (k - 1))
    if shared >= largest:
        error = deviation * math.sqrt(sum(work * work for work in left) + total * total / k) / max(1, at_once)
    else:
        error = deviation * largest * math.sqrt(1 + 1 / k)
    half = error * (_T95[k - 2] if k - 2 < len(_T95) else _T95_MANY)
    return TimeLeft(expected, max(0.0, expected - half), expected + half)
