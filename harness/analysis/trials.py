"""The explore trials of each arm as plain values: what was tried, what became of it, how good the best one is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.columns import numbers
from harness.analysis.search_quality import (
    Edge,
    Floats,
    Nearness,
    edges,
    learning_rate_sensitivity,
    nearest_diverged,
    place,
)
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase

_RATE: Final = "train.learning_rate"
_FAILED: Final = (Outcome.OOM, Outcome.FAILED, Outcome.INTERRUPTED)

_UNKNOWN: Final = object()

Space = Mapping[str, Mapping[str, Sequence[Any]]]


@dataclass(frozen=True)
class ArmTrials:
    """The search of one arm. Pruned trials have no result, so they are counted and enter nothing else.

    Attributes:
        arm: its name.
        tune: the space, path → {kind: values}.
        run_ids: every trial, whatever became of it.
        outcomes: outcome → number of trials; "" for those that still run.
        complete: tuned values of each complete trial, path → value.
        losses: their losses, shape (n,).
        diverged: tuned values of each diverged trial.
        initial: loss of an untrained model, in the unit of `losses`; NaN where nothing measured it.
    """

    arm: str
    tune: Space
    run_ids: tuple[str, ...]
    outcomes: Mapping[str, int]
    complete: tuple[Mapping[str, Any], ...]
    losses: Floats
    diverged: tuple[Mapping[str, Any], ...]
    initial: float

    def number_of(self, *outcomes: Outcome) -> int:
        """How many trials ended so; with no outcome, how many still run."""
        return sum(int(self.outcomes.get(kind, 0)) for kind in outcomes or ("",))

    @property
    def failed(self) -> int:
        """Trials that ended for want of memory, by an exception or by the person."""
        return self.number_of(*_FAILED)

    @property
    def ended(self) -> int:
        """Trials that came to an end of their own: complete, pruned or diverged."""
        return self.number_of(Outcome.COMPLETE, Outcome.PRUNED, Outcome.DIVERGED)

    @property
    def counted(self) -> Floats:
        """Losses of complete trials and, for each diverged one, that of an untrained model; shape (n,)."""
        unlearned = self.number_of(Outcome.DIVERGED) if math.isfinite(self.initial) else 0
        return np.concatenate([self.losses, np.full(unlearned, self.initial)])

    @property
    def best(self) -> Mapping[str, Any] | None:
        """Tuned values of the complete trial of lowest loss."""
        return self.complete[int(np.argmin(self.losses))] if self.complete else None

    @property
    def edges(self) -> dict[str, Edge]:
        """The dimensions in which the best trial lies at an edge, path → edge."""
        return {edge.path: edge for edge in edges(self.complete, self.losses, self.tune)}

    @property
    def nearness(self) -> Nearness | None:
        """How near diverged trials come to the best one."""
        return nearest_diverged(self.complete, self.losses, self.diverged, self.tune)

    @property
    def sensitivity(self) -> float:
        """Learning-rate sensitivity over the searched range of rates, in the unit of `losses`; NaN without a result."""
        rates = rate_range(self.tune)
        if rates is None or not self.complete or not math.isfinite(self.initial):
            return math.nan
        tried = [float(trial[_RATE]) for trial in (*self.complete, *self.diverged)]
        losses = np.concatenate([self.losses, np.full(len(self.diverged), math.nan)])
        return learning_rate_sensitivity(tried, losses, self.initial, *rates)


def rate_range(tune: Space) -> tuple[float, float] | None:
    """Lowest and highest learning rate that every arm was searched over; None where it is not tuned or fixed."""
    values = [value for options in tune.get(_RATE, {}).values() for value in options]
    low, high = (float(min(values)), float(max(values))) if values else (0.0, 0.0)
    return (low, high) if 0 < low < high else None


def has_order(dimension: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a dimension has a low and a high end: all but choices among two options or among words."""
    (values,) = dimension.values()
    return place(values[0], dimension) is not None


def arm_trials(
    runs: pd.DataFrame, arms: Sequence[str], tune: Space, metric: str = metrics.VAL_LOSS
) -> dict[str, ArmTrials]:
    """The explore trials of every arm, none for one that was not searched.

    Args:
        runs: as `load_runs` gives them.
        arms: names, in order.
        tune: path → {kind: values}, as the spec writes it.
        metric: what the arms are compared by.
    """
    explored = runs[runs["phase"] == Phase.EXPLORE]
    typical = _initial(explored, metric)
    found = {}
    for arm in arms:
        mine = explored[explored["arm"] == arm]
        done = mine[(mine["outcome"] == Outcome.COMPLETE) & np.isfinite(numbers(mine, metric).to_numpy())]
        complete, known = _tuned(done, tune)
        initial = _initial(mine, metric)
        found[arm] = ArmTrials(
            arm=arm,
            tune=tune,
            run_ids=tuple(mine["run_id"].astype(str)),
            outcomes=mine["outcome"].fillna("").value_counts().to_dict(),
            complete=complete,
            losses=numbers(done, metric).to_numpy()[known],
            diverged=_tuned(mine[mine["outcome"] == Outcome.DIVERGED], tune)[0],
            initial=initial if math.isfinite(initial) else typical,
        )
    return found


def _initial(explored: pd.DataFrame, metric: str) -> float:
    """The median loss before training. It is stored in nats, of which bits per byte are a fixed multiple in an arm."""
    wanted = ("initial_val_loss", metrics.VAL_LOSS, metric)
    initial, loss, score = (numbers(explored, name).to_numpy() for name in wanted)
    start = initial[np.isfinite(initial)]
    if metric == metrics.VAL_LOSS:
        return float(np.median(start)) if start.size else math.nan
    rates = (score / loss)[np.isfinite(score) & np.isfinite(loss)]
    return float(np.median(start) * np.median(rates)) if start.size and rates.size else math.nan


def _tuned(runs: pd.DataFrame, tune: Space) -> tuple[tuple[dict[str, Any], ...], npt.NDArray[np.bool_]]:
    """The tuned values of each run that has a place in the space, and which runs these are."""
    rows = [
        {path: _declared(row.get(path), dimension) for path, dimension in tune.items()}
        for row in runs.to_dict("records")
    ]
    known = [_UNKNOWN not in row.values() for row in rows]
    return tuple(row for row, has in zip(rows, known, strict=True) if has), np.array(known, dtype=bool)


def _declared(value: Any, dimension: Mapping[str, Sequence[Any]]) -> Any:
    """A run's value, of a choice the option it stands for; `_UNKNOWN` where a run lacks it or it is none of them."""
    ((kind, values),) = dimension.items()
    if kind == "choice":
        index = option_index(value, values)
        return _UNKNOWN if index is None else values[index]
    try:
        return value if math.isfinite(place(value, dimension) or 0.0) else _UNKNOWN
    except (TypeError, ValueError):
        return _UNKNOWN


def option_index(value: Any, options: Sequence[Any]) -> int | None:
    """The place of a run's value among the options of a choice: frames have NaN for null, and types of their own."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return next((index for index, option in enumerate(options) if option is None), None)
    words = (bool, str)
    same = (str(value) == str(option) if isinstance(option, words) else value == option for option in options)
    return next((index for index, found in enumerate(same) if found), None)
