"""What a sweep tells while it runs: plain lines, only failures, or a live table (`harness.console.live`); and its
log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from rich.console import Console
from rich.text import Text

from harness.console.eta import TimeLeft, time_left
from harness.console.event_log import EventLog
from harness.console.state import ArmTally, Run
from harness.console.text import clock, fitted, left_in_words
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase
from harness.core.text import printable

_MARKS: Final = {
    Outcome.COMPLETE: ("✓", "green"),
    Outcome.PRUNED: ("✂", "yellow"),
    Outcome.DIVERGED: ("∞", "red"),
    Outcome.INTERRUPTED: ("■", "yellow"),
}
_SEEN_FROM: Final = 0.05  # share of its work from which a running run's speed counts


class Screen:
    """Follows a sweep, keeps its log and tells of it in plain lines.

    Args:
        console: where to write.
        log: one line per event.
    """

    def __init__(self, console: Console, log: EventLog | None = None) -> None:
        self.console = console
        self.log = log or EventLog(None)
        self.arms: dict[str, ArmTally] = {}
        self.runs: dict[int, Run] = {}
        self.total = 0
        self.ended = 0
        self._work_left = 0.0  # of runs that have not begun; FLOPs, or seconds for budgets in seconds
        self._seen: list[tuple[float, float]] = []  # work and seconds of runs that have ended
        self._at_once = 0

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh()

    # what happens --------------------------------------------------------------------------------------------

    def sweep_began(self, total: int, work: float, arms: list[ArmTally] | None = None) -> None:
        """Runs to be trained now, how much work they are together, and how far each arm is."""
        self.total, self._work_left = total, work
        self.arms = {arm.name: arm for arm in arms or []}
        self.log.write(f"began {total} runs to train")

    def sweep_grew(self, runs: int, work: float, seeds: Mapping[str, int] | None = None) -> None:
        """There are more runs to be trained than it first seemed; `seeds`: arm → confirm runs there are to be now."""
        self.total += runs
        self._work_left += work
        for name, count in (seeds or {}).items():
            self.arms[name].seeds = count
        self.log.write(f"more runs: {runs}")

    def run_began(self, key: int, name: str, work: float, arm: str = "", phase: Phase = Phase.EXPLORE) -> None:
        """A run was given to a worker."""
        self.runs[key] = Run(name, arm, phase, work, self.ended > 0, time.monotonic())
        self._work_left = max(0.0, self._work_left - work)
        self._at_once = max(self._at_once, len(self.runs))
        self.log.write(f"run {name}")

    def run_point(self, key: int, point: Point) -> None:
        """A run measured something."""
        run = self.runs[key]
        run.take(point, time.monotonic())
        if point.evaluated:
            self.log.write(f"evaluated {run.name}: {self._losses(run)}, {point.tokens:,} tokens, {point.progress:.0%}")
            if 0 < point.progress < 1:  # the start says nothing yet, the end has a line of its own
                self.evaluated(run)

    def run_ended(self, key: int, outcome: Outcome, reason: str = "") -> None:
        """A run ended."""
        run = self.runs.pop(key)
        self.ended += 1
        took = time.monotonic() - run.began
        if run.done >= _SEEN_FROM:
            self._seen.append((run.work * run.done, took))
        if run.arm in self.arms:
            self.arms[run.arm].ended(run.phase, outcome, None if run.sampled else run.val_loss)
        loss = "" if run.val_loss is None else f"{run.val_name} loss {run.val_loss:.4f}"
        because = "" if outcome is Outcome.COMPLETE else str(outcome)
        if reason:
            because += f": {printable(reason.splitlines()[0])}"
        told = "  ".join(filter(None, (loss, clock(took), because)))
        self.log.write(f"ended {outcome} {run.name}  {told}")
        self.tell_end(outcome, run.name, told)

    def run_left(self, key: int) -> None:
        """The worker of a run is gone; the run goes on under another key."""
        run = self.runs.pop(key)
        self._work_left += run.work
        self.log.write(f"lost its worker: {run.name}")

    def note(self, text: str, style: str = "") -> None:
        """Something the person should know."""
        text = printable(text)
        self.log.write(f"note {text}")
        self.console.print(Text(text, style), soft_wrap=not self.console.is_terminal)

    # what is said of it --------------------------------------------------------------------------------------

    def time_left(self) -> TimeLeft | None:
        """Wall time left for the whole sweep; None before any run got anywhere."""
        now = time.monotonic()
        seen = list(self._seen)
        seen += [(run.work * run.done, now - run.began) for run in self.runs.values() if run.done >= _SEEN_FROM]
        waiting = max(0, self.total - self.ended - len(self.runs))
        left = [run.work * (1 - run.progress) for run in self.runs.values()]
        left += [self._work_left / waiting] * waiting if waiting else []
        return time_left(seen, left, min(self._at_once, len(left)))

    def evaluated(self, run: Run) -> None:
        """Say how far a run is; a live table shows it without a line."""
        assert run.last is not None
        told = f"{run.progress:4.0%}  {run.last.tokens:,} tokens  {self._losses(run)}"
        left = f"sweep: {left_in_words(self.time_left())}"
        self.line(Text("  "), run.name, f"  {told}  ({left})")

    def tell_end(self, outcome: Outcome, name: str, told: str) -> None:
        """Say that a run ended."""
        mark, style = _MARKS.get(outcome, ("✗", "red"))
        self.line(Text.assemble((mark, style), f" {self.ended}/{self.total}  "), name, f"  {told}")

    def line(self, start: Text, name: str, rest: str) -> None:
        """Write one line. In a window the name gives way first, then the end; elsewhere nothing does."""
        if self.console.is_terminal:
            room = self.console.width - start.cell_len
            name, rest = fitted(name, rest, room)
        self.console.print(start + Text(name + rest), soft_wrap=True)

    def refresh(self) -> None:
        """Draw anew, where there is something to draw."""

    @staticmethod
    def _losses(run: Run) -> str:
        pairs = (("train", run.train_loss), (run.val_name, run.val_loss))
        return "  ".join(f"{name} {loss:.4f}" for name, loss in pairs if loss is not None)


class QuietScreen(Screen):
    """Says nothing but what failed."""

    def evaluated(self, run: Run) -> None:
        """Nothing."""

    def tell_end(self, outcome: Outcome, name: str, told: str) -> None:
        """Only failures."""
        if outcome.is_failure:
            super().tell_end(outcome, name, told)

    def note(self, text: str, style: str = "") -> None:
        """Into the log only."""
        self.log.write(f"note {text}")
