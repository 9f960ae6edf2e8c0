from __future__ import annotations

from pathlib import Path

import pytest

from harness.core import paths
from harness.core.paths import (
    DEFAULT_STORAGE,
    DEFAULT_URI,
    broken_link,
    configured_uri,
    sqlite_file,
    sqlite_uri,
    with_driver,
)


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


def test_a_link_that_leads_nowhere_is_found_anywhere_in_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").symlink_to("/no/such/folder")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "there").symlink_to(tmp_path)
    expected = f"the link {tmp_path}/gone, which leads to /no/such/folder, where nothing is"
    assert broken_link(Path("gone")) == broken_link(tmp_path / "there" / "gone" / "a").replace("/there", "") == expected
    assert broken_link(Path("circle")).startswith(f"the link {tmp_path}/circle, which leads to circle, ")
    assert broken_link(Path("there/new")) == broken_link(Path("new/folder")) == ""


@pytest.mark.parametrize("missing", [True, False])
def test_a_postgresql_address_gets_the_installed_driver(missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "find_spec", lambda name: None if missing else name)
    driver = "postgresql+psycopg" if missing else "postgresql"
    assert with_driver("postgresql://me:x@host/db") == f"{driver}://me:x@host/db"
    assert with_driver("postgres://host/db") == f"{driver}://host/db"
    for same in ("postgresql+psycopg://host/db", "sqlite:///a.db", "http://host:5000", "a/postgresql://b"):
        assert with_driver(same) == same
    assert configured_uri("postgresql://host/db") == f"{driver}://host/db"
