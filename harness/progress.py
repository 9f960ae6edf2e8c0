"""What the screen shows while a sweep runs: bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from harness import metrics
from harness.metrics import Point
from harness.outcomes import Outcome
from harness.problems import printable

_MARKS = {
    Outcome.COMPLETE: ("✓", "green"),
    Outcome.PRUNED: ("✂", "yellow"),
    Outcome.DIVERGED: ("∞", "red"),
    Outcome.INTERRUPTED: ("■", "yellow"),
}


def clock(seconds: float | None) -> str:
    """`4 s`, `2:05`, `1:02:33`; `–` where it is not known."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass
class _Run:
    name: str
    work: float
    began: float = field(default_factory=time.monotonic)
    last: Point | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    sampled: bool = False  # whether the validation loss is of a sample

    @property
    def val_name(self) -> str:
        return "val sample" if self.sampled else "val"

    @property
    def progress(self) -> float:
        return self.last.progress if self.last else 0.0

    @property
    def seconds_left(self) -> float | None:
        if self.progress < 0.02:
            return None
        return (time.monotonic() - self.began) * (1 - self.progress) / self.progress

    def take(self, point: Point) -> None:
        self.last = point
        self.train_loss = point.metrics.get(metrics.TRAIN_LOSS, self.train_loss)
        if point.evaluated:  # of the whole split where there is one; at the end there is
            self.val_loss = point.metrics.get(metrics.VAL_LOSS, point.curve_loss)
            self.sampled = metrics.VAL_LOSS not in point.metrics


class Screen:
    """Follows a sweep and tells of it in plain lines; `LiveScreen` draws bars instead.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.runs: dict[int, _Run] = {}
        self.total = 0
        self.ended = 0
        self._work_total = 0.0  # in FLOPs, or seconds for budgets in seconds: only shares of it are used
        self._work_done = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh()

    def sweep_began(self, total: int, work: float) -> None:
        """Runs to be trained now, and how much work they are together."""
        self.total, self._work_total = total, work
        self._began = time.monotonic()

    def sweep_grew(self, runs: int, work: float) -> None:
        """There are more runs to be trained than it first seemed."""
        self.total += runs
        self._work_total += work

    def run_began(self, key: int, name: str, work: float) -> None:
        """A run was given to a worker."""
        self.runs[key] = _Run(name, work)

    def run_point(self, key: int, point: Point) -> None:
        """A run measured something."""
        run = self.runs[key]
        run.take(point)
        if point.evaluated and 0 < point.progress < 1:  # the start says nothing yet, the end has a line of its own
            self.evaluated(run)

    def run_ended(self, key: int, outcome: Outcome, reason: str = "") -> None:
        """A run ended."""
        run = self.runs.pop(key)
        self.ended += 1
        self._work_done += run.work
        mark, style = _MARKS.get(outcome, ("✗", "red"))
        loss = "" if run.val_loss is None else f"  {run.val_name} loss {run.val_loss:.4f}"
        because = f"  {outcome}" if outcome is not Outcome.COMPLETE else ""
        if reason:
            because += f": {printable(reason.splitlines()[0])}"
        took = clock(time.monotonic() - run.began)
        line = Text.assemble((mark, style), f" {self.ended}/{self.total}  {run.name}{loss}  {took}{because}")
        self.console.print(line, soft_wrap=True)

    def run_left(self, key: int) -> None:
        """The worker of a run is gone; the run begins again under another key."""
        del self.runs[key]

    def note(self, text: str) -> None:
        """Something the person should know."""
        self.console.print(Text(printable(text)), soft_wrap=True)

    def seconds_left(self) -> float | None:
        """Wall time left for the whole sweep, from the share of the work done so far; None before 2 %."""
        done = self._work_done + sum(run.work * run.progress for run in self.runs.values())
        if self._work_total <= 0 or done < 0.02 * self._work_total:
            return None
        return (time.monotonic() - self._began) * (self._work_total - done) / done

    def evaluated(self, run: _Run) -> None:
        """Say how far a run is; the bars of a terminal show it without a line."""
        assert run.last is not None
        losses = f"train {run.train_loss:.4f}  {run.val_name} {run.val_loss:.4f}"
        left = clock(self.seconds_left())
        self.console.print(
            Text(f"  {run.name}  {run.last.progress:4.0%}  {run.last.tokens:,} tokens  {losses}  (sweep: {left} left)"),
            soft_wrap=True,
        )

    def refresh(self) -> None:
        """Draw anew, where there is something to draw."""


class _Losses(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Losses, speed and time left of one run."""
        run: _Run = task.fields["run"]
        if run.last is None:
            return Text("starting", style="dim")
        losses = f"train {run.train_loss:.3f} {run.val_name} {run.val_loss:.3f}" if run.val_loss is not None else ""
        speed = run.last.metrics.get(metrics.TOKENS_PER_SECOND)
        rate = f" {speed:,.0f} tok/s" if speed else ""
        return Text(f"{run.last.tokens:>9,} tok  {losses}{rate}  {clock(run.seconds_left)} left")


class LiveScreen(Screen):
    """A terminal: one bar for the sweep, one per running trial, finished ones scrolling by above."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        state = TextColumn("{task.fields[state]}")
        self._sweep = Progress(TextColumn("[bold]sweep"), BarColumn(30), MofNCompleteColumn(), state)
        self._bars = Progress(TextColumn("{task.description}", markup=False), BarColumn(16), _Losses())
        self._task = self._sweep.add_task("sweep", total=None, state="starting")
        self._tasks: dict[int, object] = {}
        self._live = Live(Group(self._bars, self._sweep), console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveScreen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def run_began(self, key: int, name: str, work: float) -> None:
        """Add a bar."""
        super().run_began(key, name, work)
        self._tasks[key] = self._bars.add_task(name, total=1.0, run=self.runs[key])
        self.refresh()

    def run_ended(self, key: int, outcome: Outcome, reason: str = "") -> None:
        """Take the bar away and leave a line."""
        self._bars.remove_task(self._tasks.pop(key))  # type: ignore[arg-type]
        super().run_ended(key, outcome, reason)
        self.refresh()

    def run_left(self, key: int) -> None:
        """Take the bar away."""
        self._bars.remove_task(self._tasks.pop(key))  # type: ignore[arg-type]
        super().run_left(key)

    def evaluated(self, run: _Run) -> None:
        """The bar shows it."""

    def refresh(self) -> None:
        """Draw all bars as they are now."""
        for key, task in self._tasks.items():
            if key in self.runs:
                self._bars.update(task, completed=self.runs[key].progress)  # type: ignore[arg-type]
        state = f"{len(self.runs)} running · {clock(self.seconds_left())} left"
        self._sweep.update(self._task, total=self.total or None, completed=self.ended, state=state)
        self._live.refresh()


def make_screen(console: Console) -> Screen:
    """Bars where the console is a terminal, plain lines elsewhere."""
    return LiveScreen(console) if console.is_terminal else Screen(console)
