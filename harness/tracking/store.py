"""The MLflow store itself: where it is, how it is opened or created, how runs are found in it."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from harness.core.paths import _SQLITE, DEFAULT_URI, cache_folder, configured_uri, sqlite_file
from harness.tracking import schema

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

# MLflow reads these when it is imported. Nothing leaves this machine unless the person names a server.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"
# Nor does MLflow print addresses and progress bars into a sweep's own display.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
_WEB: Final = ("http://", "https://")
_LOCAL_PAGES: Final = "http://127.0.0.1:5000"
_PAGE: Final = 1000  # runs or experiments asked for at once
_BRIEF: Final = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
_explaining: Final = ContextVar("explaining", default=False)  # whether errors of this thread's calls are explained


class TrackingError(ValueError):
    """The store cannot give or take what was asked; the message says what there is instead."""


def default_tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the SQLite file `mlruns/mlflow.db` of the current folder; makes `mlruns`."""
    uri = configured_uri()
    if uri == DEFAULT_URI:
        Path("mlruns").mkdir(exist_ok=True)
    return uri


def ui_command(uri: str | None = None) -> str:
    """The shell command that opens MLflow's pages on this store; for a server, its address."""
    uri = configured_uri(uri)
    if uri.startswith(_WEB):
        return uri
    return f"python -m mlflow ui --backend-store-uri {shlex.quote(uri)} --host 127.0.0.1 --port 5000"


class SweepBusy(TrackingError):
    """Another process is at this sweep."""


