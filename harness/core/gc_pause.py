"""Pauses Python's cyclic garbage collector where it would scan many objects and find no garbage.

MLflow, Optuna and torch create hundreds of thousands of objects that live until the program ends. Scanning them takes
a quarter of the time of their imports, and most of the time that a program with them takes to exit. The points of a
large sweep are millions of tuples when they are read from a database; scanning them takes half of the reading time.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Disable the cyclic garbage collector; reference counting still frees everything else."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def gc_paused_for_imports() -> Iterator[None]:
    """The same, for imports: what exists afterwards is never scanned again (`gc.freeze`)."""
    with gc_paused():
        try:
            yield
        finally:
            gc.freeze()
