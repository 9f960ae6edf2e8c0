"""The progress of a sweep, read from its stores and from the disk, whether or not a process runs it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config.objective import LOSS, Objective
from harness.config.spec import SweepSpec
from harness.core.outcomes import Outcome, Phase
from harness.search.storage import read_studies
from harness.tracking import (
    SweepState,
    UnfinishedRun,
    confirm_outcomes,
    find_sweep,
    left_out_lines,
    unfinished_runs,
)


@dataclass(frozen=True)
class ArmStatus:
    """Counts of one arm's runs.

    Attributes:
        arm: its name.
        explored, trials: finished trials of its search, and planned ones.
        confirmed, seeds: confirm runs with a result, and the fewest that are planned.
        running, interrupted, failed: trials and confirm runs together. A failed one is replaced or counts as left.
        left: runs that have not started.
        best: lowest final value of the sweep's objective in a trial or, without a search, in a confirm run; None
            before there is one.
    """

    arm: str
    explored: int
    trials: int
    confirmed: int
    seeds: int
    running: int
    interrupted: int
    failed: int
    left: int
    best: float | None


@dataclass(frozen=True)
class Status:
    """The progress of a sweep.

    Attributes:
        sweep: its parent run in MLflow; None: it has not started.
        arms: in the order of the spec.
        open_runs: running and interrupted runs, with their points.
        unsent: finished runs that are not completely stored in MLflow; 0 while a process runs the sweep.
        now: seconds since 1970.
        objective: of the sweep.
        left_out: one line per kind of thing (sweeps, runs, trials) that cannot be read and is left out.
    """

    sweep: SweepState | None
    arms: Sequence[ArmStatus]
    open_runs: Sequence[UnfinishedRun]
    unsent: int
    now: float
    objective: Objective = LOSS
    left_out: Sequence[str] = ()


def read_status(
    spec: SweepSpec, identity: str, tracking: str | None, storage: str, folder: Path, now: float | None = None
) -> Status:
    """Read the progress of a sweep; writes nothing.

    Args:
        spec: the sweep.
        identity: see `Datasets.identity`.
        tracking: MLflow's address; None: the default.
        storage: Optuna's address.
        folder: of the sweep's unfinished runs.
        now: seconds since 1970; None: the clock's.

    Raises:
        TrackingError: MLflow cannot be read.
        StorageError: Optuna's storage cannot be read.
    """
    now = time.time() if now is None else now
    sweeps, runs, left_trials = list[str](), list[str](), list[str]()  # those that are left out
    sweep = find_sweep(spec.name, identity, tracking, sweeps.append)
    if sweep is None:
        arms = [_arm_status(arm.name, spec, (), (), (), False) for arm in spec.arms()]
        return Status(None, arms, [], 0, now, spec.objective, left_out_lines(sweep=sweeps))
    alive = bool(sweep.owner)
    trials = read_studies(storage, spec, identity, left_trials.append)
    on_disk = unfinished_runs(folder, runs.append)
    confirms: dict[str, list[_Confirm]] = {}
    measured = confirm_outcomes(sweep.run_id, spec.objective.metric, tracking, runs.append, spec.seeds)
    for arm, outcome, value in measured:
        confirms.setdefault(arm, []).append((outcome, value))
    arms = [
        _arm_status(arm.name, spec, [*trials.get(arm.name, {}).values()], confirms.get(arm.name, ()), on_disk, alive)
        for arm in spec.arms()
    ]
    return Status(
        sweep=sweep,
        arms=arms,
        open_runs=[run for run in on_disk if run.outcome is None],
        unsent=sum(run.outcome is not None for run in on_disk) if not alive else 0,
        now=now,
        objective=spec.objective,
        left_out=left_out_lines(sweep=sweeps, run=runs, trial=left_trials),
    )


_StudyTrial = tuple[str, float | None]  # Optuna's state, objective value
_Confirm = tuple[str | None, float | None]  # outcome (None while it runs), final value of the objective


def _arm_status(
    name: str,
    spec: SweepSpec,
    trials: Sequence[_StudyTrial],
    confirms: Sequence[_Confirm],
    on_disk: Sequence[UnfinishedRun],
    alive: bool,
) -> ArmStatus:
    """Count an arm's runs. Confirm runs on disk are newer than what MLflow has of them, so they count instead.

    Args:
        name: of the arm.
        spec: the sweep.
        trials: of the arm's study.
        confirms: the arm's confirm runs in MLflow.
        on_disk: unfinished runs of all arms.
        alive: whether a process runs the sweep.
    """
    states = Counter(state for state, _ in trials)
    explored = states["COMPLETE"] + states["PRUNED"]
    stored = Counter(outcome for outcome, _ in confirms)
    confirms_on_disk = [run for run in on_disk if run.info.arm == name and run.info.phase is Phase.CONFIRM]
    confirmed = sum(stored[outcome] for outcome in Outcome if outcome.is_result)
    confirmed += sum(run.outcome is not None and run.outcome.is_result for run in confirms_on_disk)
    open_confirms = sum(run.outcome is None for run in confirms_on_disk)
    open_trials = states["RUNNING"] + states["WAITING"]
    running = states["RUNNING"] + open_confirms if alive else 0
    seeds = spec.looks[0]
    if spec.tune:
        losses = [value for state, value in trials if state == "COMPLETE" and value is not None]
    else:
        losses = [loss for outcome, loss in confirms if outcome == Outcome.COMPLETE and loss is not None]
    return ArmStatus(
        arm=name,
        explored=explored,
        trials=spec.trials,
        confirmed=confirmed,
        seeds=seeds,
        running=running,
        interrupted=open_trials + open_confirms - running,
        failed=states["FAIL"] + stored[Outcome.FAILED] + stored[Outcome.OOM],
        left=max(0, spec.trials - explored - open_trials) + max(0, seeds - confirmed - open_confirms),
        best=min(losses, default=None),
    )
