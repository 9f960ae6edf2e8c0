"""Stores and folders that cannot be used are reported in one line each, before anything is written."""

from __future__ import annotations

import sqlite3
import sys
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
        ("sqlite:////dev/zero", "found '/dev/zero', which is a device; allowed: an SQLite database, or a new file"),
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


@pytest.mark.parametrize(
    ("url", "driver", "package"),
    [
        ("postgresql+psycopg2://me:hunter2@host/db", "psycopg2", "psycopg2-binary"),
        ("postgresql+psycopg://me:hunter2@host/db", "psycopg", "'psycopg[binary]'"),
        ("mysql://me:hunter2@host/db", "MySQLdb", "mysqlclient"),
        ("mysql+pymysql://me:hunter2@host/db", "pymysql", "pymysql"),
    ],
)
def test_a_driver_that_is_missing_is_named_with_its_package(
    url: str, driver: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, driver, None)
    found = f"found {url.replace('hunter2', '***')!r}, whose driver {driver} is not installed"
    assert wrong_tracking(url) == [f"--tracking: {found}; run: pip install {package}"]
    assert wrong_places(None, url, Path("reports")) == [f"--storage: {found}; run: pip install {package}"]


def test_a_database_for_both_stores_is_refused() -> None:
    """Both would keep the version of their tables in the table `alembic_version`."""
    tracking = "postgresql://me:hunter2@host/one"
    [line] = wrong_places(tracking, "postgresql+psycopg://other@host/one", Path("reports"))
    assert line.startswith(
        "--storage: found the database 'one', which --tracking names too; allowed: a database of its"
    )
    assert wrong_places(tracking, "postgresql+psycopg://me@host/two", Path("reports")) == []


@pytest.mark.parametrize("link", ["mlruns", "mlruns/tiny.work", "reports", "reports/tiny"])
def test_a_link_that_leads_nowhere(link: str, folder: Path) -> None:
    """A disk that is not mounted, for example. One line says which link, and what to do."""
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to("/no/such/disk")
    option = link.partition("/")[0].replace("reports", "--reports")
    [line] = wrong_places(None, STORAGE, Path("reports/tiny"), Path("mlruns/tiny.work"))
    assert line == (
        f"{option}: found the link {folder / link}, which leads to /no/such/disk, where nothing is; "
        "allowed: a folder: mount or create it, or remove the link"
    )
    if link == "mlruns":
        assert wrong_tracking(None) == [line.replace("mlruns:", "MLFLOW_TRACKING_URI:", 1)]


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
