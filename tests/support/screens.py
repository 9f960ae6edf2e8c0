"""A console that writes into memory, and points to show on it."""

from __future__ import annotations

import io

from rich.console import Console

from harness.core import metrics
from harness.core.metrics import Point


def console(terminal: bool = False, width: int = 120) -> Console:
    """A console that writes into memory."""
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, highlight=False, color_system=None)


def text(console: Console) -> str:
    """What was written to a console."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def point(step: int, progress: float, val: float) -> Point:
    """An evaluated point."""
    found = {metrics.TRAIN_LOSS: 3.0, metrics.VAL_LOSS: val, metrics.TOKENS_PER_SECOND: 1234.0}
    return Point(step, step * 100, progress, 1.0, found)


NAMES = ["drop_rate=0.0 · learning_rate=2.1e-03 · weight_decay=0.283 · seed 1", "drop_rate=0.2 · [bold] · seed 2"]
