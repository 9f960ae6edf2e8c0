"""The explore trials of each arm as plain values: tuned values, outcomes and losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from harness.config.objective import TOKENS
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase

_RATE: Final = "train.learning_rate"
_FAILED: Final = (Outcome.OOM, Outcome.FAILED, Outcome.INTERRUPTED)

_UNKNOWN: Final = object()

Space = Mapping[str, Mapping[str, Sequence[Any]]]


@dataclass(frozen=True)
class ArmTrials:
    """The search of one arm. Pruned trials have no result, so they are only counted.

    Attributes:
        arm: name of the arm.
        tune: the search space, path → {kind: values}.
        run_ids: of all trials, however they ended.
        outcomes: outcome → number of trials; "" for trials that are still running.
        complete: tuned values of each complete trial, path → value.
        losses: their losses, shape (n,).
        diverged: tuned values of each diverged trial.
        initial: loss of an untrained model, in the unit of `losses`; NaN if it was not measured.
        random: trials whose values no result decided; None if it was not recorded.
        untrained: the same for each diverged trial, with its own tokens, as far as it is known.
    """

    arm: str
    tune: Space
    run_ids: tuple[str, ...]
    outcomes: Mapping[str, int]
    complete: tuple[Mapping[str, Any], ...]
    losses: Floats
    diverged: tuple[Mapping[str, Any], ...]
    initial: float
    untrained: Floats
    random: int | None = None

    def number_of(self, *outcomes: Outcome) -> int:
        """The number of trials with these outcomes; without arguments, of those that are still running."""
        return sum(int(self.outcomes.get(kind, 0)) for kind in outcomes or ("",))

    @property
    def failed(self) -> int:
        """The number of trials that ran out of memory, raised an exception or were interrupted."""
        return self.number_of(*_FAILED)

    @property
    def ended(self) -> int:
        """The number of trials that count as finished: complete, pruned or diverged."""
        return self.number_of(Outcome.COMPLETE, Outcome.PRUNED, Outcome.DIVERGED)

    @cached_property
    def counted(self) -> Floats:
        """Losses of complete trials and, for each diverged one, the loss of an untrained model; shape (n,)."""
        return np.concatenate([self.losses, self.untrained])

    @property
    def best(self) -> Mapping[str, Any] | None:
        """Tuned values of the complete trial with the lowest loss."""
        return self.complete[int(np.argmin(self.losses))] if self.complete else None

    @cached_property
    def edges(self) -> dict[str, Edge]:
        """The dimensions where the best trial lies at an edge, path → edge."""
        return {edge.path: edge for edge in edges(self.complete, self.losses, self.tune)}

    @cached_property
    def nearness(self) -> Nearness | None:
        """The distance of the best trial to the nearest diverged one."""
        return nearest_diverged(self.complete, self.losses, self.diverged, self.tune)

    @cached_property
    def sensitivity(self) -> float:
        """Learning-rate sensitivity over the searched range, in the unit of `losses`; NaN where it is not defined."""
        rates = rate_range(self.tune)
        if rates is None or not self.complete or not math.isfinite(self.initial):
            return math.nan
        tried = [float(trial[_RATE]) for trial in (*self.complete, *self.diverged)]
        losses = np.concatenate([self.losses, np.full(len(self.diverged), math.nan)])
        return learning_rate_sensitivity(tried, losses, self.initial, *rates)


def rate_range(tune: Space) -> tuple[float, float] | None:
    """Lowest and highest learning rate of the search space; None if it is not tuned or has only one value."""
    values = [value for options in tune.get(_RATE, {}).values() for value in options]
    low, high = (float(min(values)), float(max(values))) if values else (0.0, 0.0)
    return (low, high) if 0 < low < high else None


def has_order(dimension: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a dimension has a low and a high end: all except choices of two options or of words."""
    (values,) = dimension.values()
    return place(values[0], dimension) is not None


