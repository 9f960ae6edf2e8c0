"""Seed noise: the spread of one configuration's results over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.statistics import (
    Interval,
    deviation_interval,
    mean_interval,
    seed_difference,
)
from harness.core import metrics


@dataclass(frozen=True)
class Spread:
    """The spread of one metric over the seeds of one configuration.

    Attributes:
        metric: name of the metric.
        values: one per seed, in the metric's unit.
        deviation: standard deviation with its 95 % interval.
        two_runs: 95 % prediction bound for the absolute difference of two new runs with different seeds.
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
        metric: name of the metric.
    """
    deviation = deviation_interval(values)
    return Spread(metric, tuple(values), deviation, seed_difference(deviation.mean, len(values)))
