"""A queue between threads that `multiprocessing.connection.wait` can wait for, together with connections."""

from __future__ import annotations

import os
import queue
from typing import Generic, TypeVar

_T = TypeVar("_T")


class WaitableQueue(Generic[_T]):
    """Any number of threads put, one gets. A pipe holds one byte for each item, so it is readable when there is one."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[_T] = queue.SimpleQueue()
        self._reader, self._writer = os.pipe()

    def fileno(self) -> int:
        """The file descriptor that `wait` asks."""
        return self._reader

    def put(self, item: _T) -> None:
        """Append an item."""
        self._items.put(item)
        os.write(self._writer, b".")

    def get(self) -> _T:
        """Take the oldest item; waits for one."""
        os.read(self._reader, 1)
        return self._items.get()

    def empty(self) -> bool:
        """Whether there is nothing to get."""
        return self._items.empty()
