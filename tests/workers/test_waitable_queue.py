"""A queue that can be waited for together with workers."""

from __future__ import annotations

import threading
import time

from harness.workers.local_pool import LocalPool
from harness.workers.waitable_queue import WaitableQueue


def test_items_come_in_order_and_end_the_wait_of_a_pool() -> None:
    queue: WaitableQueue[int] = WaitableQueue()
    with LocalPool(1) as pool:
        threading.Timer(0.1, put_three, [queue]).start()
        start = time.monotonic()
        assert pool.events(60, queue) == []
        assert 0.1 <= time.monotonic() - start < 30
        assert [queue.get() for _ in range(3)] == [0, 1, 2]
        assert queue.empty()
        start = time.monotonic()
        assert pool.events(0.05, queue) == []  # it waits again
        assert time.monotonic() - start >= 0.05


def put_three(queue: WaitableQueue[int]) -> None:
    for number in range(3):
        queue.put(number)
