"""A database that another process has locked is waited for: MLflow's and Optuna's alike."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from empty_store import copy_empty_store
from harness.core import waiting
from harness.core.waiting import WaitingConnection, show_waits, stop_waiting_after, wait_for_locks
from harness.search.readable import StorageError
from harness.search.storage import explained, open_storage
from harness.tracking import Tracker, TrackingError
from locks import locked


@pytest.fixture(autouse=True)
def shortened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name, seconds in {"_BUSY_SECONDS": 0.05, "NOTE_SECONDS": 0.2, "LOCK_SECONDS": 60.0}.items():
        monkeypatch.setattr(waiting, name, seconds)
    monkeypatch.setattr(waiting, "_waits", {})
    yield
    stop_waiting_after(math.inf)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "some.db") as database:
        database.execute("create table numbers (number)")
    database.close()
    return tmp_path / "some.db"


def connect(file: Path) -> WaitingConnection:
    return sqlite3.connect(file, timeout=0.05, factory=WaitingConnection)


STEPS: dict[str, Callable[[WaitingConnection], Any]] = {
    "read": lambda database: database.cursor().execute("select * from numbers").fetchall(),
    "write": lambda database: database.cursor().execute("insert into numbers values (1)"),
    "write many": lambda database: database.cursor().executemany("insert into numbers values (?)", [(1,), (2,)]),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_statement_waits_for_a_lock(step: str, file: Path) -> None:
    shown: list[str] = []
    with show_waits(shown.append), locked(file, seconds=0.5) as release, contextlib.closing(connect(file)) as database:
        release()
        STEPS[step](database)
        database.commit()
        rows = database.cursor().execute("select * from numbers").fetchall()
    assert len(rows) == {"read": 0, "write": 1, "write many": 2}[step]
    assert shown[0] == "waiting for some.db: another process has locked it (at most 60 s)"
    assert shown[1].startswith("some.db can be used again, after ") and len(shown) == 2


def test_a_commit_waits_for_a_reader(file: Path) -> None:
    with locked(file, kind="deferred", seconds=0.5) as release, contextlib.closing(connect(file)) as database:
        STEPS["write"](database)
        release()
        database.commit()
        assert not database.in_transaction
        assert STEPS["read"](database) == [(1,)]


def test_the_wait_is_bounded_over_all_retries(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOCK_SECONDS", 0.5)
    with locked(file), contextlib.closing(connect(file)) as database:
        began = time.monotonic()
        for _ in range(5):
            with pytest.raises(sqlite3.OperationalError, match="database is locked"):
                STEPS["write"](database)
        assert time.monotonic() - began < 5 * 0.5
        waiting._waits.clear()  # another lock, later
        began = time.monotonic()
        with pytest.raises(sqlite3.OperationalError):
            STEPS["write"](database)
        assert time.monotonic() - began >= 0.4


def test_a_stopped_command_does_not_wait_for_long(file: Path) -> None:
    with locked(file), contextlib.closing(connect(file)) as database:
        stop_waiting_after(0.2)
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            STEPS["write"](database)


def test_other_threads_do_not_wait(file: Path) -> None:
    errors: list[Exception] = []

    def write() -> None:
        with contextlib.closing(connect(file)) as database:
            try:
                STEPS["write"](database)
            except sqlite3.OperationalError as error:
                errors.append(error)

    with locked(file):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(60)
    assert len(errors) == 1


def test_other_errors_are_not_repeated(file: Path) -> None:
    with contextlib.closing(connect(file)) as database:
        for _ in range(2):
            with pytest.raises(sqlite3.OperationalError, match="no such table"):
                database.cursor().execute("select * from missing")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exclusive", "immediate"])
def test_both_stores_wait(kind: str, tmp_path: Path) -> None:
    copy_empty_store(tmp_path / "mlflow.db")
    storage = open_storage(f"sqlite:///{tmp_path}/optuna.db")
    tracker = Tracker("waiting", f"sqlite:///{tmp_path}/mlflow.db")
    steps: dict[str, Callable[[], Any]] = {
        "optuna.db": lambda: storage.create_new_study([waiting_direction()], "one"),
        "mlflow.db": lambda: tracker.experiment.client.create_run(tracker.experiment.id),
    }
    for name, step in steps.items():
        shown: list[str] = []
        with show_waits(shown.append), locked(tmp_path / name, kind, 0.5) as release:
            release()
            step()
        assert shown[0] == f"waiting for {name}: another process has locked it (at most 60 s)"
        assert shown[1].startswith(f"{name} can be used again, after ")


def test_a_lock_that_stays_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/optuna.db")
    copy_empty_store(tmp_path / "mlflow.db")
    monkeypatch.setattr(waiting, "LOCK_SECONDS", 0.3)
    message = "^{}: .*database is locked"
    with locked(tmp_path / "optuna.db"), pytest.raises(StorageError, match=message.format("Optuna")), explained():
        storage.create_new_study([waiting_direction()], "one")
    with locked(tmp_path / "mlflow.db"), pytest.raises(TrackingError, match=message.format("MLflow")):
        Tracker("waiting", f"sqlite:///{tmp_path}/mlflow.db").open_sweep(None)  # type: ignore[arg-type]


def waiting_direction() -> Any:
    from optuna.study import StudyDirection

    return StudyDirection.MINIMIZE


def test_every_engine_of_this_process_waits(file: Path) -> None:
    from sqlalchemy import create_engine

    wait_for_locks()
    wait_for_locks()
    with create_engine(f"sqlite:///{file}").connect() as connection:
        assert isinstance(connection.connection.driver_connection, WaitingConnection)