@contextlib.contextmanager
def brief_requests() -> Iterator[None]:
    """Give up soon, inside, on a server that does not answer, for a caller that will ask it again.

    MLflow by itself tries for minutes. It reads this from the environment, at every request: what the person has set
    there stays, and afterwards it is as it was.
    """
    new = {name: value for name, value in _BRIEF.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn the store's errors into a `TrackingError` of one sentence: callers import no MLflow and cannot name them.

    MLflow itself would also print the traceback of a database's error.
    """
    logging.getLogger("mlflow.store.db.utils").addFilter(_unexplained)
    told = _explaining.set(True)
    try:
        yield
    except Exception as error:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        if not isinstance(error, MlflowException | SQLAlchemyError):
            raise
        raise TrackingError(f"MLflow: {str(error).strip().splitlines()[0]}") from error
    finally:
        _explaining.reset(told)


def _unexplained(_: logging.LogRecord) -> bool:
    return not _explaining.get()


@explained()
def connect(uri: str, create: bool = False) -> MlflowClient:
    """A client of the store at `uri`. A SQLite file that is missing is created if `create`, else an error.

    Raises:
        TrackingError: the address means nothing to MLflow, or nothing usable is there.
    """
    from mlflow import MlflowClient

    if uri.startswith(_SQLITE):
        file = sqlite_file(uri)
        assert file is not None
        if not file.exists():
            if not create:
                raise TrackingError(f"found no MLflow store at {file}; run a sweep first or set MLFLOW_TRACKING_URI")
            _create_store(file)
        # MLflow keeps one engine per address, so a relative address would outlive a change of folder.
        return MlflowClient(tracking_uri=f"{_SQLITE}{file}")
    client = MlflowClient(tracking_uri=uri)
    if uri.startswith(_WEB):
        _check_server(client, uri)
    return client


@explained()
def page_address(run_id: str, uri: str | None = None) -> str:
    """Where MLflow's pages show a run, as `ui_command` opens them; of a server, under its own address.

    Raises:
        TrackingError: no such store or run.
    """
    uri = configured_uri(uri)
    base = uri.rstrip("/") if uri.startswith(_WEB) else _LOCAL_PAGES
    experiment = connect(uri).get_run(run_id).info.experiment_id
    return f"{base}/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"


def _create_store(file: Path) -> None:
    """Create the store under another name, then move it into place.

    Two sweeps that start at once would break each other's, and one that is stopped meanwhile would leave half a store
    behind, which no later start could use. MLflow makes its tables by every migration that there ever was, which takes
    seconds: one that it has made on this machine before is copied.
    """
    from mlflow import MlflowClient
    from mlflow.version import VERSION

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it announces every migration
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh, template = file.with_name(f".{file.name}.{os.getpid()}"), cache_folder() / f"mlflow-{VERSION}.db"
    try:
        copied = _copied(template, fresh)
        MlflowClient(tracking_uri=f"{_SQLITE}{fresh}")  # makes what is missing, be it everything
        if not copied:
            _keep_template(fresh, template)
        try:
            os.link(fresh, file)  # unlike a rename, never replaces a store that came first
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not file.exists():
                fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


def _copied(template: Path, fresh: Path) -> bool:
    """Copy a store; False, and nothing is there, where there is none to copy, or none that is whole."""
    with contextlib.suppress(OSError, sqlite3.Error):
        shutil.copyfile(template, fresh)
        with contextlib.closing(sqlite3.connect(fresh)) as database:
            whole = database.execute("PRAGMA quick_check").fetchone() == ("ok",)
            if whole and database.execute("SELECT version_num FROM alembic_version").fetchone():
                return True
    fresh.unlink(missing_ok=True)
    return False


def _keep_template(store: Path, template: Path) -> None:
    """Keep a new store to be copied, without its experiment 0, which knows in which folder it was made."""
    part = template.with_name(f".{template.name}.{os.getpid()}")
    with contextlib.suppress(OSError, sqlite3.Error):  # then the next new store takes its seconds again
        try:
            template.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(store, part)
            with contextlib.closing(sqlite3.connect(part)) as database, database:
                database.execute("DELETE FROM experiments")
            part.replace(template)
        finally:
            part.unlink(missing_ok=True)


def _check_server(client: MlflowClient, uri: str) -> None:
    """Say in one sentence where no server answers."""
    try:
        with brief_requests():
            client.search_experiments(max_results=1)
    except Exception as error:
        raise TrackingError(f"found no MLflow server that answers at {uri}; check MLFLOW_TRACKING_URI") from error


def sweeps_of(client: MlflowClient, experiment_id: str) -> list[Run]:
    """The parent runs of an experiment, the one started or resumed last at the end."""
    runs = search_runs(client, [experiment_id], f"tags.`{schema.ROLE}` = '{schema.SWEEP}'")
    return sorted(runs, key=lambda run: int(run.data.tags[schema.OPENED]))


def trials_of(client: MlflowClient, experiment_id: str, parent: str) -> list[Run]:
    """The child runs of a sweep, oldest first."""
    runs = search_runs(client, [experiment_id], f"tags.`{schema.PARENT_RUN}` = '{parent}'")
    return sorted(runs, key=lambda run: int(run.info.start_time))


def search_runs(client: MlflowClient, experiment_ids: list[str], condition: str) -> list[Run]:
    """Every run that meets a condition in MLflow's search language."""
    return list(pages(client.search_runs, experiment_ids=experiment_ids, filter_string=condition))


def pages(search: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
    """Everything that one of MLflow's paged searches finds."""
    token = None
    while True:
        page = search(**arguments, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def history(client: MlflowClient, run: Run, metric: str) -> list[Metric]:
    """A metric's points in the order of steps; of a step that was stored twice, as after a resume, the later one."""
    if metric not in run.data.metrics:
        return []
    points = client.get_metric_history(run.info.run_id, metric)
    points = sorted(points, key=lambda point: (point.step, point.timestamp))
    return list({point.step: point for point in points}.values())


def local_artifact(run: Run, path: str) -> Path | None:
    """Where an artifact lies on this machine; None where it does not. MLflow's client would make a copy of it."""
    folder = local_folder(run.info.artifact_uri)
    return folder / path if folder is not None and (folder / path).exists() else None


def local_folder(uri: str) -> Path | None:
    """The folder of this machine at an artifact address; None where it is elsewhere."""
    location = urlsplit(uri)
    return Path(url2pathname(location.path)) if location.scheme == "file" else None
