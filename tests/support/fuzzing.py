"""How many examples hypothesis tries: few, always the same; `FUZZ=20` tries 20 times as many new ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

MORE = int(os.environ.get("FUZZ", "1"))


def examples(count: int) -> Callable[[Any], Any]:
    """Settings for this many examples. They share the folder of the test; each writes its files again."""
    return settings(
        max_examples=count * MORE,
        derandomize=MORE == 1,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )
