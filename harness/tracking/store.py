"""The MLflow store: its address, opening or creating it, and its errors."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from harness.core.database_servers import bound_requests, is_postgresql, one_at_a_time, until_available
from harness.core.disk import disk_full
from harness.core.environment import environment_defaults
from harness.core.paths import DEFAULT_URI, STORES, configured_uri, sqlite_file, sqlite_uri, with_driver
from harness.core.secrets import shell_address, without_login, without_secrets
from harness.core.waiting import wait_for_locks
from harness.tracking.errors import NothingToReport as NothingToReport  # so that others may import them from here
from harness.tracking.errors import RefusedFile as RefusedFile
from harness.tracking.errors import ServerError as ServerError
from harness.tracking.errors import SweepBusy as SweepBusy
from harness.tracking.errors import TrackingError as TrackingError
from harness.tracking.migration import Announce, check_schema
from harness.tracking.server_errors import failure_of, option_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow reads these when it is imported. Nothing leaves this machine unless the user names a server.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"
# MLflow must not print addresses and progress bars into a sweep's own display.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
_WEB: Final = ("http://", "https://")
_LOCAL_PAGES: Final = "http://127.0.0.1:5000"
_RETRIES: Final = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_BRIEF: Final = {_RETRIES: "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
_SQLITE_FULL: Final = "database or disk is full"
_wrapping: Final = ContextVar("wrapping", default=False)  # whether this thread's calls are inside `wrap_errors`
_last_uri = DEFAULT_URI  # the address that this process last connected to, for the text of errors


def default_tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the SQLite file `mlruns/mlflow.db` of the current folder; creates its folder."""
    uri = configured_uri()
    if uri == DEFAULT_URI:
        STORES.mkdir(exist_ok=True)
    return uri


def is_server(uri: str) -> bool:
    """Whether the store is behind an HTTP server."""
    return uri.startswith(_WEB)


def is_database(uri: str) -> bool:
    """Whether the store is a database that MLflow opens by itself."""
    from mlflow.store.db.db_types import DATABASE_ENGINES

    return urlsplit(uri).scheme.partition("+")[0] in DATABASE_ENGINES


def ui_command(uri: str | None = None) -> str:
    """The shell command that opens MLflow's UI on this store; for a server, its address without login."""
    uri = configured_uri(uri)
    if is_server(uri):
        return without_login(uri)
    return f"python -m mlflow ui --backend-store-uri {shell_address(uri)} --host 127.0.0.1 --port 5000"


@contextlib.contextmanager
def brief_requests() -> Iterator[None]:
    """Give up on a server after two retries, for a caller that will ask it again; MLflow's default takes minutes.

    MLflow reads these environment variables at every request. Values that the user has set stay.
    """
    with environment_defaults(_BRIEF):
        yield


@contextlib.contextmanager
def unrepeated_requests() -> Iterator[None]:
    """Send each request once. MLflow repeats any request whose answer was lost: a run would be created twice."""
    before = os.environ.get(_RETRIES)
    os.environ[_RETRIES] = "0"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_RETRIES, None)
        else:
            os.environ[_RETRIES] = before


@contextlib.contextmanager
def wrap_errors() -> Iterator[None]:
    """Turn errors of MLflow, of its server and of its database into a `TrackingError` of one sentence.

    Callers need not import MLflow to catch them. MLflow's own logging of a database error is suppressed.
    """
    logging.getLogger("mlflow.store.db.utils").addFilter(_outside_wrap_errors)
    before = _wrapping.set(True)
    try:
        yield
    except Exception as error:
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        known = isinstance(error, MlflowException | RequestException | SQLAlchemyError)
        if not known and type(error) is not Exception:  # what MLflow raises for rows that miss a value
            raise
        if failure := failure_of(error, _last_uri):
            raise ServerError(f"MLflow: {failure}", failure) from error
        raise TrackingError(_first_line(error)) from error
    finally:
        _wrapping.reset(before)


