"""A PostgreSQL server that cannot be used for a while is waited for, and every call has its effect once."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from mlflow.entities import Metric
from optuna.storages._cached_storage import _CachedStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from harness.core import database_servers, waiting
from harness.core.database_servers import one_at_a_time, unavailable
from harness.core.waiting import show_waits, stop_waiting_after
from harness.search.readable import StorageError
from harness.search.storage import explained, open_storage
from harness.tracking import Tracker, TrackingError
from harness.tracking.store import connect
from postgres import Server, Stores, name_of, postgres

__all__ = ["postgres"]


@pytest.fixture(autouse=True)
def shortened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(waiting, "_BUSY_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "NOTE_SECONDS", 0.05)  # the first try may only find that a connection is gone
    monkeypatch.setattr(waiting, "LOCK_SECONDS", 60.0)
    monkeypatch.setattr(waiting, "_waits", {})
    monkeypatch.setattr(database_servers, "_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(database_servers, "_LOCK_TIMEOUT", "200ms")
    yield
    stop_waiting_after(math.inf)


class Opened:
    """Both stores, open, with a run and a trial."""

    def __init__(self, stores: Stores) -> None:
        self.databases = [name_of(stores.tracking), name_of(stores.storage)]
        self.storage = _CachedStorage(open_storage(stores.storage).database)
        self.study = self.storage.create_new_study([StudyDirection.MINIMIZE], "one")
        self.client = connect(stores.tracking)
        self.run = self.client.create_run("0").info.run_id

    def use(self) -> None:
        """What a sweep writes: a trial from its start to its end, and a point."""
        trial = self.storage.create_new_trial(self.study)
        self.end(trial)
        self.log()

    def end(self, trial: int) -> None:
        self.storage.set_trial_intermediate_value(trial, 10, 4.0)
        self.storage.set_trial_state_values(trial, TrialState.COMPLETE, [4.0])

    def log(self) -> None:
        self.client.log_batch(self.run, [Metric("val/loss", 4.0, 1000, 10)])

    def check(self, times: int) -> None:
        """Everything is stored once."""
        trials = self.storage.get_all_trials(self.study)
        assert [(trial.number, trial.state, trial.value) for trial in trials] == [
            (number, TrialState.COMPLETE, 4.0) for number in range(times)
        ]
        assert len(self.client.get_metric_history(self.run, "val/loss")) == 1


@pytest.fixture
def opened(postgres: Server) -> Opened:
    return Opened(postgres.stores())


TABLES = ("metrics", "trial_intermediate_values")
Fault = Callable[[Server, list[str], ExitStack], Callable[[], object]]  # begins; returns what ends it


def locked(server: Server, databases: list[str], stack: ExitStack) -> Callable[[], object]:
    holders = [stack.enter_context(server.administrator(name)) for name in databases]
    for holder, table in zip(holders, TABLES, strict=True):
        holder.execute("begin")
        holder.execute(f"lock table {table} in access exclusive mode".encode())
    return lambda: [holder.execute("rollback") for holder in holders]


def stopped(server: Server, _databases: list[str], _stack: ExitStack) -> Callable[[], object]:
    server.stop()
    return server.start


def refusing(begin: str, end: str) -> Fault:
    """Databases that are changed by a statement, and whose connections are ended."""

    def fault(server: Server, databases: list[str], _stack: ExitStack) -> Callable[[], object]:
        def each(statement: str) -> None:
            for name in databases:
                server.sql(f"alter database {name} {statement}")
            server.terminate(*databases)

        each(begin)
        return lambda: each(end)

    return fault


def raising(code: str) -> Fault:
    """Databases in which every new row of two tables is refused with an SQLSTATE."""

    def fault(server: Server, databases: list[str], _stack: ExitStack) -> Callable[[], object]:
        body = f"begin raise exception 'as the test wants' using errcode = '{code}'; end"
        for name, table in zip(databases, TABLES, strict=True):
            server.sql(f"create function fail() returns trigger language plpgsql as $$ {body} $$", name)
            server.sql(f"create trigger failing before insert on {table} execute function fail()", name)
        return lambda: [server.sql("drop function fail cascade", name) for name in databases]

    return fault


FAULTS: dict[str, tuple[Fault, str]] = {
    "stopped": (stopped, "connection refused"),
    "locked": (locked, "another process has locked its tables"),
    "read-only": (
        refusing("set default_transaction_read_only = on", "reset default_transaction_read_only"),
        "it is read-only",
    ),
    "too many connections": (refusing("connection limit 0", "connection limit -1"), "it has too many connections"),
    "disk full": (raising("53100"), "its disk is full"),
    "deadlock": (raising("40P01"), "another transaction was in the way"),
    "serialization failure": (raising("40001"), "another transaction was in the way"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAULTS)
def test_both_stores_wait_for_a_server(kind: str, opened: Opened, postgres: Server) -> None:
    fault, reason = FAULTS[kind]
    trial = opened.storage.create_new_trial(opened.study)
    server = f"the PostgreSQL server at 127.0.0.1:{postgres.port}"
    shown: list[str] = []

    def show(text: str) -> None:
        shown.append(text)
        if text.startswith("waiting"):
            end()

    with show_waits(show):
        for step in (opened.log, lambda: opened.end(trial)):
            with ExitStack() as stack:
                end = fault(postgres, opened.databases, stack)
                step()
            assert shown[0] == f"waiting for {server}: {reason} (at most 60 s)"
            assert shown[1].startswith(f"{server} can be used again, after ")
            shown.clear()
            waiting._waits.clear()
    opened.check(1)


def test_connections_that_were_ended_are_replaced(opened: Opened, postgres: Server) -> None:
    opened.use()
    postgres.terminate(*opened.databases)
    opened.use()
    opened.check(2)


@pytest.mark.slow
def test_a_call_whose_answer_was_lost_has_its_effect_once(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each commit in turn is carried out, and its answer does not arrive."""
    commit, commits = psycopg.Connection.commit, Counter[str]()

    def commit_and_lose(connection: psycopg.Connection[Any]) -> None:
        commit(connection)
        commits["all"] += 1
        if commits["all"] == lost:
            connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(psycopg.Connection, "commit", commit_and_lose)
    lost, times = 0, 0
    while commits["all"] >= lost:  # until there are fewer commits than that
        commits.clear()
        lost += 1
        opened.use()
        times += 1
    assert times > 5
    opened.check(times)


