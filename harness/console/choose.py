"""Chooses the screen that fits the terminal and the options."""

from __future__ import annotations

from rich.console import Console

from harness.console.event_log import EventLog
from harness.console.screen import QuietScreen, Screen


def make_screen(console: Console, log: EventLog | None = None, *, plain: bool = False, quiet: bool = False) -> Screen:
    """A live table where the console is a terminal that can move its cursor, plain lines elsewhere.

    Args:
        console: where to write. (`NO_COLOR` and `TERM=dumb` are the console's to know.)
        log: one line per event.
        plain: lines in any case.
        quiet: nothing but failures.
    """
    if quiet:
        return QuietScreen(console, log)
    if plain or not console.is_terminal or console.is_dumb_terminal:
        return Screen(console, log)
    from harness.console.live import LiveScreen

    return LiveScreen(console, log)