def arm_trials(
    runs: pd.DataFrame, arms: Sequence[str], tune: Space, metric: str = metrics.VAL_LOSS
) -> dict[str, ArmTrials]:
    """The explore trials of every arm; empty for an arm that was not searched.

    Args:
        runs: as `load_runs` returns them.
        arms: names, in order.
        tune: path → {kind: values}, as the spec writes it.
        metric: the metric that compares the arms.
    """
    explored = runs[runs["phase"] == Phase.EXPLORE]
    typical = _initial(explored, metric)
    found = {}
    for arm in arms:
        mine = explored[explored["arm"] == arm]
        done = mine[(mine["outcome"] == Outcome.COMPLETE) & np.isfinite(numbers(mine, metric).to_numpy())]
        complete, known = _tuned(done, tune)
        initial = _initial(mine, metric)
        initial = initial if math.isfinite(initial) else typical
        found[arm] = ArmTrials(
            arm=arm,
            tune=tune,
            run_ids=tuple(mine["run_id"].astype(str)),
            outcomes=mine["outcome"].fillna("").value_counts().to_dict(),
            complete=complete,
            losses=numbers(done, metric).to_numpy()[known],
            diverged=_tuned(mine[mine["outcome"] == Outcome.DIVERGED], tune)[0],
            initial=initial,
            untrained=_untrained(mine, metric, initial),
            random=_random(mine),
        )
    return found


def _initial(explored: pd.DataFrame, metric: str) -> float:
    """The median loss before training, converted from nats: with equal tokens, bits per byte are a multiple of it."""
    wanted = ("initial_val_loss", metrics.VAL_LOSS, metric)
    initial, loss, score = (numbers(explored, name).to_numpy() for name in wanted)
    start = initial[np.isfinite(initial)]
    if metric == metrics.VAL_LOSS:
        return float(np.median(start)) if start.size else math.nan
    rates = (score / loss)[np.isfinite(score) & np.isfinite(loss)]
    return float(np.median(start) * np.median(rates)) if start.size and rates.size else math.nan


def _random(mine: pd.DataFrame) -> int | None:
    if "point" not in mine or mine["point"].isna().any():
        return None
    return int((mine["point"] == "random").sum())


def _untrained(mine: pd.DataFrame, metric: str, typical: float) -> Floats:
    """The loss before training for each diverged trial of an arm: that of the trials with the same tokens."""
    tokens = mine.reindex(columns=list(TOKENS)).astype("string").fillna("")
    found: list[float] = []
    for _, same in mine.groupby([tokens[name] for name in TOKENS], sort=False):
        own = _initial(same, metric)
        lost = int((same["outcome"] == Outcome.DIVERGED).sum())
        found += [own if math.isfinite(own) else typical] * lost
    values = np.array(found, dtype=np.float64)
    return values[np.isfinite(values)]


def _tuned(runs: pd.DataFrame, tune: Space) -> tuple[tuple[dict[str, Any], ...], npt.NDArray[np.bool_]]:
    """The tuned values of the runs that lie in the search space, and a mask of these runs."""
    rows = [
        {path: _declared(row.get(path), dimension) for path, dimension in tune.items()}
        for row in runs.to_dict("records")
    ]
    known = [_UNKNOWN not in row.values() for row in rows]
    return tuple(row for row, has in zip(rows, known, strict=True) if has), np.array(known, dtype=bool)


def _declared(value: Any, dimension: Mapping[str, Sequence[Any]]) -> Any:
    """A run's value, for a choice as the spec's option; `_UNKNOWN` if it is missing or not in the search space."""
    ((kind, values),) = dimension.items()
    if kind == "choice":
        index = option_index(value, values)
        return _UNKNOWN if index is None else values[index]
    try:
        return value if math.isfinite(place(value, dimension) or 0.0) else _UNKNOWN
    except (TypeError, ValueError):
        return _UNKNOWN


def option_index(value: Any, options: Sequence[Any]) -> int | None:
    """The index of a run's value among the options of a choice, or None. Frames store null as NaN, and other types."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return next((index for index, option in enumerate(options) if option is None), None)
    words = (bool, str)
    same = (str(value) == str(option) if isinstance(option, words) else value == option for option in options)
    return next((index for index, found in enumerate(same) if found), None)
