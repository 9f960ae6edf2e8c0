"""PostgreSQL servers: requests that end, waiting while a server cannot be used, one process at a time.

A server restarts, closes connections, has a full disk, or a lock that another transaction holds. The transaction is
then rolled back, and the call can be repeated. The main thread does that, as with SQLite files that are locked
(`harness.core.waiting`). If only the answer to a commit was lost, the first call had its effect.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from harness.core.waiting import repeat_while

_PAUSE_SECONDS: Final = 0.5  # between two tries
_LOCK_TIMEOUT: Final = "5s"  # of one try; PostgreSQL waits for locks without a limit by default
# Parameters of libpq, where the user sets none: its defaults wait minutes for a host that is gone.
_TIMEOUTS: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
    "application_name": "gpt-experiment-harness",
}
_DRIVERS: Final = ("psycopg", "psycopg2")
# Beginnings of SQLSTATE codes, see https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNAVAILABLE: Final = {
    "08": "the connection was lost",
    "25006": "it is read-only",
    "40": "another transaction was in the way",
    "53100": "its disk is full",
    "53300": "it has too many connections",
    "53": "it is out of resources",
    "55P03": "another process has locked its tables",
    "57014": "it cancelled the statement",
    "57P": "it is stopping or starting",
    "58": "it cannot read or write its files",
}
_DATABASE_DROPPED: Final = "57P04"
# Why no connection is made; libpq gives no code. A wrong password, database or host name is not waited for.
_NO_CONNECTION: Final = {
    "too many": "it has too many connections",
    "remaining connection slots": "it has too many connections",
    "starting up": "it is starting",
    "shutting down": "it is stopping",
    "recovery": "it is in recovery",
    "not accepting connections": "it is in recovery",
    "refused": "connection refused",
    "No such file": "it does not run",  # there is no socket
    "timeout": "no answer",
    "timed out": "no answer",
    "unreachable": "no route to it",
    "closed": "the connection was lost",
    "lost": "the connection was lost",
    "EOF": "the connection was lost",
    "reset": "the connection was lost",
    "terminat": "the connection was lost",
}

_Result = TypeVar("_Result")


def is_postgresql(address: str) -> bool:
    """Whether an SQLAlchemy address is one of PostgreSQL."""
    return address.startswith("postgresql")


def until_available(call: Callable[[], _Result], address: str) -> _Result:
    """The result of a call to the database at `address`, repeated while a PostgreSQL server cannot be used.

    Raises:
        Exception: as `repeat_while`.
    """
    return repeat_while(call, unavailable, server_name(address), _PAUSE_SECONDS) if is_postgresql(address) else call()


def make_calls_wait(kind: type, calls: Iterable[str], address: str) -> None:
    """Give a class methods that call those of its base class by `until_available`.

    Args:
        kind: the class.
        calls: names of methods that may be repeated.
        address: name of the attribute with the address of the database.
    """

    def waiting(name: str) -> Callable[..., Any]:
        def until_done(self: Any, *arguments: Any, **options: Any) -> Any:
            call = getattr(super(kind, self), name)
            return until_available(lambda: call(*arguments, **options), str(getattr(self, address)))

        return until_done

    for name in calls:
        setattr(kind, name, waiting(name))


def unavailable(error: BaseException) -> str:
    """Why a database server cannot be used for a while, from an error of a driver, of SQLAlchemy or of its callers.

    Empty for any other error, such as a wrong password.
    """
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        if type(one).__module__.partition(".")[0] in _DRIVERS:
            return _reason(one)
        one = getattr(one, "orig", None) or one.__cause__ or one.__context__
    return ""


def _reason(error: BaseException) -> str:
    """The same for an error of a driver."""
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if code is not None:
        found = (reason for start, reason in _UNAVAILABLE.items() if code.startswith(start))
        return "" if code == _DATABASE_DROPPED else next(found, "")
    if "OperationalError" not in [kind.__name__ for kind in type(error).__mro__]:
        return ""
    return next((reason for words, reason in _NO_CONNECTION.items() if words in str(error)), "")


def bound_requests() -> None:
    """Make the PostgreSQL connections that SQLAlchemy opens in this process fail, and not hang."""
    from sqlalchemy import Engine, event

    if not event.contains(Engine, "do_connect", _connect):
        event.listen(Engine, "do_connect", _connect)
        # A batch of points that MLflow has already is no error; psycopg warns of the pipeline that it ends.
        logging.getLogger("psycopg").setLevel(logging.ERROR)


def _connect(dialect: Any, _record: Any, arguments: Any, options: dict[str, Any]) -> Any:
    """Listener of SQLAlchemy's event `do_connect`: a new connection, or None for another kind of database."""
    if dialect.name != "postgresql" or dialect.driver not in _DRIVERS:
        return None
    connection = dialect.connect(*arguments, **(_TIMEOUTS | options))
    with connection.cursor() as cursor:  # not among `options`, which connection poolers refuse
        own = "select set_config('lock_timeout', %s, false) where current_setting('lock_timeout') = '0'"
        cursor.execute(own, (_LOCK_TIMEOUT,))
    connection.commit()
    return connection


@contextmanager
def one_at_a_time(address: str, what: str) -> Iterator[None]:
    """Let one process at a time, of any machine, into the context; only if the database is of PostgreSQL.

    Args:
        address: of the database.
        what: inside; another process with the same text waits.
    """
    if not is_postgresql(address):
        yield
        return
    from sqlalchemy import NullPool, create_engine, func, select

    engine = create_engine(address, poolclass=NullPool)

    def locked() -> Any:
        connection = engine.connect()
        try:
            connection.execute(select(func.pg_advisory_lock(zlib.crc32(what.encode()))))
        except BaseException:
            connection.close()
            raise
        connection.commit()
        return connection

    with until_available(locked, address):  # the end of the connection releases the lock
        yield


def server_name(address: str) -> str:
    """The server of an address in a message."""
    from sqlalchemy.engine import make_url

    url = make_url(address)
    host = url.host or url.query.get("host") or "localhost"
    return f"the PostgreSQL server at {host}:{url.port or url.query.get('port') or 5432}"
