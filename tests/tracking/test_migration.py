"""A store of an older MLflow is converted after a line that says so, with a copy beside it; others are refused."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.version import VERSION

from empty_store import copy_empty_store
from harness.tracking import SweepBusy, TrackingError, find_sweep, load_runs, migration, provenance
from harness.tracking.store import connect
from old_schema import EXPERIMENT, OLDER, older_store, revision_of, set_revision
from paths import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An SQLite file of an older MLflow."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    older_store(tmp_path / "mlflow.db")
    return tmp_path / "mlflow.db"


def uri_of(file: Path) -> str:
    return f"sqlite:///{file}"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_sweep_converts_an_older_store_and_keeps_a_copy(file: Path) -> None:
    before, said = file.read_bytes(), []

    def announce(text: str) -> None:
        assert file.read_bytes() == before  # nothing is changed before the line
        said.append(text)

    client = connect(uri_of(file), create=True, announce=announce)
    copy = file.with_name(f"mlflow.before-{VERSION}.db")
    assert said == [f"{file} was written by an older MLflow: it is converted for the installed one; {copy} is a copy"]
    assert client.search_runs(["1"])[0].data.metrics == {"loss": 2.5}
    assert revision_of(copy) == OLDER != revision_of(file)
    with contextlib.closing(sqlite3.connect(copy)) as database:
        assert database.execute("select name from experiments where experiment_id = 1").fetchall() == [(EXPERIMENT,)]
    assert names(file.parent) == [copy.name, file.name]
    connect(uri_of(file), create=True, announce=announce)
    assert len(said) == 1


def test_a_copy_never_replaces_another(file: Path) -> None:
    (file.parent / f"mlflow.before-{VERSION}.db").write_text("mine")
    connect(uri_of(file), create=True, announce=lambda _: None)
    assert (file.parent / f"mlflow.before-{VERSION}.db").read_text() == "mine"
    assert revision_of(file.parent / f"mlflow.before-{VERSION}-2.db") == OLDER


def test_a_command_that_only_reads_changes_nothing(file: Path) -> None:
    before = file.read_bytes()
    for read in (lambda: load_runs(EXPERIMENT, uri_of(file)), lambda: find_sweep(EXPERIMENT, "1", uri_of(file))):
        with pytest.raises(TrackingError) as caught:
            read()
        assert str(caught.value) == (
            f"found {file}, which an older MLflow wrote; a sweep converts it and keeps a copy; or copy it yourself and "
            f"run: python -m mlflow db upgrade {uri_of(file)}"
        )
    assert (file.read_bytes(), names(file.parent)) == (before, [file.name])


def test_the_command_in_the_sentence_works(file: Path) -> None:
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", uri_of(file)]
    subprocess.run(command, check=True, capture_output=True)
    assert connect(uri_of(file)).get_experiment("1").name == EXPERIMENT


def test_a_schema_without_new_tables_is_older_too(tmp_path: Path) -> None:
    """MLflow does not convert it, but refuses it."""
    file = tmp_path / "mlflow.db"
    copy_empty_store(file)
    head = revision_of(file)
    previous = migration._scripts().get_revision(head).down_revision
    assert isinstance(previous, str)
    set_revision(file, previous)
    with pytest.raises(TrackingError, match="which an older MLflow wrote"):
        connect(uri_of(file))


def test_a_newer_store_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    copy_empty_store(file)
    set_revision(file, "fedcba987654")
    before = file.read_bytes()
    with pytest.raises(TrackingError, match=rf"which a newer MLflow than the installed {VERSION} wrote; install that"):
        connect(uri_of(file), create=True, announce=lambda _: None)
    assert file.read_bytes() == before


def test_the_database_of_another_program_is_named(tmp_path: Path) -> None:
    import optuna

    file = tmp_path / "optuna.db"
    optuna.create_study(storage=uri_of(file))
    with pytest.raises(TrackingError, match="the database of another program; allowed: one of MLflow"):
        connect(uri_of(file), create=True, announce=lambda _: None)


def test_another_database_is_refused_with_the_command(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "postgresql://me:hunter2@host/mlflow"
    monkeypatch.setattr(migration, "_revision", lambda _: (OLDER, True))
    found = "found postgresql://me:***@host/mlflow, which an older MLflow wrote; back it up, then run:"
    with pytest.raises(TrackingError) as caught:
        migration.check_schema(uri, lambda _: None)
    assert str(caught.value) == f'--tracking: {found} python -m mlflow db upgrade "$MLFLOW_TRACKING_URI"'
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError) as caught:
        migration.check_schema(uri, lambda _: None)
    assert str(caught.value) == f'MLFLOW_TRACKING_URI: {found} python -m mlflow db upgrade "$MLFLOW_TRACKING_URI"'


def test_a_store_that_a_sweep_writes_to_is_not_converted(file: Path) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(sleeping) as other:
        owner = provenance.process_name().split(":")
        owner[1:] = [str(other.pid), f"{time.time():.2f}"]
        with contextlib.closing(sqlite3.connect(file)) as database, database:
            database.execute("update runs set status = 'RUNNING'")
            database.execute("insert into tags values ('harness.process', ?, ?)", (":".join(owner), "0" * 32))
        before = file.read_bytes()
        with pytest.raises(SweepBusy, match=f"process {':'.join(owner)} writes to it"):
            connect(uri_of(file), create=True, announce=lambda _: None)
        assert (file.read_bytes(), names(file.parent)) == (before, [file.name])
        other.kill()


def test_a_disk_that_is_full_leaves_the_store_as_it_was(file: Path) -> None:
    before = file.read_bytes()
    code = f"""
import resource
from pathlib import Path
from harness.tracking.store import connect
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2}, {len(before) // 2}))
try:
    connect({uri_of(file)!r}, create=True, announce=print)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"{file} cannot be converted for the installed MLflow: " in done.stdout, done.stdout
    assert done.stdout.endswith("; it is unchanged\n")
    assert (file.read_bytes(), names(file.parent)) == (before, [file.name])


CONVERT = """
import sys
from harness.tracking.store import connect
print(len(connect(sys.argv[1], create=True, announce=print).search_runs(["1"])), flush=True)
"""


def test_two_processes_convert_it_once(file: Path) -> None:
    command = [sys.executable, "-c", CONVERT, uri_of(file)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    printed = [one.communicate(timeout=240)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert sorted(text.splitlines()[-1] for text in printed) == ["1", "1"]
    assert sum(text.count("was written by an older MLflow") for text in printed) == 1
    assert len(names(file.parent)) == 2


def test_a_kill_leaves_the_old_store_or_the_new_one(file: Path) -> None:
    command = [sys.executable, "-c", CONVERT, uri_of(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert revision_of(file) == OLDER
    client = connect(uri_of(file), create=True, announce=lambda _: None)
    assert isinstance(client, MlflowClient)
    assert client.search_runs(["1"])[0].data.metrics == {"loss": 2.5}
