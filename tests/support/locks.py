"""Locks on SQLite databases, held by another process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Reads inside its transaction: a deferred one locks nothing before.
_HOLD = """
import sqlite3, sys, time
file, kind, seconds, wait = sys.argv[1:]
database = sqlite3.connect(file, timeout=60, isolation_level=None)
database.execute(f"begin {kind}")
database.execute("select * from sqlite_master").fetchall()
print("locked", flush=True)
if wait == "wait":
    sys.stdin.readline()
time.sleep(float(seconds))
"""


@contextlib.contextmanager
def locked(file: Path, kind: str = "exclusive", seconds: float = 0.0) -> Iterator[Callable[[], None]]:
    """A lock that lasts for some seconds after the function that this yields was called, or until the context ends.

    Args:
        file: the database.
        kind: of SQLite's transaction: exclusive, immediate or deferred.
        seconds: after the call.
    """
    holder = _hold(file, kind, seconds, "wait")
    with holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"

        def release() -> None:
            assert holder.stdin is not None
            holder.stdin.write("\n")
            holder.stdin.flush()

        try:
            yield release
        finally:
            holder.kill()


def lock_for(file: Path, kind: str, seconds: float) -> subprocess.Popen[str]:
    """Lock a database for some seconds, as soon as nobody else does; returns the process that holds the lock."""
    return _hold(file, kind, seconds, "")


def _hold(file: Path, kind: str, seconds: float, wait: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _HOLD, str(file), kind, str(seconds), wait]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
