"""The collector stays away while libraries are imported and much is read, and is back afterwards."""

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
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


class Loop:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


def made_inside(where: AbstractContextManager[None]) -> tuple[weakref.ref[Loop], list[Loop]]:
    """Garbage and what is none, made where nothing is collected."""
    with where:
        assert not gc.isenabled()
        loop = weakref.ref(Loop())
        made = [Loop() for _ in range(10_000)]
        assert loop() is not None
    assert gc.isenabled()
    return loop, made


def test_nothing_is_collected_inside_and_what_is_there_stays() -> None:
    _, made = made_inside(gc_paused_for_imports())
    assert gc.get_freeze_count() > len(made)
    assert not any(isinstance(one, Loop) for one in gc.get_objects())
    later = weakref.ref(Loop())
    gc.collect()
    assert later() is None, "what comes later is collected as ever"


def test_a_collector_that_was_off_stays_off_and_a_failed_import_turns_it_on() -> None:
    gc.disable()
    with gc_paused_for_imports():
        pass
    assert not gc.isenabled()
    gc.enable()
    with pytest.raises(ImportError), gc_paused_for_imports():
        raise ImportError
    assert gc.isenabled()


def test_what_is_read_is_not_looked_through_but_what_it_leaves_is_found_later() -> None:
    loop, made = made_inside(gc_paused())
    assert gc.get_freeze_count() == 0
    assert any(one is made[0] for one in gc.get_objects())
    gc.collect()
    assert loop() is None


def test_a_command_ends_without_a_last_look() -> None:
    code = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 1000));"
        "import harness.console.cli; print(gc.get_freeze_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True"]
