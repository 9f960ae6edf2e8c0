"""What a screen shows, caught as text."""

from __future__ import annotations

import io

from rich.console import Console

from harness.console.screen import Screen
from harness.core import metrics
from harness.core.metrics import Point


def console(terminal: bool = False, width: int = 120) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, highlight=False, color_system=None)


def text(screen: Screen) -> str:
    stream = screen.console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def point(step: int, progress: float, val: float) -> Point:
    found = {metrics.TRAIN_LOSS: 3.0, metrics.VAL_LOSS: val, metrics.TOKENS_PER_SECOND: 1234.0}
    return Point(step, step * 100, progress, 1.0, found)


NAMES = ["drop_rate=0.0 · learning_rate=2.1e-03 · weight_decay=0.283 · seed 1", "drop_rate=0.2 · [bold] · seed 2"]
