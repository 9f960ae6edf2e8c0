"""Validates the addresses of stores and the output folder before any work starts; one line per mistake."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from harness.console.output import encodable
from harness.core.database_servers import is_postgresql
from harness.core.links import special_file
from harness.core.paths import STORES, broken_link, configured_uri, sqlite_file, with_driver
from harness.core.secrets import without_secrets
from harness.core.text import shown

_SQLITE_HEADER: Final = b"SQLite format 3\0"
_DATABASES: Final = ("sqlite", "postgresql", "mysql", "mssql")  # supported by MLflow
_REMOTE: Final = ("databricks", "databricks-uc", "uc")


_DRIVERS: Final = {"psycopg2": "psycopg2-binary", "psycopg": "'psycopg[binary]'", "MySQLdb": "mysqlclient"}  # of pip


def wrong_places(tracking: str | None, storage: str, reports: Path, work: Path | None = None) -> list[str]:
    """Mistakes in the places that a sweep writes to.

    Args:
        tracking: MLflow's address; None: from the environment, or the default.
        storage: Optuna's address.
        reports: folder for reports.
        work: folder of unfinished runs, which no option names.
    """
    if work is not None and (wrong := list(_wrong_folder(str(STORES), work))):
        return wrong  # the default stores are in the same folder
    wrong = [*wrong_tracking(tracking), *_wrong_database("--storage", storage)]
    return [*wrong, *([] if wrong else _same_database(configured_uri(tracking), storage)), *wrong_reports(reports)]


def _same_database(tracking: str, storage: str) -> Iterator[str]:
    """A mistake if MLflow and Optuna would share a database: both keep the version of their tables in one table."""
    from sqlalchemy.engine import make_url

    if is_postgresql(tracking) and is_postgresql(with_driver(storage)):
        one, other = make_url(tracking), make_url(storage)
        place = ("host", "port", "database", "query")
        if all(getattr(one, part) == getattr(other, part) for part in place):
            found = f"found the database {shown(str(one.database))}, which --tracking names too"
            yield f"--storage: {found}; allowed: a database of its own, because MLflow and Optuna cannot share one"


def wrong_reports(folder: Path) -> list[str]:
    """Mistakes in the folder for reports."""
    return list(_wrong_folder("--reports", folder))


def wrong_tracking(tracking: str | None) -> list[str]:
    """Mistakes in MLflow's address (None: from the environment, or the default). Contacts no server."""
    if tracking == "":  # as `--tracking "$VARIABLE"` is where the variable is not set
        return ["--tracking: found nothing; allowed: an address, or leave the option out"]
    option, uri = "--tracking" if tracking else "MLFLOW_TRACKING_URI", configured_uri(tracking)
    try:
        address = urlsplit(uri)
    except ValueError:  # unbalanced brackets
        address = urlsplit("")
    scheme = address.scheme.partition("+")[0]
    if scheme in _REMOTE or uri in _REMOTE or (scheme in ("http", "https") and address.netloc):
        return []
    if scheme in _DATABASES:
        return list(_wrong_database(option, uri))
    found = shown(without_secrets(uri))
    return [f"{option}: found {found}; allowed: sqlite:///FILE, http://HOST:PORT or a database's address"]


def _wrong_database(option: str, url: str) -> Iterator[str]:
    """Mistakes in a database's address: no driver for it, or an SQLite file that cannot be used."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    address = shown(without_secrets(url))
    try:
        make_url(with_driver(url)).get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        package = _DRIVERS.get(error.name or "", error.name)
        yield f"{option}: found {address}, whose driver {error.name} is not installed; run: pip install {package}"
        return
    except (SQLAlchemyError, ImportError, ValueError) as error:
        why = without_secrets(str(error).splitlines()[0])
        yield f"{option}: found {address} ({why}); allowed: an address such as sqlite:///FILE"
        return
    file = sqlite_file(url)
    if file is None:
        return
    if wrong := list(_wrong_name(option, file)):
        yield from wrong
    elif file.is_dir():
        yield f"{option}: found the folder {shown(str(file))}; allowed: a file"
    elif file.is_file():
        yield from _wrong_file(option, file)
    elif file.exists():
        kind = special_file(file.stat().st_mode)
        yield f"{option}: found {shown(str(file))}, which is {kind}; allowed: an SQLite database, or a new file"
    else:
        yield from _wrong_folder(option, file.parent)


def _wrong_file(option: str, file: Path) -> Iterator[str]:
    try:
        with file.open("rb") as stream:
            header = stream.read(len(_SQLITE_HEADER))
    except OSError as error:
        yield f"{option}: found {shown(str(file))}, which cannot be read ({error.strerror}); allowed: a readable file"
        return
    if header not in (b"", _SQLITE_HEADER):
        found = f"found {shown(str(file))}, which is not an SQLite database"
        yield f"{option}: {found}; allowed: an SQLite database, or a new file"


def _wrong_folder(option: str, folder: Path) -> Iterator[str]:
    """Mistakes in a folder: it, or the nearest parent that exists, is not a folder or cannot be written."""
    if wrong := list(_wrong_name(option, folder)):
        yield from wrong
        return
    if link := broken_link(folder):
        yield f"{option}: found {link}; allowed: a folder: mount or create it, or remove the link"
        return
    place = Path(os.path.abspath(folder))  # noqa: PTH100 (nothing is to be resolved)
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):  # has no name, so nothing is left behind
            pass
    except OSError as error:
        yield f"{option}: found {shown(str(place))} ({error.strerror}); allowed: a folder that can be written"


def _wrong_name(option: str, path: Path) -> Iterator[str]:
    """A mistake if a path has bytes that are no text in this locale: MLflow cannot store such addresses."""
    found = os.path.abspath(path)  # noqa: PTH100 (nothing is to be resolved)
    if encodable(found, "utf-8") != found:
        code = sys.getfilesystemencoding()
        yield f"{option}: found {shown(found)}; allowed: a path of characters that this locale has ({code})"
