"""A new store is copied from an empty one in the cache, and is what MLflow would have made."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mlflow.version import VERSION

from harness.core.paths import sqlite_file
from harness.tracking.store import TrackingError, connect

TEMPLATE = f"mlflow-{VERSION}.db"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a folder of its own to work in."""
    monkeypatch.setenv("GPT_HARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "cache"


def made(name: str) -> Path:
    """A new store of this name."""
    connect(f"sqlite:///{name}", create=True)
    file = sqlite_file(f"sqlite:///{name}")
    assert file is not None
    assert file.is_file()
    assert not list(file.parent.glob(".*")), "something was left behind"
    return file


def asked(file: Path, question: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(file)) as database:
        return database.execute(question).fetchall()


def tables(file: Path) -> list[Any]:
    """What a database is made of. MLflow writes the values that a CHECK allows in any order."""
    parts = asked(file, "SELECT type, name, sql FROM sqlite_master ORDER BY type, name")
    return [(kind, name, sorted(re.findall(r"\w+", sql or ""))) for kind, name, sql in parts]


def mark(file: Path) -> None:
    """Make a template known in what is copied from it."""
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE copied (so INTEGER)")


def test_the_second_store_is_a_copy_and_no_different(cache: Path) -> None:
    first = made("first.db")
    assert [path.name for path in cache.iterdir()] == [TEMPLATE]
    second = made("second.db")
    assert tables(second) == tables(first)
    there = "SELECT experiment_id, name, artifact_location, lifecycle_stage, workspace FROM experiments"
    assert asked(second, there) == asked(first, there) != []
    mark(cache / TEMPLATE)
    assert asked(made("third.db"), "SELECT name FROM sqlite_master WHERE name = 'copied'")


def test_the_kept_store_is_empty_and_knows_no_folder(cache: Path, tmp_path: Path) -> None:
    made("first.db")
    template = cache / TEMPLATE
    for table in ("experiments", "runs"):
        assert asked(template, f"SELECT COUNT(*) FROM {table}") == [(0,)]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with contextlib.chdir(elsewhere):
        file = made("third.db")
    assert str(elsewhere) in asked(file, "SELECT artifact_location FROM experiments")[0][0]


@pytest.mark.parametrize("damage", ["cut", "text", "nothing", "another", "folder"])
def test_a_kept_store_that_is_none_is_not_used(cache: Path, damage: str) -> None:
    first = made("first.db")
    template = cache / TEMPLATE
    whole = template.read_bytes()
    template.unlink()
    if damage == "cut":
        template.write_bytes(whole[: len(whole) // 2])
    elif damage == "text":
        template.write_text("SQLite it is not")
    elif damage == "nothing":
        template.touch()
    elif damage == "another":
        mark(template)
    else:
        template.mkdir()
    second = made("second.db")
    assert tables(second) == tables(first)
    if damage != "folder":
        mark(template)  # a whole one has taken its place
        assert asked(made("third.db"), "SELECT name FROM sqlite_master WHERE name = 'copied'")


def test_a_cache_that_cannot_be_written_keeps_nothing(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    made("first.db")
    assert tables(made("second.db")) == tables(made("third.db"))


def test_a_store_that_is_missing_is_made_only_where_that_was_asked_for(cache: Path) -> None:
    with pytest.raises(TrackingError, match=r"found no MLflow store at .*first\.db; run a sweep first"):
        connect("sqlite:///first.db")
    assert not Path("first.db").exists()
    assert not cache.exists()
