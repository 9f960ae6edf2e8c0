from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.paths import DEFAULT_STORAGE, DEFAULT_URI, configured_uri, sqlite_file, sqlite_uri


def test_sqlite_addresses_and_their_files() -> None:
    assert (DEFAULT_URI, DEFAULT_STORAGE) == ("sqlite:///mlruns/mlflow.db", "sqlite:///mlruns/optuna.db")
    for file in (Path("a b/m.db"), Path("/a/m.db")):
        assert sqlite_file(sqlite_uri(file)) == file
    assert sqlite_file("sqlite:///m.db?timeout=3") == Path("m.db")
    assert sqlite_file("http://127.0.0.1:5000") is None


def test_the_tracking_uri_is_the_argument_else_the_environment_variable_else_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert configured_uri() == DEFAULT_URI
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert configured_uri() == "http://127.0.0.1:5000"
    assert configured_uri("sqlite:///m.db") == "sqlite:///m.db"
