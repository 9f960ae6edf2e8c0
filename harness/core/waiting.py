"""One rule for SQLite databases that another process has locked, MLflow's and Optuna's alike: wait, and show it.

Only the main thread waits here, and signals interrupt it. In other threads a locked database is an error; the outbox,
which has a thread of its own, tries again by itself.
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

LOCK_SECONDS = 300.0  # how long to wait for a locked database
NOTE_SECONDS = 2.0  # a longer wait is shown
_BUSY_SECONDS: Final = 1.0  # of one try; SQLite itself sleeps meanwhile, and signals have to wait for it
_BUSY_TIMEOUT: Final = "pragma busy_timeout"

_ANOTHER_WAIT_SECONDS: Final = 10.0  # a lock that is seen so long after the last one begins another wait

_waits: Final[dict[str, tuple[float, float]]] = {}  # database → when its last wait began, when it was last locked
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
    """From now on wait for locked databases this long at most, all waits together; `math.inf`: no such limit."""
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
    changes, shown = connection.total_changes, False
    while True:
        try:
            result = step()
        except sqlite3.OperationalError as error:
            if not (_is_lock(error) and connection.total_changes == changes and _in_main_thread()):
                raise
            since = _locked_since(connection.file)
            now = time.monotonic()
            if now >= min(since + LOCK_SECONDS, _stop_at):
                raise
            if not shown and now >= since + NOTE_SECONDS:
                shown = True
                _show(f"waiting for {_name(connection)}: another process has locked it (at most {LOCK_SECONDS:.0f} s)")
            continue
        if shown:
            waited = time.monotonic() - _locked_since(connection.file)
            _show(f"{_name(connection)} can be used again, after {waited:.0f} s")
        return result


def _is_lock(error: sqlite3.OperationalError) -> bool:
    """Whether another process holds a lock. (One that has written since we have read does not give way.)"""
    code = error.sqlite_errorcode
    return code & 0xFF == sqlite3.SQLITE_BUSY and code != sqlite3.SQLITE_BUSY_SNAPSHOT


def _locked_since(file: str) -> float:
    """When the wait for a database began that is locked now. Waits in quick succession are one wait: callers retry."""
    now = time.monotonic()
    since, last = _waits.get(file, (0.0, -math.inf))
    if now - last > _ANOTHER_WAIT_SECONDS:
        since = now - _BUSY_SECONDS
    _waits[file] = since, now
    return since


def _name(connection: WaitingConnection) -> str:
    file = Path(connection.file)
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
