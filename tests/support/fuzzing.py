"""How many examples hypothesis tries: few, always the same; `FUZZ=20` tries 20 times as many new ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings

MORE = int(os.environ.get("FUZZ", "1"))


def examples(count: int, shrink: bool = True) -> Callable[[Any], Any]:
    """Settings for this many examples. They share the folder of the test; each writes its files again.

    Args:
        count: of examples.
        shrink: whether a failing example is made smaller, which takes hundreds of further ones.
    """
    return settings(
        max_examples=count * MORE,
        derandomize=MORE == 1,
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if shrink else [])],
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )
