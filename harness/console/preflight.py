"""Where a command is told to write or to read: looked at before anything is written, and each mistake is one line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from harness.core.paths import configured_uri
from harness.core.text import shown

_SQLITE: Final = "sqlite:///"
_SQLITE_BEGINS: Final = b"SQLite format 3\0"
_DATABASES: Final = ("sqlite", "postgresql", "mysql", "mssql")  # that MLflow has a store for
_REMOTE: Final = ("databricks", "databricks-uc", "uc")


def wrong_places(tracking: str | None, storage: str, reports: Path) -> list[str]:
    """What is wrong with the places that a sweep writes to: MLflow's store, Optuna's, the folder of the reports."""
    return [*wrong_tracking(tracking), *_wrong_database("--storage", storage), *_wrong_folder("--reports", reports)]


def wrong_tracking(tracking: str | None) -> list[str]:
    """What is wrong with an address of MLflow's (None: the environment's, or the default). Asks no server."""
    option, uri = "--tracking" if tracking else "MLFLOW_TRACKING_URI", configured_uri(tracking)
    try:
        address = urlsplit(uri)
    except ValueError:  # a bracket that is not closed
        address = urlsplit("")
    scheme = address.scheme.partition("+")[0]
    if scheme in _REMOTE or uri in _REMOTE or (scheme in ("http", "https") and address.netloc):
        return []
    if scheme in _DATABASES:
        return list(_wrong_database(option, uri))
    return [f"{option}: found {shown(uri)}; allowed: sqlite:///FILE, http://HOST:PORT or a database's address"]


def _wrong_database(option: str, url: str) -> Iterator[str]:
    """An address that SQLAlchemy cannot use here, or an SQLite file that cannot be one."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        make_url(url).get_dialect().import_dbapi()
    except (SQLAlchemyError, ImportError, ValueError) as error:
        why = str(error).splitlines()[0]
        yield f"{option}: found {shown(url)} ({why}); allowed: an address such as sqlite:///FILE"
        return
    if not url.startswith(_SQLITE):
        return
    file = Path(url.removeprefix(_SQLITE).partition("?")[0])
    if file.is_dir():
        yield f"{option}: found the folder {shown(str(file))}; allowed: a file"
    elif file.is_file():
        yield from _wrong_file(option, file)
    else:
        yield from _wrong_folder(option, file.parent)


def _wrong_file(option: str, file: Path) -> Iterator[str]:
    try:
        with file.open("rb") as stream:
            begins = stream.read(len(_SQLITE_BEGINS))
    except OSError as error:
        yield f"{option}: found {shown(str(file))}, which cannot be read ({error.strerror}); allowed: a readable file"
        return
    if begins not in (b"", _SQLITE_BEGINS):
        yield f"{option}: found {shown(str(file))}, which is no SQLite database; allowed: one, or a new file"


def _wrong_folder(option: str, folder: Path) -> Iterator[str]:
    """A folder that is none, or in which nothing can be made; one that is missing is judged by what it would lie in."""
    place = Path(os.path.abspath(folder))  # noqa: PTH100 (nothing is to be resolved)
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):  # has no name, so it cannot be left behind
            pass
    except OSError as error:
        yield f"{option}: found {shown(str(place))} ({error.strerror}); allowed: a folder that can be written"
