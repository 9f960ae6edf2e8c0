"""The final values of a full grid of arms, with one axis per factor and one for the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.columns import numbers
from harness.analysis.comparison import comparability, confirm_seeds, verdict_runs
from harness.analysis.divergence import DIVERGED, counted_runs
from harness.config.fields import arm_name, value_key
from harness.config.labels import SettingLabels, setting_labels

if TYPE_CHECKING:
    from harness.tracking import SweepRecord

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """The final values of all arms, with one axis per factor in the order of the spec, and one for the seeds.

    Attributes:
        levels: path of a factor → its two or more values, in the order of the spec.
        baseline: for each factor the index of the baseline's level.
        seeds: the seeds of all confirm runs, however they ended, increasing.
        values: shape (levels of the first factor, …, seeds); NaN where an arm has no result with a seed.
        diverged: the same shape; whether that run diverged, so that its value is that of an untrained model.
        run_ids: the same shape; empty where there is no such run.
        arms: names, shape (levels of the first factor, …).
    """

    levels: dict[str, tuple[Any, ...]]
    baseline: tuple[int, ...]
    seeds: tuple[int, ...]
    values: Floats
    diverged: npt.NDArray[np.bool_]
    run_ids: npt.NDArray[np.object_]
    arms: npt.NDArray[np.object_]

    @cached_property
    def labels(self) -> Mapping[str, SettingLabels]:
        """Path of a factor → how its levels are written in labels of arms."""
        return setting_labels(self.levels)

    def word(self, axis: int) -> str:
        """A factor as in the labels of arms: `drop`."""
        return self.labels[list(self.levels)[axis]].word

    def text(self, axis: int, level: int) -> str:
        """A level as in the labels of arms: `0.1`."""
        path = list(self.levels)[axis]
        return self.labels[path].text(self.levels[path][level])

    def name(self, axis: int, level: int) -> str:
        """A factor and its level as in the labels of arms: `drop 0.1`."""
        path = list(self.levels)[axis]
        return self.labels[path].of(self.levels[path][level])

    @property
    def trained(self) -> Grid:
        """The same without the values of diverged runs."""
        return replace(self, values=np.where(self.diverged, math.nan, self.values))

    def others(self, axis: int) -> list[int]:
        """The indices of a factor's levels other than the baseline's."""
        return [level for level in range(self.values.shape[axis]) if level != self.baseline[axis]]


def grid(runs: pd.DataFrame, record: SweepRecord, metric: str) -> Grid | None:
    """Arrange the verdict runs of a sweep by its factors.

    Args:
        runs: the runs of one sweep, as `load_runs` returns them.
        record: the sweep.
        metric: a metric of the validation split.

    Returns:
        None if fewer than two of the compared paths have two levels, or if arms are equal (an A/A sweep).

    Raises:
        ValueError: the metric does not compare these arms, or does not belong to the validation split.
    """
    chosen = verdict_runs(runs)
    found = grid_of(counted_runs(runs, chosen), confirm_seeds(runs), record, metric)
    if found is not None:
        _check(runs, chosen, metric)
    return found


def grid_of(counted: pd.DataFrame, seeds: Sequence[int], record: SweepRecord, metric: str) -> Grid | None:
    """`grid` for runs that are already selected.

    Args:
        counted: as `harness.analysis.divergence.counted_runs` returns them.
        seeds: as `harness.analysis.comparison.confirm_seeds` returns them.
        record, metric: as for `grid`.
    """
    keys = {arm.name: tuple(value_key(arm.values.get(path)) for path in record.compare) for arm in record.arms}
    axes = [axis for axis in range(len(record.compare)) if len({key[axis] for key in keys.values()}) > 1]
    if len(axes) < 2 or len(set(keys.values())) < len(record.arms):
        return None
    order = [list(dict.fromkeys(key[axis] for key in keys.values())) for axis in axes]
    place = {
        name: tuple(known.index(key[axis]) for known, axis in zip(order, axes, strict=True))
        for name, key in keys.items()
    }
    shape = tuple(len(known) for known in order)
    levels: dict[str, tuple[Any, ...]] = {}
    for i, axis in enumerate(axes):
        path = record.compare[axis]
        values = {place[arm.name][i]: arm.values.get(path) for arm in record.arms}
        levels[path] = tuple(values[level] for level in range(shape[i]))
    arms = np.empty(shape, dtype=object)
    for at in np.ndindex(shape):  # a combination without an arm gets the name its arm would have
        arms[at] = arm_name({path: values[i] for i, (path, values) in zip(at, levels.items(), strict=True)})
    for name, at in place.items():
        arms[at] = name
    final = np.full((*shape, len(seeds)), math.nan)
    run_ids = np.full((*shape, len(seeds)), "", dtype=object)
    diverged = np.zeros(final.shape, dtype=bool)
    columns = (counted["arm"], counted["seed"], counted["run_id"], numbers(counted, metric), counted[DIVERGED])
    for arm, seed, run_id, value, lost in zip(*columns, strict=True):
        if arm in place and (lost or math.isfinite(value)):
            cell = (*place[arm], seeds.index(int(seed)))
            final[cell], run_ids[cell], diverged[cell] = value, str(run_id), bool(lost)
    return Grid(levels, place[record.baseline], tuple(seeds), final, diverged, run_ids, arms)


def _check(runs: pd.DataFrame, chosen: pd.DataFrame, metric: str) -> None:
    if not metric.startswith("val/"):
        raise ValueError(f"metric: found {metric!r}; allowed: a metric of the validation split, such as val/loss")
    basis = comparability(runs, chosen)
    if basis.reason and not (basis.ranked and metric == basis.metric):
        raise ValueError(f"metric: found {metric!r}. {basis.reason}")
