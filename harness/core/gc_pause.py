"""Python's garbage collector, kept away where it would look through much again and again and find nothing.

MLflow, Optuna and torch make hundreds of thousands of objects that stay until the program ends. The collector walks
over them while they are imported, later now and then, and once more at the end: a quarter of the time that it takes to
import them, and most of the time that a program with them takes to end. Likewise the points of a large sweep are
millions of tuples when they come out of a database: half of the time that it takes to read them.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Inside, nothing is collected; what nothing refers to is freed all the same, but for objects in a circle."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Inside, nothing is collected; what is there afterwards is never looked at again (`gc.freeze`)."""
    with uncollected():
        try:
            yield
        finally:
            gc.freeze()
