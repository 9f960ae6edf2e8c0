"""A PostgreSQL server for tests, with new databases for each of them.

The programs are those of the system's package. They refuse to run as root, so root starts them as another user.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from servers import free_port

ROLE: Final = "researcher"
PASSWORD: Final = "hunter2~secret"
PATIENCE: Final = 60.0  # seconds to wait for the server
MISSING: Final = "needs the programs of a PostgreSQL server: apt-get install postgresql (15 was tried)"
_SETTINGS: Final = (
    "fsync=off",
    "full_page_writes=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "shared_buffers=32MB",
    "max_connections=200",
    "lc_messages=C",
    "autovacuum=off",
)
_MEMORY: Final = Path("/dev/shm")  # a folder in memory, where databases are copied ten times as fast
_SIZE: Final = 2 * 2**30  # bytes of the databases of all tests


@dataclass(frozen=True)
class Stores:
    """The addresses of a database for MLflow and of one for Optuna; with the password."""

    tracking: str
    storage: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that name them to a command."""
        return {"MLFLOW_TRACKING_URI": self.tracking, "GPT_HARNESS_STORAGE": self.storage}


class Server:
    """A server on this machine. Its databases belong to a role that is no superuser.

    Args:
        programs: the folder of `initdb` and `postgres`.
    """

    def __init__(self, programs: Path) -> None:
        in_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _SIZE
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=_MEMORY if in_memory else None))
        self._programs = programs
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            users = {user.pw_name: user for user in pwd.getpwall()}
            user = users.get("postgres") or users["nobody"]
            self._user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        self.port = free_port()
        self._numbers = iter(range(10**6))
        self._copied: dict[str, Stores] = {}
        data = str(self._folder / "data")
        init = [str(programs / "initdb"), "-D", data, "-U", "root", "-E", "UTF8", "--no-sync"]
        subprocess.run(init, check=True, capture_output=True, cwd=self._folder, **self._user)
        hosts = "host all root 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (self._folder / "data" / "pg_hba.conf").write_text(hosts)
        self.start()
        self.sql(f"create role {ROLE} login password '{PASSWORD}'")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        places = ["-D", str(self._folder / "data"), "-h", "127.0.0.1", "-p", str(self.port), "-k", str(self._folder)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), *places, *settings],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                **self._user,
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.sql("select 1")
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline and self._process.poll() is None, self.log
                time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: by SIGINT as at a restart, by SIGQUIT as at a crash."""
        self._process.send_signal(number)
        self._process.wait(PATIENCE)

    def restart(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop and start the server."""
        self.stop(number)
        self.start()

    def remove(self) -> None:
        """Stop the server and delete everything."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def log(self) -> str:
        """What the server has logged."""
        return (self._folder / "log").read_text("utf-8", "replace")

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of a statement that an administrator gives."""
        with self.administrator(database) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def administrator(self, database: str = "postgres") -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection of an administrator; each statement is a transaction."""
        where = {"host": "127.0.0.1", "port": self.port, "user": "root", "dbname": database}
        with psycopg.connect(autocommit=True, **where) as connection:  # type: ignore[arg-type]
            yield connection

    def run(self, command: Sequence[str], folder: Path) -> None:
        """Run a program of PostgreSQL in a folder, as the server's administrator."""
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "root", "PGDATABASE": "postgres"}
        program, *arguments = command
        environment = {**os.environ, **where}
        subprocess.run([str(self._programs / program), *arguments], cwd=folder, env=environment, check=True)

    def terminate(self, *databases: str) -> None:
        """End every connection to these databases."""
        names = ", ".join(f"'{name}'" for name in databases)
        self.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where datname in ({names})")

    def disturb(self, stores: Stores, chance: random.Random) -> str:
        """Restart or crash the server, end the connections of two stores, or lock one for some seconds; says which."""
        databases = [name_of(stores.tracking), name_of(stores.storage)]
        kind = chance.choice(["restart", "crash", "end of connections", "lock"])
        if kind == "lock":
            place, seconds = chance.choice([*zip(databases, ("runs", "trials"), strict=True)]), chance.uniform(0.1, 6.0)
            threading.Thread(target=self._lock, args=(*place, seconds), daemon=True).start()
        elif kind == "end of connections":
            self.terminate(*databases)
        else:
            self.restart(signal.SIGQUIT if kind == "crash" else signal.SIGINT)
        return f"server: {kind}"

    def _lock(self, database: str, table: str, seconds: float) -> None:
        with (
            contextlib.suppress(psycopg.Error),
            self.administrator(database) as holder,
        ):  # the server may stop meanwhile
            holder.execute("begin")
            holder.execute(f"lock table {table} in access exclusive mode".encode())
            time.sleep(seconds)

    def address(self, database: str) -> str:
        """A database's address."""
        return f"postgresql://{ROLE}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def database(self, template: str = "template0") -> str:
        """The name of a new database, a copy of another one."""
        name = f"store_{next(self._numbers)}"
        if template != "template0":
            self.terminate(template)
        self.sql(f"create database {name} owner {ROLE} template {template}")
        return name

    def empty_stores(self) -> Stores:
        """Two databases without tables."""
        return Stores(self.address(self.database()), self.address(self.database()))

    def stores(self) -> Stores:
        """Two databases with the tables of MLflow and Optuna, which are created once and copied."""
        return self.copy(self._filled())

    def copy(self, stores: Stores) -> Stores:
        """Copies of both databases."""
        return Stores(*(self.address(self.database(name_of(one))) for one in (stores.tracking, stores.storage)))

    def _filled(self) -> Stores:
        from harness.search.storage import open_storage
        from harness.tracking.store import connect

        if "" not in self._copied:
            made = self._copied[""] = self.empty_stores()
            connect(made.tracking, create=True)
            open_storage(made.storage)
        return self._copied[""]


def name_of(address: str) -> str:
    """The database of an address."""
    return address.rpartition("/")[2]


@functools.cache
def programs() -> Path | None:
    """The folder of PostgreSQL's programs; None if they are not installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = debian[-1] if debian else shutil.which("initdb")
    return Path(found).parent if found else None


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A server, which is removed afterwards."""
    folder = programs()
    assert folder is not None, MISSING
    server = Server(folder)
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server for all tests of this process."""
    if programs() is None:
        pytest.skip(MISSING)
    with running() as server:
        yield server
