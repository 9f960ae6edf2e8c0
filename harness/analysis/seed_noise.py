"""How far results of one configuration lie apart over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.analysis.statistics import (
    Interval,
    deviation_interval,
    mean_interval,
    seed_difference,
)
from harness.core import metrics

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Spread:
    """What the seeds of one configuration do to one metric.

    Attributes:
        metric: its name.
        values: one per seed, in the metric's unit.
        deviation: standard deviation with its 95 % interval.
        two_runs: the size that the difference of two new runs with different seeds stays below in 95 % of cases.
    """

    metric: str
    values: tuple[float, ...]
    deviation: Interval
    two_runs: float

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return mean_interval(self.values).mean


def spread_of(values: Sequence[float], metric: str = metrics.VAL_LOSS) -> Spread:
    """Measure the spread of the final values of one configuration.

    Args:
        values: one per seed, at least two, finite.
        metric: what they are.
    """
    deviation = deviation_interval(values)
    return Spread(metric, tuple(values), deviation, seed_difference(deviation.mean, len(values)))
