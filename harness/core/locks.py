"""A lock for one process per sweep on this machine. `harness.tracking.ownership` does the same across machines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from harness.core.files import write_text
from harness.core.paths import STORES

_DIGITS: Final = 20  # of a process id, at most


class Locked(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def sweep_lock(name: str) -> Iterator[None]:
    """Hold the lock of a sweep. The operating system releases it when the process ends. Links are not followed.

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
        raise Locked(f"{name} is already being run by process {_process_in(holder)}; wait for it or stop it") from None
    try:
        write_text(holder, str(os.getpid()))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def machine_lock(path: Path, seconds: float) -> Iterator[bool]:
    """Hold a lock for the processes of this machine, or of all machines that share the folder.

    Args:
        path: of the lock's file, whose folder is created if it is missing.
        seconds: how long to wait for another process.

    Yields:
        whether it is held: not after `seconds`, nor on a file system without locks.
    """
    lock = FileLock(path, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)
    except (Timeout, OSError, NotImplementedError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _process_in(holder: Path) -> str:
    """The process id in a file; "unknown" if there is none."""
    try:
        with os.fdopen(os.open(holder, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), encoding="ascii") as stream:
            found = stream.read(_DIGITS)
    except (OSError, ValueError):
        return "unknown"
    return found if found.isdecimal() else "unknown"
