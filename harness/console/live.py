"""A sweep on a terminal: a table of arms, a line per running trial, and one for the sweep; above it, finished runs.

Every frame is laid out for the window's current size, so no line is longer than the window. Frames are drawn a few
times per second at most.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from harness.config.objective import LOSS, Objective
from harness.console.output import encodable, with_ascii_layout
from harness.console.plain import PlainLines
from harness.console.state import ArmTally, RunProgress, SweepState
from harness.console.text import clock, fitted, left_in_words, shortened
from harness.core import metrics
from harness.core.outcomes import Outcome

_FRAME_SECONDS: Final = 0.25  # least time between two frames
_MANY_RUNS: Final = 50  # with more, no frame is drawn for the start or end of a single one
_MIN_NAME: Final = 12  # cells; columns are dropped before a name gets shorter than this
_LEAST_COLUMNS: Final = 3  # the name among them; further columns are dropped before a name is shortened
_GAP: Final = "  "


class LiveTable:
    """A table at the bottom of the terminal. Messages and finished runs are plain lines above it.

    Args:
        console: a terminal.
        state: of the sweep.
    """

    def __init__(self, console: Console, state: SweepState) -> None:
        self.console = console
        self.state = state
        self._lines = PlainLines(console, state)
        self._live = Live(self, console=console, auto_refresh=False, transient=True)
        self._last_frame = 0.0

    def open(self) -> None:
        """Show the table."""
        self._live.start()

    def close(self) -> None:
        """Remove the table; the lines above it stay."""
        self._live.stop()

    def message(self, text: str, style: str) -> None:
        """Write a message above the table."""
        self._lines.message(text, style)

    def run_evaluated(self, run: RunProgress) -> None:
        """Nothing to do: the table shows it."""

    def run_finished(self, name: str, outcome: Outcome, summary: str) -> None:
        """Write how a run ended above the table."""
        self._lines.run_finished(name, outcome, summary)

    def refresh(self, at_once: bool = False) -> None:
        """Draw a frame, unless the last one was drawn a moment ago and `at_once` is False."""
        now = time.monotonic()
        at_once = at_once and len(self.state.runs) <= _MANY_RUNS
        if at_once or now - self._last_frame >= _FRAME_SECONDS:
            self._last_frame = now
            self._live.refresh()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One frame, in the window's width and height."""
        for line in self._frame(options.max_width, console.height):
            line.plain = with_ascii_layout(line.plain, console.encoding)
            yield line

    def _frame(self, width: int, height: int) -> Iterator[Text]:
        state, encoding = self.state, self.console.encoding
        labels = {arm.name: encodable(arm.label or arm.name, encoding) for arm in state.arms.values()}
        codes = {arm.name: arm.code for arm in state.arms.values() if arm.code}
        coded = bool(codes) and not labels_fit([*state.arms.values()], labels.values(), width, state.objective)
        of = codes if coded else labels
        arms = [replace(arm, name=of[arm.name]) for arm in state.arms.values()]
        shown = list(state.runs.values())
        hidden = max(0, len(shown) - max(1, height - 5 - min(len(arms), height // 3)))  # these lines stay for arms
        shown = shown[: len(shown) - hidden - bool(hidden)]  # one line says how many are hidden
        named = [
            replace(run, name=encodable(replace(run, label=of.get(run.arm, run.label)).shown, encoding), label="")
            for run in shown
        ]
        runs = [replace(run, arm=of.get(run.arm, run.arm)) for run in state.runs.values()]
        yield Text()
        free = (
            height - len(shown) - bool(hidden) - 4
        )  # minus a blank line, the headings, the sweep's line, the cursor's line
        table = arm_lines(arms, runs, width, max(2, free), state.objective)
        yield from table
        if coded and free - len(table) >= len(of):
            for name, code in of.items():
                yield Text(shortened(f"{code} is {labels[name]}", width), style="dim", no_wrap=True)
        for run in named:
            yield run_line(run, width, state.now())
        if hidden:
            yield Text(shortened(f"and {len(runs) - len(named)} more runs", width), style="dim", no_wrap=True)
        yield sweep_line(state, width)


def sweep_line(state: SweepState, width: int) -> Text:
    """The whole sweep: bar, runs that are done, runs that train, time left."""
    spent = state.finished + sum(run.progress for run in state.runs.values())
    share = spent / state.total if state.total else 0.0
    left = left_in_words(state.time_left()) if state.runs or state.finished else "starting"
    words = f" {state.finished}/{state.total} runs{_GAP}{len(state.runs)} running{_GAP}{left}"
    room = width - len("sweep ") - cell_len(words)
    if room < 6:  # the time left matters more than a bar
        words = f" {state.finished}/{state.total}{_GAP}{left}"
        room = width - len("sweep ") - cell_len(words)
    line = Text("sweep ", style="bold", no_wrap=True) + bar(share, min(30, room)) + Text(words)
    line.truncate(width, overflow="ellipsis")
    return line


def bar(share: float, width: int) -> Text:
    """A bar of `width` cells, filled by `share`; empty if `width` is less than 4."""
    if width < 4:
        return Text()
    full = round(width * min(1.0, max(0.0, share)))
    return Text.assemble(("━" * full, "green"), ("─" * (width - full), "dim"))


def run_line(run: RunProgress, width: int, now: float) -> Text:
    """One running trial: its name and, where there is room, bar, share, losses, speed and time left."""
    if run.last is None:
        name, rest = fitted(run.name, f"{_GAP}starting", width)
        return Text(name + rest, style="dim", no_wrap=True)
    speed = run.last.metrics.get(metrics.TOKENS_PER_SECOND)
    seconds = now - run.started
    left = f"{clock(seconds * (1 - run.progress) / run.done):>5} left" if run.done >= 0.02 else ""
    parts = [  # (text, priority): the highest number is dropped first where there is no room
        (f"{run.progress:4.0%}", 0),
        (f"{run.val_name} {run.value:.3f}" if run.value is not None else "", 1),
        (f"train {run.train_loss:.3f}" if run.train_loss is not None else "", 3),
        (f"{speed:>7,.0f} tok/s" if speed else "", 4),
        (left, 2),
    ]
    kept = [part for part in parts if part[0]]
    room = width - min(cell_len(run.name), 2 * _MIN_NAME)
    while len(kept) > 1 and sum(cell_len(text) + len(_GAP) for text, _ in kept) > room:
        kept.remove(max(kept, key=lambda part: part[1]))
    rest = "".join(_GAP + text for text, _ in kept)
    name, rest = fitted(run.name, rest, width)
    spare = width - cell_len(name + rest) - len(_GAP)
    drawn = Text(_GAP) + bar(run.progress, min(16, spare)) if spare >= 6 else Text()
    line = Text(name, no_wrap=True) + drawn + Text(rest)
    line.truncate(width, overflow="ellipsis")
    return line


def arm_lines(
    arms: Sequence[ArmTally],
    runs: Iterable[RunProgress],
    width: int,
    height: int,
    objective: Objective = LOSS,
) -> list[Text]:
    """The table of arms, headings first: counts, the best trial's value and the mean value of the confirm runs.

    Args:
        arms: in the order of the spec.
        runs: the running trials.
        width: cells.
        height: lines, headings included. If there are too many arms, those that train are shown first.
        objective: the metric of the values. The best arm is coloured, unless arms cannot be compared.
    """
    if not arms:
        return []
    training = [run.arm for run in runs]
    shown = list(arms)
    if len(arms) > height - 1:
        busy = sorted(arms, key=lambda arm: arm.name not in training)[: max(1, height - 2)]
        shown = [arm for arm in arms if arm in busy]
    columns = [("arm", [arm.name for arm in shown]), *_columns(shown, training, objective)]
    widths = [max(map(cell_len, (heading, *cells))) for heading, cells in columns]
    while len(columns) > 2 and widths[0] + (others := sum(len(_GAP) + one for one in widths[1:])) > width:
        if len(columns) <= _LEAST_COLUMNS and min(widths[0], _MIN_NAME) + others <= width:
            break
        columns.pop()
        widths.pop()
    widths[0] = min(widths[0], max(1, width - sum(len(_GAP) + one for one in widths[1:])))
    best = min((value for arm in arms if (value := arm.best) is not None), default=None) if objective.ranked else None
    lines = [_row([heading for heading, _ in columns], widths, "bold")]
    for place, arm in enumerate(shown):
        style = "cyan" if arm.best is not None and arm.best == best and len(arms) > 1 else ""
        lines.append(_row([cells[place] for _, cells in columns], widths, style))
    if len(shown) < len(arms):
        lines.append(Text(shortened(f"and {len(arms) - len(shown)} more arms", width), style="dim"))
    return lines


def labels_fit(arms: Sequence[ArmTally], labels: Iterable[str], width: int, objective: Objective) -> bool:
    """Whether the labels have room beside the first columns of the table."""
    first = _columns(arms, [], objective)[: _LEAST_COLUMNS - 1]
    taken = sum(len(_GAP) + max(map(cell_len, (heading, *cells))) for heading, cells in first)
    return max(map(cell_len, labels), default=0) <= width - taken


def _columns(
    arms: Sequence[ArmTally], training: Sequence[str], objective: Objective
) -> list[tuple[str, Sequence[str]]]:
    """Heading and cells of the columns after the names."""
    columns: list[tuple[str, Sequence[str]]] = []
    if any(arm.trials for arm in arms):
        columns.append(("explored", [f"{arm.explored}/{arm.trials}" for arm in arms]))
        columns.append(("best trial", [_value(arm.best) for arm in arms]))
    columns.append(("confirmed", [f"{arm.confirmed}/{arm.seeds}" for arm in arms]))
    columns.append((f"mean val {objective.unit}", [_value(arm.mean_result) for arm in arms]))
    columns.append(("running", [str(training.count(arm.name) or "–") for arm in arms]))
    return columns


def _row(cells: Sequence[str], widths: Sequence[int], style: str) -> Text:
    name = shortened(cells[0], widths[0])
    name += " " * (widths[0] - cell_len(name))
    rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return Text(_GAP.join((name, *rest)), style=style, no_wrap=True)


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
