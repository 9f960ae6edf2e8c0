"""A sweep on a terminal: a table of its arms, a line for each run that trains, one for the whole; the rest scrolls by.

Everything is laid out for the window as it is at that moment, so a line is never longer than it. What was drawn is
replaced in one piece, a few times a second and only if it has changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from harness.console.event_log import EventLog
from harness.console.screen import Screen
from harness.console.state import ArmTally, Run
from harness.console.text import clock, fitted, left_in_words, shortened
from harness.core import metrics
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase

_REDRAWN_AFTER: Final = 0.25  # seconds
_NAME_LEAST: Final = 12  # cells that a name keeps before columns are left out
_GAP: Final = "  "


class LiveScreen(Screen):
    """Draws a table that stays at the bottom; runs that have ended scroll by above it."""

    def __init__(self, console: Console, log: EventLog | None = None) -> None:
        super().__init__(console, log)
        self._live = Live(self, console=console, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def __enter__(self) -> LiveScreen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def run_began(self, key: int, name: str, work: float, arm: str = "", phase: Phase = Phase.EXPLORE) -> None:
        """Add a line."""
        super().run_began(key, name, work, arm, phase)
        self.refresh(at_once=True)

    def run_point(self, key: int, point: Point) -> None:
        """Move a line on."""
        super().run_point(key, point)
        self.refresh()

    def run_ended(self, key: int, outcome: Outcome, reason: str = "") -> None:
        """Take a line away, and leave one above."""
        super().run_ended(key, outcome, reason)
        self.refresh(at_once=True)

    def evaluated(self, run: Run) -> None:
        """The table shows it."""

    def refresh(self, at_once: bool = False) -> None:
        """Draw the table as things are now, unless that was done a moment ago."""
        now = time.monotonic()
        if at_once or now - self._drawn >= _REDRAWN_AFTER:
            self._drawn = now
            self._live.refresh()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table in the window's width and height."""
        width = options.max_width
        runs = [run_line(run, width) for run in self.runs.values()]
        height = console.height - len(runs) - 4  # a blank line, headings, the sweep's line, and the cursor's
        yield Text()
        yield from arm_lines(list(self.arms.values()), self.runs.values(), width, max(2, height))
        yield from runs
        yield self._sweep_line(width)

    def _sweep_line(self, width: int) -> Text:
        spent = self.ended + sum(run.progress for run in self.runs.values())
        share = spent / self.total if self.total else 0.0
        left = left_in_words(self.time_left()) if self.runs or self.ended else "starting"
        words = f" {self.ended}/{self.total} runs{_GAP}{len(self.runs)} running{_GAP}{left}"
        room = width - len("sweep ") - cell_len(words)
        if room < 6:  # rather no bar than no time
            words = f" {self.ended}/{self.total}{_GAP}{left}"
            room = width - len("sweep ") - cell_len(words)
        line = Text("sweep ", style="bold", no_wrap=True) + bar(share, min(30, room)) + Text(words)
        line.truncate(width, overflow="ellipsis")
        return line


def bar(share: float, width: int) -> Text:
    """A bar of `width` cells, filled by `share`; nothing where there is no room for one."""
    if width < 4:
        return Text()
    full = round(width * min(1.0, max(0.0, share)))
    return Text.assemble(("━" * full, "green"), ("─" * (width - full), "dim"))


def run_line(run: Run, width: int) -> Text:
    """One run that trains: its name and, as far as there is room, bar, share, losses, speed and time left."""
    if run.last is None:
        name, rest = fitted(run.name, f"{_GAP}starting", width)
        return Text(name + rest, style="dim", no_wrap=True)
    speed = run.last.metrics.get(metrics.TOKENS_PER_SECOND)
    seconds = time.monotonic() - run.began
    left = f"{clock(seconds * (1 - run.progress) / run.done):>5} left" if run.done >= 0.02 else ""
    parts = [  # what goes first where there is no room, last
        (f"{run.progress:4.0%}", 0),
        (f"{run.val_name} {run.val_loss:.3f}" if run.val_loss is not None else "", 1),
        (f"train {run.train_loss:.3f}" if run.train_loss is not None else "", 3),
        (f"{speed:>7,.0f} tok/s" if speed else "", 4),
        (left, 2),
    ]
    kept = [part for part in parts if part[0]]
    room = width - min(cell_len(run.name), 2 * _NAME_LEAST)
    while len(kept) > 1 and sum(cell_len(text) + len(_GAP) for text, _ in kept) > room:
        kept.remove(max(kept, key=lambda part: part[1]))
    rest = "".join(_GAP + text for text, _ in kept)
    name, rest = fitted(run.name, rest, width)
    spare = width - cell_len(name + rest) - len(_GAP)
    drawn = Text(_GAP) + bar(run.progress, min(16, spare)) if spare >= 6 else Text()
    line = Text(name, no_wrap=True) + drawn + Text(rest)
    line.truncate(width, overflow="ellipsis")
    return line


def arm_lines(arms: Sequence[ArmTally], runs: Iterable[Run], width: int, height: int) -> list[Text]:
    """The table of arms, its headings first: what is done, the best trial's loss and the mean of the confirm runs.

    Args:
        arms: in the order of the spec.
        runs: those that train now.
        width: cells.
        height: lines, headings included. Arms that train now are shown before others where there are too many.
    """
    if not arms:
        return []
    training = [run.arm for run in runs]
    shown = list(arms)
    if len(arms) > height - 1:
        busy = sorted(arms, key=lambda arm: arm.name not in training)[: max(1, height - 2)]
        shown = [arm for arm in arms if arm in busy]
    columns = [("arm", [arm.name for arm in shown])]
    if any(arm.trials for arm in arms):
        columns.append(("explored", [f"{arm.explored}/{arm.trials}" for arm in shown]))
        columns.append(("best trial", [_loss(arm.best) for arm in shown]))
    columns.append(("confirmed", [f"{arm.confirmed}/{arm.seeds}" for arm in shown]))
    columns.append(("mean val loss", [_loss(arm.confirmed_loss) for arm in shown]))
    columns.append(("running", [str(training.count(arm.name) or "–") for arm in shown]))
    widths = [max(map(cell_len, (heading, *cells))) for heading, cells in columns]
    least = min(widths[0], _NAME_LEAST)
    while len(columns) > 2 and least + sum(len(_GAP) + one for one in widths[1:]) > width:
        columns.pop()
        widths.pop()
    widths[0] = min(widths[0], max(1, width - sum(len(_GAP) + one for one in widths[1:])))
    best = min((loss for arm in arms if (loss := arm.best) is not None), default=None)
    lines = [_row([heading for heading, _ in columns], widths, "bold")]
    for place, arm in enumerate(shown):
        style = "cyan" if arm.best is not None and arm.best == best and len(arms) > 1 else ""
        lines.append(_row([cells[place] for _, cells in columns], widths, style))
    if len(shown) < len(arms):
        lines.append(Text(shortened(f"and {len(arms) - len(shown)} more arms", width), style="dim"))
    return lines


def _row(cells: Sequence[str], widths: Sequence[int], style: str) -> Text:
    name = shortened(cells[0], widths[0])
    name += " " * (widths[0] - cell_len(name))
    rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return Text(_GAP.join((name, *rest)), style=style, no_wrap=True)


def _loss(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.4f}"
