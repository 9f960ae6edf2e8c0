"""The state of a running sweep as the screen shows it: arms, running trials, counts, time left. Draws nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from harness.config.labels import labelled
from harness.config.objective import LOSS, Objective, curve_value
from harness.console.eta import TimeLeft, time_left
from harness.core import metrics
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase

_MIN_SHARE: Final = 0.05  # share of its work that a run must have done before its speed is used


@dataclass
class ArmTally:
    """Counts of one arm, over this process and earlier ones.

    Attributes:
        name: of the arm.
        trials, seeds: explore and confirm runs that are planned.
        explored, confirmed: those that are done.
        best: lowest final value of a trial, in the metric of the sweep's objective; None before there is one.
        results: final values of the confirm runs, in the same metric.
        label, code: short names of the arm for people; empty: its name is short enough.
    """

    name: str
    trials: int
    seeds: int
    explored: int = 0
    confirmed: int = 0
    best: float | None = None
    results: list[float] = field(default_factory=list)
    label: str = ""
    code: str = ""

    @property
    def mean_result(self) -> float | None:
        """The mean over confirm runs."""
        return sum(self.results) / len(self.results) if self.results else None

    def add(self, phase: Phase, outcome: Outcome, value: float | None) -> None:
        """Count a run that has finished."""
        complete = outcome is Outcome.COMPLETE and value is not None
        if phase is Phase.CONFIRM:
            self.confirmed += outcome.is_result
            self.results += [value] if complete and value is not None else []
        else:
            self.explored += outcome.is_result or outcome is Outcome.PRUNED
            if complete and value is not None:
                self.best = value if self.best is None else min(self.best, value)


@dataclass
class RunProgress:
    """One run that trains.

    Attributes:
        name, arm, phase: of the run.
        work: of the whole run; FLOPs, or seconds if its budget is in seconds.
        started: when, on the state's clock.
        warm: whether its worker was running already. Otherwise the clock starts at the first point.
        last: its newest point.
        objective: of the sweep.
        train_loss: the newest.
        value: the newest value of the objective on validation text.
        sampled: whether `value` was measured on a sample of the split.
        resumed_from: share of the budget that was spent before this process trained it.
        label: of the arm; empty: its name.
    """

    name: str
    arm: str
    phase: Phase
    work: float
    started: float
    warm: bool = True
    last: Point | None = None
    train_loss: float | None = None
    value: float | None = None
    sampled: bool = False
    resumed_from: float = 0.0
    objective: Objective = LOSS
    label: str = ""

    @property
    def shown(self) -> str:
        """Its name with the arm's label, for people."""
        return labelled(self.name, self.arm, self.label) if self.label else self.name

    @property
    def val_name(self) -> str:
        """What to call `value` beside a training loss: `val`, `val sample`, `val bits/byte`."""
        unit = "" if self.objective.unit == "loss" else f" {self.objective.unit}"
        return ("val sample" if self.sampled else "val") + unit

    @property
    def full_name(self) -> str:
        """What to call `value` by itself: `val loss`, `val bits/byte`."""
        return self.val_name + (" loss" if self.objective.unit == "loss" else "")

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        return self.last.progress if self.last else 0.0

    @property
    def done(self) -> float:
        """Share of the budget that was spent since `started`."""
        return self.progress - self.resumed_from

    def add(self, point: Point, now: float) -> None:
        """Update with a new point."""
        if self.last is None:
            self.resumed_from = point.progress if point.step else 0.0
            self.started = self.started if self.warm else now
        self.last = point
        self.train_loss = point.metrics.get(metrics.TRAIN_LOSS, self.train_loss)
        if point.evaluated:  # the final evaluation always covers the whole split
            metric = self.objective.metric
            self.value = point.metrics.get(metric, curve_value(point, metric))
            self.sampled = metric not in point.metrics


class SweepState:
    """Follows the events of a sweep.

    Args:
        clock: seconds; for tests.

    Attributes:
        arms: by name, in the order of the spec.
        runs: those that train now, by key.
        total: runs of this process, as far as they are known.
        finished: those of them that have finished.
        objective: of the sweep: the metric of all its values.
        per_run: seconds to record a run, one after the other.
        at_end: seconds after the last run, mostly of the report.
        turnarounds: for each finished run, the seconds of its worker besides steps and evaluations.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = clock
        self.arms: dict[str, ArmTally] = {}
        self.runs: dict[int, RunProgress] = {}
        self.total = 0
        self.finished = 0
        self.objective = LOSS
        self.per_run = 0.0
        self.at_end = 0.0
        self.turnarounds: list[float] = []
        self._waiting_work = 0.0  # of runs that have not started
        self._speeds: list[tuple[float, float]] = []  # (work, seconds) of finished runs
        self._parallel = 0  # most runs that trained at once

    def sweep_started(
        self, total: int, work: float, arms: Sequence[ArmTally] = (), objective: Objective = LOSS
    ) -> None:
        """Begin to count: `total` runs in the plan, with `work` in all."""
        self.objective = objective
        self.total, self._waiting_work = total, work
        self.arms = {arm.name: arm for arm in arms}

    def runs_added(self, runs: int, work: float, seeds: Mapping[str, int]) -> None:
        """Add runs to the plan; `seeds`: arm → its planned confirm runs, all together."""
        self.total += runs
        self._waiting_work += work
        for name, count in seeds.items():
            self.arms[name].seeds = count

    def run_started(self, key: int, name: str, work: float, arm: str, phase: Phase) -> None:
        """A run has been submitted to a worker."""
        label = self.arms[arm].label if arm in self.arms else ""
        warm = self.finished > 0
        self.runs[key] = RunProgress(name, arm, phase, work, self.now(), warm, objective=self.objective, label=label)
        self._waiting_work = max(0.0, self._waiting_work - work)
        self._parallel = max(self._parallel, len(self.runs))

    def run_point(self, key: int, point: Point) -> RunProgress:
        """A run has a new point."""
        run = self.runs[key]
        run.add(point, self.now())
        return run

    def run_finished(self, key: int, outcome: Outcome) -> tuple[RunProgress, float]:
        """A run has ended; returns it and the seconds that it took. An interrupted run is left to be resumed."""
        run = self.runs.pop(key)
        seconds = self.now() - run.started
        if outcome is Outcome.INTERRUPTED:
            self._waiting_work += run.work * (1 - run.progress)
        else:
            self.finished += 1
        if run.done >= _MIN_SHARE:
            self._speeds.append((run.work * run.done, seconds))
        if run.last is not None and run.warm and not run.resumed_from and outcome is Outcome.COMPLETE:
            self.turnarounds.append(max(0.0, seconds - run.last.seconds))
        if run.arm in self.arms:
            self.arms[run.arm].add(run.phase, outcome, None if run.sampled else run.value)
        return run, seconds

    def run_lost(self, key: int) -> RunProgress:
        """The worker of a run has died; the run resumes under another key."""
        run = self.runs.pop(key)
        self._waiting_work += run.work
        return run

    def time_left(self) -> TimeLeft | None:
        """Wall time until the sweep is done; None before any run has made progress."""
        now = self.now()
        running = self.runs.values()
        measured = [(run.work * run.done, now - run.started) for run in running if run.done >= _MIN_SHARE]
        waiting = max(0, self.total - self.finished - len(running))
        left = [run.work * (1 - run.progress) for run in running]
        left += [self._waiting_work / waiting] * waiting if waiting else []
        parallel = min(self._parallel, len(left))
        return time_left([*self._speeds, *measured], left, parallel, self.per_run, self.at_end)
