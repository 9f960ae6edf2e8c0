"""A lock for one process per sweep on this machine. `harness.tracking.ownership` does the same across machines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from harness.core.paths import STORES


class Locked(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def sweep_lock(name: str) -> Iterator[None]:
    """Hold the lock of a sweep. The operating system releases it when the process ends.

    Raises:
        Locked: names the process that holds it.
    """
    path = STORES / f"{name}.lock"
    path.parent.mkdir(exist_ok=True)
    holder = path.with_suffix(".holder")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text("utf-8") if holder.exists() else "unknown"
        raise Locked(f"{name} is already being run by process {who}; wait for it or stop it") from None
    try:
        holder.write_text(str(os.getpid()), "utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
