"""One rule for databases that cannot be used for a while, MLflow's and Optuna's alike: wait, and show it.

Here are the rule and the SQLite files that another process has locked; database servers are in
`harness.core.database_servers`. Only the main thread waits, and signals interrupt it. In other threads such a database
is an error; the outbox, which has a thread of its own, tries again by itself.
"""

from __future__ import annotations

import math
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

LOCK_SECONDS = 300.0  # how long to wait for a database
NOTE_SECONDS = 2.0  # a longer wait is shown
_BUSY_SECONDS: Final = 1.0  # of one try; SQLite itself sleeps meanwhile, and signals have to wait for it
_BUSY_TIMEOUT: Final = "pragma busy_timeout"

_LOCKED: Final = "another process has locked it"
_ANOTHER_WAIT_SECONDS: Final = 10.0  # a failure that is seen so long after the last one begins another wait

_waits: Final[dict[str, tuple[float, float]]] = {}  # database → when its last wait began, when it failed last
_stop_at = math.inf  # no wait lasts longer than until then, see `stop_waiting_after`


_Result = TypeVar("_Result")


def _print(text: str) -> None:
    print(text, file=sys.stderr)


_show: Callable[[str], None] = _print


@contextmanager
def show_waits(show: Callable[[str], None]) -> Iterator[None]:
    """Inside the context `show` gets a sentence when a wait gets long and when it ends, in place of standard error."""
    global _show
    before, _show = _show, show
    try:
        yield
    finally:
        _show = before


def stop_waiting_after(seconds: float) -> None:
    """From now on wait for databases this long at most, all waits together; `math.inf`: no such limit."""
    global _stop_at
    _stop_at = time.monotonic() + seconds


def wait_for_locks() -> None:
    """Make every SQLite connection that SQLAlchemy opens in this process wait for locks."""
    from sqlalchemy import Engine, event

    if not event.contains(Engine, "do_connect", _use_waiting_connection):
        event.listen(Engine, "do_connect", _use_waiting_connection)


def _use_waiting_connection(dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
    """Listener of SQLAlchemy's event `do_connect`."""
    if dialect.name == "sqlite" and dialect.driver == "pysqlite":
        options.setdefault("factory", WaitingConnection)
        options.setdefault("timeout", _BUSY_SECONDS)


class WaitingConnection(sqlite3.Connection):
    """A connection whose statements and commits wait for a lock, see this module.

    Attributes:
        file: the database.
    """

    def __init__(self, database: str, *arguments: Any, **options: Any) -> None:
        super().__init__(database, *arguments, **options)
        self.file = str(database)

    def cursor(self, factory: Any = None) -> Any:
        """A cursor that waits."""
        return super().cursor(factory or _WaitingCursor)

    def commit(self) -> None:
        """Commit. If the database is locked, the transaction stays open, so that the commit can be repeated."""
        _repeat_while_locked(self, super().commit)


class _WaitingCursor(sqlite3.Cursor):
    connection: WaitingConnection

    def execute(self, statement: str, parameters: Any = ()) -> _WaitingCursor:
        if statement.lower().startswith(_BUSY_TIMEOUT) and _in_main_thread():
            statement = f"{_BUSY_TIMEOUT} = {_BUSY_SECONDS * 1000:.0f}"  # MLflow asks for 20 s in every session
        return _repeat_while_locked(self.connection, partial(super().execute, statement, parameters))

    def executemany(self, statement: str, parameters: Any) -> _WaitingCursor:
        return _repeat_while_locked(self.connection, partial(super().executemany, statement, parameters))


def _repeat_while_locked(connection: WaitingConnection, step: Callable[[], _Result]) -> _Result:
    """The result of `step`.

    Raises:
        sqlite3.OperationalError: the database has been locked for too long, or some rows were written before it was.
    """
    changes = connection.total_changes

    def why(error: Exception) -> str:
        return _LOCKED if _is_lock(error) and connection.total_changes == changes else ""

    return repeat_while(step, why, connection.file)


def repeat_while(
    step: Callable[[], _Result], why: Callable[[Exception], str], database: str, pause: float = 0
) -> _Result:
    """The result of `step`, which the main thread repeats while a database cannot be used.

    Args:
        step: may be done several times.
        why: why the database cannot be used for a while, from an error of `step`; empty: the error is raised.
        database: its file or name.
        pause: seconds between two tries.

    Raises:
        Exception: what `step` raises, in another thread or after too long a wait.
    """
    since, shown = math.inf, False
    while True:
        try:
            result = step()
        except Exception as error:
            reason = why(error) if _in_main_thread() else ""
            if not reason:
                raise
            since = min(since, _failing_since(database))
            now = time.monotonic()
            if now >= min(since + LOCK_SECONDS, _stop_at):
                raise
            if not shown and now >= since + NOTE_SECONDS:
                shown = True
                _show(f"waiting for {_name(database)}: {reason} (at most {LOCK_SECONDS:.0f} s)")
            time.sleep(pause)
            _waits[database] = since, time.monotonic()
            continue
        if shown:
            _show(f"{_name(database)} can be used again, after {time.monotonic() - since:.0f} s")
        return result


def _is_lock(error: Exception) -> bool:
    """Whether another process holds a lock. (One that has written since we have read does not give way.)"""
    if not isinstance(error, sqlite3.OperationalError):
        return False
    code = error.sqlite_errorcode
    return code & 0xFF == sqlite3.SQLITE_BUSY and code != sqlite3.SQLITE_BUSY_SNAPSHOT


def _failing_since(database: str) -> float:
    """When the wait for a database began that fails now. Waits in quick succession are one wait: callers retry."""
    now = time.monotonic()
    since, last = _waits.get(database, (0.0, -math.inf))
    if now - last > _ANOTHER_WAIT_SECONDS:
        since = now - _BUSY_SECONDS
    _waits[database] = since, now
    return since


def _name(database: str) -> str:
    """A database in a message: a file relative to the current folder, if it is inside."""
    return str(Path(database).relative_to(Path.cwd())) if Path(database).is_relative_to(Path.cwd()) else database


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