def _first_line(error: Exception) -> str:
    file = sqlite_file(_last_uri)
    if _SQLITE_FULL in str(error) and file is not None:
        return disk_full(file)
    return without_secrets(f"MLflow: {(str(error).strip() or type(error).__name__).splitlines()[0]}")


def _outside_wrap_errors(_: logging.LogRecord) -> bool:
    return not _wrapping.get()


@wrap_errors()
def connect(uri: str, create: bool = False, announce: Announce | None = None) -> MlflowClient:
    """A client of the store at `uri`.

    Args:
        uri: MLflow's tracking address.
        create: create a missing SQLite file; else it is an error.
        announce: called with a line before the store of an older MLflow is converted; None: it is an error.

    Raises:
        TrackingError: MLflow does not know this kind of address, or there is no usable store.
    """
    from mlflow import MlflowClient

    wait_for_locks()
    bound_requests()
    uri = with_driver(uri)
    global _last_uri
    _last_uri = uri
    file = sqlite_file(uri)
    if file is not None:
        file = file.absolute()  # MLflow caches engines by address: a relative one would outlive a change of folder
        if not file.exists():
            if not create:
                raise TrackingError(f"found no MLflow store at {file}; run a sweep first or set MLFLOW_TRACKING_URI")
            _create_store(file)
        check_schema(sqlite_uri(file), announce)
        return MlflowClient(tracking_uri=sqlite_uri(file))
    if is_database(uri):
        return _database_client(uri, announce)
    client = MlflowClient(tracking_uri=uri)
    if is_server(uri):
        _check_server(client, uri)
    return client


def _database_client(uri: str, announce: Announce | None) -> MlflowClient:
    """A client of a database other than SQLite. MLflow creates its tables, which one process at a time can do."""
    from mlflow import MlflowClient

    from harness.tracking.database_client import DatabaseClient

    kind = DatabaseClient if is_postgresql(uri) else MlflowClient
    with one_at_a_time(uri, "create the tables of MLflow"):
        until_available(lambda: check_schema(uri, announce), uri)
        return until_available(lambda: kind(tracking_uri=uri), uri)


@wrap_errors()
def page_address(run_id: str, uri: str | None = None) -> str:
    """The address of a run's page in MLflow's UI, as `ui_command` opens it; for a server, under its own address.

    Raises:
        TrackingError: no such store or run.
    """
    uri = configured_uri(uri)
    base = without_login(uri).rstrip("/") if is_server(uri) else _LOCAL_PAGES
    experiment = connect(uri).get_run(run_id).info.experiment_id
    return f"{base}/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"


def _create_store(file: Path) -> None:
    """Create a SQLite store under a temporary name, then move it into place.

    Otherwise two sweeps that start at once would run MLflow's migrations on one file, and a process killed meanwhile
    would leave half a store, which no later start could use.
    """
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it logs every migration
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        fresh.unlink(missing_ok=True)  # of a process that was killed, or a link
        MlflowClient(tracking_uri=sqlite_uri(fresh))
        try:
            os.link(fresh, file)  # unlike a rename, never replaces a store that came first
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not file.exists():
                fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


def _check_server(client: MlflowClient, uri: str) -> None:
    """Raise a `TrackingError` where no MLflow server answers, or where it refuses this user."""
    option, address = option_of(uri), without_secrets(uri)
    try:
        with brief_requests():
            client.search_experiments(max_results=1)
    except Exception as error:
        failure = failure_of(error, uri)
        if failure is None:
            found = f"{option}: found {address}, but {_first_line(error)}"
            raise TrackingError(f"{found}; allowed: the address of an MLflow server") from error
        if failure.silent:
            found = f"{option}: found no MLflow server that answers at {address} ({failure.cause})"
        else:
            found = f"{option}: found {address}, but {failure.cause}"
        raise ServerError(f"{found}; {failure.remedy}", failure) from error
