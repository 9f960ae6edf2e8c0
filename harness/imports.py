"""Importing large libraries without Python's garbage collector, which would look through them again and again.

MLflow, Optuna and torch make hundreds of thousands of objects that stay until the program ends. The collector walks
over them while they are imported, later now and then, and once more at the end: a quarter of the time that it takes to
import them, and most of the time that a program with them takes to end.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Inside, nothing is collected; what is there afterwards is never looked at again (`gc.freeze`)."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()
