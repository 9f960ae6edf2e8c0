"""Garbage collection is paused while libraries are imported or many objects are read, and resumes afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from harness.core.gc_pause import gc_paused, gc_paused_for_imports


@pytest.fixture(autouse=True)
def restored_collector() -> Iterator[None]:
    gc.unfreeze()  # what the session froze after its imports
    yield
    gc.unfreeze()
    gc.enable()


class Cycle:
    """A reference cycle, which only the cyclic collector frees."""

    def __init__(self) -> None:
        self.itself = self


def made_inside(context: AbstractContextManager[None]) -> tuple[weakref.ref[Cycle], list[Cycle]]:
    """A garbage cycle, and cycles that are still in use, made inside the context."""
    with context:
        assert not gc.isenabled()
        cycle = weakref.ref(Cycle())
        made = [Cycle() for _ in range(10_000)]
        assert cycle() is not None
    assert gc.isenabled()
    return cycle, made


def test_objects_of_imports_are_frozen_and_later_garbage_is_collected() -> None:
    _, made = made_inside(gc_paused_for_imports())
    assert gc.get_freeze_count() > len(made)
    assert not any(isinstance(one, Cycle) for one in gc.get_objects())
    later = weakref.ref(Cycle())
    gc.collect()
    assert later() is None


def test_a_disabled_collector_stays_disabled_and_a_failed_import_enables_it_again() -> None:
    gc.disable()
    with gc_paused_for_imports():
        pass
    assert not gc.isenabled()
    gc.enable()
    with pytest.raises(ImportError), gc_paused_for_imports():
        raise ImportError
    assert gc.isenabled()


def test_a_pause_freezes_nothing_and_its_garbage_is_collected_later() -> None:
    cycle, made = made_inside(gc_paused())
    assert gc.get_freeze_count() == 0
    assert any(one is made[0] for one in gc.get_objects())
    gc.collect()
    assert cycle() is None


def test_a_command_exits_with_its_objects_frozen() -> None:
    code = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 1000));"
        "import harness.console.cli; print(gc.get_freeze_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True"]
