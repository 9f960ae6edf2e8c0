"""A function over a stream of values on several threads, in order and with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from harness.core.hardware import usable_cores

_AHEAD: Final = 2  # values that wait beside those that are worked on

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def map_in_order(function: Callable[[_In], _Out], values: Iterable[_In]) -> Iterator[_Out]:
    """Like `map`, on one thread for each core: for functions that release Python's lock.

    At most two more values than threads are taken ahead. An error ends it once the results before it are taken.
    """
    threads = usable_cores()
    if threads == 1:
        yield from map(function, values)
        return
    waiting: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(threads, "encode") as pool:
        try:
            for value in values:
                waiting.append(pool.submit(function, value))
                if len(waiting) >= threads + _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
