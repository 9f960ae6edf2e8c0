"""Chooses how to show a sweep: by the terminal and the options."""

from __future__ import annotations

from rich.console import Console

from harness.console.event_log import EventLog
from harness.console.plain import FailuresOnly, PlainLines
from harness.console.screen import Screen, View
from harness.console.state import SweepState


def make_screen(console: Console, log: EventLog | None = None, *, plain: bool = False, quiet: bool = False) -> Screen:
    """A live table if the console is a terminal that can move its cursor, else plain lines.

    Args:
        console: where to write. (rich's console handles `NO_COLOR` and `TERM=dumb`.)
        log: gets one line per event; None for no log.
        plain: always plain lines.
        quiet: failures only.
    """
    state = SweepState()
    return Screen(_view(console, state, plain, quiet), state, log or EventLog(None))


def _view(console: Console, state: SweepState, plain: bool, quiet: bool) -> View:
    lines = PlainLines(console, state)
    if quiet:
        return FailuresOnly(lines)
    if plain or not console.is_terminal or console.is_dumb_terminal:
        return lines
    from harness.console.live import LiveTable

    return LiveTable(console, state)
