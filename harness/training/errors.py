"""Reasons for which a training run ends early."""

from __future__ import annotations

import math

from torch import Tensor


class Diverged(ArithmeticError):
    """The loss or the gradient became NaN or infinite."""


class Stopped(Exception):
    """The caller's `stop` ended the training before the budget was spent. The state is saved first."""


def check_finite(step: int, **values: Tensor | float) -> None:
    """Raise `Diverged` naming the first value that is NaN or infinite."""
    for name, value in values.items():
        number = value.item() if isinstance(value, Tensor) else value
        if not math.isfinite(number):
            raise Diverged(f"{name} is {number} at step {step}")
