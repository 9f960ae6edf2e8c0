"""What the commands share: where they write, and how they end when something is wrong."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console

# Exit codes, beside 0: a run failed; the person's mistake; the sweep is already running elsewhere; stopped by a signal.
FAILED, MISTAKE, BUSY, INTERRUPTED = 1, 2, 3, 130

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def fail(message: object, code: int = MISTAKE) -> NoReturn:
    """Write `message` to standard error, as it is, and leave with `code`."""
    err.print(str(message), markup=False, soft_wrap=True)
    raise typer.Exit(code)
