"""Values in order, from several threads, with a bounded number of them ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from harness.data import parallel
from harness.data.parallel import map_in_order

THREADS = 3


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "usable_cores", lambda: THREADS)


def test_results_keep_the_order_of_their_values_whichever_ends_first() -> None:
    """The first value ends last: it waits for the second, which another thread works on."""
    second = threading.Event()

    def square(number: int) -> int:
        if number == 0:
            assert second.wait(60)
        if number == 1:
            second.set()
        return number * number

    assert list(map_in_order(square, range(20))) == [number * number for number in range(20)]


def test_few_values_are_taken_ahead() -> None:
    taken: list[int] = []

    def values() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    found = map_in_order(str, values())
    for number in range(50):
        assert next(found) == str(number)
        assert number < len(taken) <= number + THREADS + 2


def test_an_error_comes_after_the_results_before_it() -> None:
    found = map_in_order(lambda number: 12 // number, [3, 2, 0, 1])
    assert [next(found), next(found)] == [4, 6]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_one_core_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "usable_cores", lambda: 1)
    assert list(map_in_order(lambda _: threading.current_thread(), [1, 2])) == [threading.main_thread()] * 2
