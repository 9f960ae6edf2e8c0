"""One process at a time on a sweep, on this machine; other machines are kept away by what MLflow knows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from harness.core.paths import STORES


class Locked(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def only_one(name: str) -> Iterator[None]:
    """Hold the lock of a sweep. It is let go of when the process ends, in whatever way.

    Raises:
        Locked: with the process that has it.
    """
    path = STORES / f"{name}.lock"
    path.parent.mkdir(exist_ok=True)
    holder = path.with_suffix(".holder")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text("utf-8") if holder.exists() else "unknown"
        raise Locked(f"{name} is being run already, by process {who}; wait for it or stop it") from None
    try:
        holder.write_text(str(os.getpid()), "utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
