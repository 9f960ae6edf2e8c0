"""Receives the events of a sweep: updates the state, writes the log, and has a view draw what has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from harness.config.objective import LOSS, Objective
from harness.console.event_log import EventLog
from harness.console.state import ArmTally, RunProgress, SweepState
from harness.console.text import clock, losses
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase
from harness.core.text import printable


class View(Protocol):
    """Draws the state of a sweep. `harness.console.choose` picks one."""

    def open(self) -> None:
        """Start drawing."""

    def close(self) -> None:
        """Stop drawing; what stays on the terminal is final."""

    def message(self, text: str, style: str) -> None:
        """Show one message, with a style of rich's."""

    def run_evaluated(self, run: RunProgress) -> None:
        """A run has been evaluated before its end."""

    def run_finished(self, name: str, outcome: Outcome, summary: str) -> None:
        """A run has finished; `summary`: its loss, its time and why it did not complete."""

    def refresh(self, at_once: bool = False) -> None:
        """The state has changed; draw it now, or soon."""


class Screen:
    """What the controller reports events to.

    Args:
        view: draws `state`.
        state: updated by the events.
        log: gets one line per event.
    """

    def __init__(self, view: View, state: SweepState, log: EventLog) -> None:
        self.view = view
        self.state = state
        self.log = log

    def __enter__(self) -> Screen:
        self.view.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.view.close()

    def sweep_started(
        self, total: int, work: float, arms: Sequence[ArmTally] = (), objective: Objective = LOSS
    ) -> None:
        """A sweep starts training.

        Args:
            total: runs to train now.
            work: of all of them, in the unit of `run_started`.
            arms: what earlier processes have done.
            objective: the metric of the values that are shown, and whether arms can be compared by it.
        """
        self.state.sweep_started(total, work, arms, objective)
        self.log.write(f"started the sweep: {total} runs")

    def runs_added(self, runs: int, work: float, seeds: Mapping[str, int] | None = None) -> None:
        """Add runs to the plan; `seeds`: arm → its planned confirm runs, all together."""
        self.state.runs_added(runs, work, seeds or {})
        self.log.write(f"added runs: {runs}")

    def run_started(self, key: int, name: str, work: float, arm: str = "", phase: Phase = Phase.EXPLORE) -> None:
        """A run has been submitted to a worker; `work`: FLOPs, or seconds if the budget is in seconds."""
        self.state.run_started(key, name, work, arm, phase)
        self.log.write(f"started {name}")
        self.view.refresh(at_once=True)

    def run_point(self, key: int, point: Point) -> None:
        """A run has a new point."""
        run = self.state.run_point(key, point)
        if point.evaluated:
            self.log.write(f"evaluated {run.name}: {losses(run)}, {point.tokens:,} tokens, {point.progress:.0%}")
            if 0 < point.progress < 1:  # run_finished shows the last one
                self.view.run_evaluated(run)
        self.view.refresh()

    def run_finished(self, key: int, outcome: Outcome, reason: str = "") -> None:
        """A run has finished; the first line of `reason` is shown."""
        run, seconds = self.state.run_finished(key, outcome)
        seconds = run.last.seconds if run.last else seconds  # the run's own clock, as in the report
        loss = "" if run.value is None else f"{run.full_name} {run.value:.4f}"
        why = "" if outcome is Outcome.COMPLETE else str(outcome)
        if reason:
            why += f": {printable(reason.splitlines()[0])}"
        summary = "  ".join(filter(None, (loss, clock(seconds), why)))
        self.log.write(f"finished {outcome} {run.name}  {summary}")
        self.view.run_finished(run.shown, outcome, summary)
        self.view.refresh(at_once=True)

    def run_lost(self, key: int) -> None:
        """The worker of a run has died; the run resumes under another key."""
        run = self.state.run_lost(key)
        self.log.write(f"lost the worker of {run.name}")

    def message(self, text: str, style: str = "") -> None:
        """Show a message to the user and log it."""
        text = printable(text)
        self.log.write(f"message {text}")
        self.view.message(text, style)

    def refresh(self) -> None:
        """Draw again, so that times are updated between events."""
        self.view.refresh()
