"""Stores and folders that cannot be used are reported in one line each, before anything is written."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from harness.console.preflight import wrong_places, wrong_tracking
from harness.core.text import shown

STORAGE = "sqlite:///mlruns/optuna.db"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "text.db").write_text("no database")
    (tmp_path / "database.db").touch()
    with sqlite3.connect(tmp_path / "full.db") as database:
        database.execute("create table a (b)")
    return tmp_path


@pytest.mark.parametrize(
    "uri",
    [
        *(None, "sqlite:///database.db", "sqlite:///full.db", "sqlite:///new/folder/x.db", "http://127.0.0.1:5000"),
        *("https://example.org/mlflow", "databricks", "databricks://profile"),
    ],
)
def test_valid_places_are_accepted_and_left_as_they_are(uri: str | None, folder: Path) -> None:
    before = sorted(folder.iterdir())
    assert wrong_places(uri, STORAGE, Path("reports/of/mine")) == []
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("option", ["--tracking", "--storage"])
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "found 'nonsense'"),
        ("nonsense://", "found 'nonsense://'"),
        ("no\nsense\x1b[31m", r"found 'no\nsense\x1b[31m'"),
        (
            "sqlite:///text.db",
            "found 'text.db', which is not an SQLite database; allowed: an SQLite database, or a new file",
        ),
        ("sqlite:////", "found the folder '/'; allowed: a file"),
        ("sqlite:///text.db/x.db", "found '{folder}/text.db' (Not a directory); allowed: a folder that can be written"),
        ("postgresql+nodriver://host/x", "found 'postgresql+nodriver://host/x' (Can't load plugin"),
    ],
)
def test_invalid_addresses(option: str, url: str, message: str, folder: Path) -> None:
    tracking, storage = (url, STORAGE) if option == "--tracking" else (None, url)
    (line,) = wrong_places(tracking, storage, Path("reports"))
    expected = message.format(folder=folder)
    if (long := f"{folder}/text.db") in expected:
        expected = expected.replace(repr(long), shown(long))
    assert line.startswith(f"{option}: {expected}")
    assert "; allowed: " in line and line.isprintable()


def test_an_address_from_the_environment_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///mlruns")
    (line,) = wrong_tracking(None)
    assert line.startswith("MLFLOW_TRACKING_URI: found 'file:///mlruns'; allowed: sqlite:///FILE, ")


def test_all_mistakes_are_reported() -> None:
    Path("mlruns").touch()
    lines = wrong_places(None, STORAGE, Path("text.db"))
    assert [line.partition(":")[0] for line in lines] == ["MLFLOW_TRACKING_URI", "--storage", "--reports"]


def test_paths_of_other_encodings_are_refused() -> None:
    """MLflow's addresses are UTF-8, so a folder whose name is not text in this locale would end in a traceback."""
    named = "sqlite:///caf\udce9/mlflow.db"  # as Python reads the byte e9 of Latin-1
    lines = wrong_places(named, named.replace("mlflow", "optuna"), Path("caf\udce9"))
    assert [line.partition(":")[0] for line in lines] == ["--tracking", "--storage", "--reports"]
    assert all("allowed: a path of characters that this locale has (utf-8)" in line for line in lines)
    assert all(line.isprintable() for line in lines)
