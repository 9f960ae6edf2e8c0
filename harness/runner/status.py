"""How far a sweep is, read from its stores and its folder alone: also while another process runs it, also after it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.config.spec import SweepSpec
from harness.console.cli import out, show_table
from harness.console.text import clock
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase
from harness.runner.describe import why_anew
from harness.search.study import read_studies
from harness.tracking import SweepState, UnfinishedRun, find_sweep, load_runs, unfinished_runs

if TYPE_CHECKING:
    from harness.data import Dataset

HEADINGS: Final = ("Arm", "Explored", "Confirmed", "Running", "Interrupted", "Failed", "Left", "Best val loss")


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

    @property
    def cells(self) -> tuple[str, ...]:
        """As `HEADINGS` has them."""
        counts = (self.running, self.interrupted, self.failed, self.left)
        best = "–" if self.best is None else f"{self.best:.4f}"
        done = (f"{self.explored}/{self.trials}", f"{self.confirmed}/{self.seeds}")
        return (self.arm, *done, *map(str, counts), best)


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

    @property
    def lines(self) -> list[str]:
        """What there is to say beside the table."""
        if self.sweep is None:
            return ["not begun"]
        said = [self._state()]
        for run in self.open_runs:
            if run.points:
                last = run.points[-1]
                losses = [point.curve_loss for point in run.points if point.curve_loss is not None]
                loss = f"  val loss {losses[-1]:.4f}" if losses else ""
                said.append(f"  {run.info.name}  {last.progress:4.0%}  {last.tokens:,} tokens{loss}")
            else:
                said.append(f"  {run.info.name}  has not measured anything yet")
        if self.unsent:
            said.append(f"{self.unsent} ended run{'s' * (self.unsent > 1)} not yet wholly in MLflow")
        return said

    def _state(self) -> str:
        assert self.sweep is not None
        if self.sweep.holder:
            ago = clock(self.now - self.sweep.opened / 1000)
            return f"running for {ago}, by process {self.sweep.holder}"
        if self.sweep.status == "RUNNING":
            return "not running: its process ended without closing it; the same command goes on"
        if self.sweep.outcome == Outcome.COMPLETE:
            return "complete" if not any(arm.left for arm in self.arms) else "complete as it was asked for then"
        return f"not running: {self.sweep.outcome}; the same command goes on"


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
    alive = bool(sweep and sweep.holder)
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


def show_status(
    spec: SweepSpec, identity: str, data: Dataset, tracking: str | None, storage: str, folder: Path
) -> None:
    """Print how far a sweep is, from its stores alone; `data` is that of its baseline."""
    status = read_status(spec, identity, tracking, storage, folder)
    out.print(spec.title, style="bold", soft_wrap=True)
    if status.sweep is not None:
        show_table([HEADINGS, *(arm.cells for arm in status.arms)])
    elif why := why_anew(spec, data, tracking):
        out.print(why, soft_wrap=True)
    for line in status.lines:
        out.print(line, soft_wrap=True)
