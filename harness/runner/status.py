"""How far a sweep is, read from its stores and its folder alone: also while another process runs it, also after it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config.spec import SweepSpec
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase
from harness.search.study import read_studies
from harness.tracking import SweepState, UnfinishedRun, find_sweep, load_runs, unfinished_runs


@dataclass(frozen=True)
class ArmStatus:
    """One arm: how many of its runs are done, under way, or still to come.

    Attributes:
        arm: its name.
        explored, trials: finished trials of its search, and how many there are to be.
        confirmed, seeds: confirm runs with a result, and how many there are to be at least.
        running, interrupted, failed: runs of both kinds. A failed one has another in its place or is left.
        left: runs that have not begun.
        best: lowest validation loss at the end of a trial or, without a search, of a confirm run; None before there
            is one.
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
    """A sweep's state.

    Attributes:
        sweep: what MLflow knows of it; None where it has not begun.
        arms: in the order of the spec.
        open_runs: interrupted and running ones, with what they have measured.
        unsent: runs that have ended, of which MLflow has not been told everything.
        now: seconds since 1970.
    """

    sweep: SweepState | None
    arms: Sequence[ArmStatus]
    open_runs: Sequence[UnfinishedRun]
    unsent: int
    now: float


def read_status(
    spec: SweepSpec, identity: str, tracking: str | None, storage: str, folder: Path, now: float | None = None
) -> Status:
    """The state of a sweep; writes nothing.

    Args:
        spec, identity: which.
        tracking: MLflow's address, or None for the default.
        storage: Optuna's.
        folder: of the runs' folders.
        now: seconds since 1970; by default the clock's.
    """
    now = time.time() if now is None else now
    sweep = find_sweep(spec.name, identity, tracking)
    studies = read_studies(storage, spec, identity) if sweep else {}
    kept = unfinished_runs(folder) if sweep else []
    confirms: dict[str, list[tuple[str, float | None]]] = {}
    if sweep:
        runs = load_runs(spec.name, tracking, sweep.run_id)
        for _, run in runs[runs["phase"] == Phase.CONFIRM].iterrows():
            loss = run.get(metrics.VAL_LOSS)
            confirms.setdefault(str(run["arm"]), []).append((str(run["outcome"]), loss))
    alive = bool(sweep and sweep.owner)
    arms = [
        _arm(arm.name, spec, studies.get(arm.name, {}), confirms.get(arm.name, []), kept, alive) for arm in spec.arms()
    ]
    return Status(
        sweep=sweep,
        arms=arms,
        open_runs=[run for run in kept if run.outcome is None],
        unsent=sum(run.outcome is not None for run in kept) if not alive else 0,
        now=now,
    )


def _arm(
    name: str,
    spec: SweepSpec,
    trials: Mapping[int, tuple[str, float | None]],
    confirms: Sequence[tuple[str, float | None]],
    kept: Sequence[UnfinishedRun],
    alive: bool,
) -> ArmStatus:
    """Count an arm's runs. What is on disk is newer than what MLflow knows, so it is believed first."""
    states = Counter(state for state, _ in trials.values())
    explored = states["COMPLETE"] + states["PRUNED"]
    of_arm = [run for run in kept if run.info.arm == name]
    confirming = [run for run in of_arm if run.info.phase is Phase.CONFIRM]
    sent = Counter(outcome for outcome, _ in confirms)
    confirmed = sum(sent[outcome] for outcome in Outcome if outcome.is_result)
    confirmed += sum(run.outcome is not None and run.outcome.is_result for run in confirming)
    open_confirms = sum(run.outcome is None for run in confirming)
    going = states["RUNNING"] + states["WAITING"] + open_confirms
    running = states["RUNNING"] + open_confirms if alive else 0
    seeds = spec.looks[0]
    losses = [loss for state, loss in trials.values() if state == "COMPLETE" and loss is not None]
    if not spec.tune:
        losses = [loss for outcome, loss in confirms if outcome == Outcome.COMPLETE and loss is not None]
    return ArmStatus(
        arm=name,
        explored=explored,
        trials=spec.trials,
        confirmed=confirmed,
        seeds=seeds,
        running=running,
        interrupted=going - running,
        failed=states["FAIL"] + sent[Outcome.FAILED] + sent[Outcome.OOM],
        left=max(0, spec.trials - explored - going + open_confirms) + max(0, seeds - confirmed - open_confirms),
        best=min(losses, default=None),
    )
