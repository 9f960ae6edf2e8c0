"""Opening and creating the store, also by two processes at the same moment."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import tracking
from harness.tracking import Tracker, TrackingError, load_runs, ui_command
from harness.tracking import store as store_module
from harness.tracking.store import connect
from paths import ROOT
from stored_runs import Store

pytestmark = pytest.mark.slow


def test_two_processes_create_one_store_silently_and_without_a_network(store: Store) -> None:
    assert store.printed == ["", ""]
    names = {experiment.name for experiment in store.client.search_experiments()}
    assert {"first", "second"} <= names
    assert {path.name for path in (store.folder / "mlruns").iterdir()} == {"mlflow.db", "artifacts"}


def test_importing_the_tracker_imports_nothing_heavy() -> None:
    code = "import sys, harness.tracking; print({'mlflow', 'pandas', 'torch', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_default_place_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert ui_command() == (
        "python -m mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db --host 127.0.0.1 --port 5000"
    )
    with pytest.raises(TrackingError, match=r"found no MLflow store at .*mlflow\.db"):
        load_runs("first")
    assert list(tmp_path.iterdir()) == []  # reading creates nothing
    assert tracking.default_tracking_uri() == "sqlite:///mlruns/mlflow.db"
    assert (tmp_path / "mlruns").is_dir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking.default_tracking_uri() == ui_command() == "http://127.0.0.1:5000"
    assert ui_command("sqlite:////a b/m.db").count("'sqlite:////a b/m.db'") == 1


def test_an_unusable_address_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    before = dict(os.environ)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{bound.getsockname()[1]}"  # bound, but not listening
        with pytest.raises(TrackingError, match="found no MLflow server that answers at http"):
            Tracker("x", uri)
    assert dict(os.environ) == before  # MLflow's retries elsewhere are unchanged
    (tmp_path / "text.db").write_text("not a database, but long enough to have had a header" * 100)
    for uri in ("nonsense://x", f"sqlite:///{tmp_path}/text.db"):
        with pytest.raises(TrackingError) as caught:
            load_runs("x", uri)
        assert "\n" not in str(caught.value)


def test_brief_requests_change_mlflows_retries_only_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    def patience() -> tuple[int, int]:
        retries: Any = MLFLOW_HTTP_REQUEST_MAX_RETRIES
        timeout: Any = MLFLOW_HTTP_REQUEST_TIMEOUT
        return retries.get(), timeout.get()

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    before = patience()
    with pytest.raises(KeyError), tracking.brief_requests():
        with tracking.brief_requests():
            assert patience() == (2, 30)
        assert patience() == (2, 30)
        raise KeyError
    assert patience() == before != (2, 30)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "9")
    with tracking.brief_requests():
        assert patience() == (9, 30)
    assert patience() == (9, before[1])


def test_a_missing_store_is_created_only_on_request(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/folder/first.db"
    with pytest.raises(TrackingError, match=r"found no MLflow store at .*first\.db; run a sweep first"):
        connect(uri)
    assert list(tmp_path.iterdir()) == []
    assert connect(uri, create=True).search_experiments()[0].name == "Default"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["first.db"]  # no temporary file is left


@pytest.mark.parametrize("error", [FileExistsError, OSError], ids=["raced", "no hard links"])
def test_a_new_store_never_replaces_one_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    """Another process finishes its store while this one still runs MLflow's migrations."""
    file = tmp_path / "mlflow.db"

    def link(fresh: Path, target: Path) -> None:
        assert fresh.exists() and target == file
        target.write_bytes(b"the other process's store")
        raise error

    monkeypatch.setattr(os, "link", link)
    store_module._create_store(file)
    assert file.read_bytes() == b"the other process's store"
    assert list(tmp_path.iterdir()) == [file]


def test_a_store_is_created_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", refuse)
    client = connect(f"sqlite:///{tmp_path}/mlflow.db", create=True)
    assert client.search_experiments()[0].name == "Default"
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_full_disk_names_the_database(tmp_path: Path) -> None:
    from sqlalchemy import Engine, event

    def limited(connection: Any, _: object) -> None:
        connection.execute("pragma max_page_count = 1")

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    connect(uri, create=True)
    (tmp_path / "mlflow.db").rename(tmp_path / "full.db")  # MLflow keeps connections by address
    event.listen(Engine, "connect", limited)
    try:
        full = rf"^disk: No space left on device: {tmp_path}/full.db \(on the file system /.*\)$"
        with pytest.raises(TrackingError, match=full):
            for number in range(200):
                Tracker(f"{number}-" + "x" * 90, f"sqlite:///{tmp_path}/full.db")
    finally:
        event.remove(Engine, "connect", limited)