@pytest.mark.slow
def test_a_server_that_stays_away_is_one_sentence(
    opened: Opened, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOCK_SECONDS", 0.3)
    tracker = Tracker("away", postgres.address(opened.databases[0]))
    storage = postgres.address(opened.databases[1])
    away = f"the PostgreSQL server at 127.0.0.1:{postgres.port} cannot be used: "
    postgres.stop()
    try:
        with pytest.raises(StorageError, match=f"^Optuna: {away}"), explained(storage):
            opened.storage.get_n_trials(opened.study)
        with pytest.raises(TrackingError, match=f"^MLflow: {away}"):
            tracker.heartbeat(opened.run)
        errors: list[str] = []
        thread = threading.Thread(target=lambda: errors.append(_error(opened.use)))
        thread.start()
        thread.join(60)
        assert "connection refused" in errors[0].lower()  # it does not wait
    finally:
        postgres.start()


def _error(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return str(error.__cause__ or error)
    return ""


@pytest.mark.parametrize(
    ("database", "user"), [("missing", "root"), ("postgres", "nobody:here"), ("postgres", "researcher:wrong")]
)
def test_a_mistake_is_not_waited_for(database: str, user: str, postgres: Server) -> None:
    address = f"postgresql://{user}@127.0.0.1:{postgres.port}/{database}"
    with pytest.raises(StorageError, match=r"^--storage: found '.*', which cannot be opened: .*FATAL") as error:
        open_storage(address)
    assert ":wrong" not in str(error.value)
    with pytest.raises(TrackingError, match=r"^MLflow: .*FATAL") as other:
        connect(address)
    assert ":wrong" not in str(other.value)


def test_one_process_at_a_time(postgres: Server) -> None:
    address = postgres.empty_stores().tracking.replace("postgresql:", "postgresql+psycopg:")
    order: list[str] = []

    def second() -> None:
        with one_at_a_time(address, "one"):
            order.append("second")

    with one_at_a_time(address, "one"):
        thread = threading.Thread(target=_until_done, args=(second,))
        thread.start()
        with one_at_a_time(address, "another"):
            order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def _until_done(call: Callable[[], object]) -> None:
    """Repeat a call in a thread, which does not wait by itself."""
    while True:
        try:
            call()
            return
        except Exception as error:
            assert unavailable(error)


def test_other_errors_are_none_of_a_server() -> None:
    assert unavailable(ValueError("connection refused")) == ""
    assert unavailable(psycopg.errors.UndefinedTable("relation does not exist")) == ""
    assert unavailable(psycopg.errors.AdminShutdown("terminating connection")) == "it is stopping or starting"
