"""Where the files of a store are: those of a SQLite store in the folder `artifacts` beside its database.

MLflow records absolute addresses. After a project was moved, copied or brought home from another machine, they name a
folder that does not exist, or the files of the other copy. So readers look beside the database first, and a sweep
corrects the addresses in the database before it writes; MLflow's own pages find the files then, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from harness.core.paths import sqlite_file, sqlite_uri
from harness.tracking import schema
from harness.tracking.ownership import advice, named_owner, owner_of
from harness.tracking.provenance import is_local
from harness.tracking.queries import every_experiment, search_runs
from harness.tracking.store import SweepBusy, TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
    from sqlalchemy import Connection, Select

_ARTIFACTS: Final = "artifacts"
_LOCK_SECONDS: Final = 60.0  # how long to wait for another process that writes to the database


def artifacts_beside(store: str) -> Path | None:
    """The folder for the artifacts of a SQLite store; None for any other store, which has its own place for them."""
    file = sqlite_file(store)
    return file.absolute().parent / _ARTIFACTS if file is not None else None


def folder_at(address: str) -> Path | None:
    """The folder that an artifact address names, as MLflow reads it; None if it is not one of a disk."""
    try:
        location = urlsplit(address)
    except ValueError:  # unbalanced brackets
        return None
    if address.startswith("file:"):
        return Path(url2pathname(location.path))
    return None if location.scheme else Path(url2pathname(address))


def is_folder(path: Path) -> bool:
    """Whether there is a folder that this user may see; `Path.is_dir` raises where it may not be looked for."""
    return os.path.isdir(path)  # noqa: PTH112


def local_folder(address: str, store: str) -> Path | None:
    """The folder of a run's or a model's files; None if they are not on this machine's disk.

    Args:
        address: as MLflow records it.
        store: MLflow's tracking address.
    """
    recorded = folder_at(address)
    if recorded is None:
        return None
    beside, below = artifacts_beside(store), _below_artifacts(recorded)
    moved = beside / below if beside is not None and below is not None else recorded
    return moved if is_folder(moved) else recorded


def missing_folder(experiment: Experiment, store: str) -> str:
    """What to do about an experiment's folder that does not exist; empty if it does, or is not on a disk.

    Args:
        experiment: MLflow's record of it.
        store: MLflow's tracking address.
    """
    folder = folder_at(experiment.artifact_location or "")
    if folder is None or os.path.exists(folder):  # noqa: PTH110 (as in `is_folder`)
        return ""
    beside = artifacts_beside(store)
    if beside is None:
        mend = f"make {folder} a symbolic link to the folder where they are now, and name that one by --artifacts-at"
    else:
        mend = f"put them beside the database, in {beside}"
    where = f"the files of {experiment.name} were stored in {folder}, which does not exist here"
    return f"{where}; if they were moved, {mend}"


def refuse_missing(experiment: Experiment, store: str) -> None:
    """Raise a `TrackingError` if an experiment's folder and the one around it are gone: MLflow would create both."""
    folder = folder_at(experiment.artifact_location or "")
    if folder is not None and not os.path.exists(folder.parent):  # noqa: PTH110 (as in `is_folder`)
        raise TrackingError(missing_folder(experiment, store))


def correct_addresses(client: MlflowClient, take_over: bool = False) -> str:
    """Correct the addresses of a SQLite store that was moved or copied with its files; for a process that may write.

    Args:
        client: of the store.
        take_over: also if a process of another machine seems to run a sweep of this store.

    Returns:
        what was done, in one line; empty if nothing was.

    Raises:
        SweepBusy: another process runs a sweep of this store; it may know the store by the old address.
    """
    store = str(client.tracking_uri)
    beside = artifacts_beside(store)
    if beside is None:
        return ""
    recorded = {experiment.artifact_location or "" for experiment in every_experiment(client)}
    others = [address for address in sorted(recorded) if _is_other_place(address, beside)]
    if not others:
        return ""
    with _database(store) as connection:
        moved = [address for address in others if _is_moved(connection, address, beside)]
        if not moved:
            return ""
        _refuse_if_in_use(client, take_over)
        for address in moved:
            _replace(connection, address, beside.as_uri())
    folders = ", ".join(str(Path(str(folder_at(address))).parent) for address in moved)
    return f"this store was made in {folders} and is now in {beside.parent}: corrected the addresses of its files"


def _below_artifacts(folder: Path) -> Path | None:
    """A run's or a model's folder, relative to the `artifacts` that contains it; None if none does.

    MLflow's folders are `<root>/<run id>/artifacts` and `<root>/models/<model id>/artifacts`.
    """
    above = folder.parts[:-1]
    if folder.name != _ARTIFACTS or _ARTIFACTS not in above:
        return None
    place = len(above) - 1 - above[::-1].index(_ARTIFACTS)
    return Path(*folder.parts[place + 1 :])


@contextmanager
def _database(store: str) -> Iterator[Connection]:
    """A connection to a SQLite store; one transaction."""
    from sqlalchemy import create_engine

    file = sqlite_file(store)
    assert file is not None
    engine = create_engine(sqlite_uri(file), connect_args={"timeout": _LOCK_SECONDS})
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def _is_other_place(address: str, beside: Path) -> bool:
    """Whether an address names another folder of the same name as the one beside the database."""
    folder = folder_at(address)
    if folder is None or folder.name != beside.name or folder == beside:
        return False
    return not (folder.exists() and beside.exists() and folder.samefile(beside))  # a link to it is the same


def _is_moved(connection: Connection, address: str, beside: Path) -> bool:
    """Whether the files at an experiment's address came along with the database, or there were none.

    If none of its runs has a folder beside the database, the user chose this address, or left the files behind.
    """
    from mlflow.store.tracking.dbmodels.models import SqlRun
    from sqlalchemy import select

    query: Select[Any] = select(SqlRun.run_uuid).where(_is_inside(SqlRun.artifact_uri, address))
    runs: Sequence[str] = connection.execute(query).scalars().all()
    if any((beside / run).is_dir() for run in runs):
        return True
    folder = folder_at(address)
    return not runs and folder is not None and not folder.parent.exists()


def _is_inside(column: Any, address: str) -> Any:
    """The condition that an address is below another one. (LIKE would ignore the case.)"""
    from sqlalchemy import func

    return func.substr(column, 1, len(address) + 1) == f"{address}/"


def _refuse_if_in_use(client: MlflowClient, take_over: bool) -> None:
    every = [experiment.experiment_id for experiment in every_experiment(client)]
    for run in search_runs(client, every, f"tags.`{schema.ROLE}` = '{schema.SWEEP}'"):
        if (owner := owner_of(run)) and not (take_over and not is_local(owner)):
            raise SweepBusy(f"{named_owner(run, owner)} runs {run.info.run_name} in this store; {advice(owner)}")


def _replace(connection: Connection, old: str, new: str) -> None:
    """Replace the beginning of every recorded address.

    MLflow has no call that changes an address, so this uses its models of the tables.
    """
    from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlRun
    from sqlalchemy import String, func, literal, or_, update

    columns = {SqlExperiment: "artifact_location", SqlRun: "artifact_uri", SqlLoggedModel: "artifact_location"}
    for table, name in columns.items():
        column = getattr(table, name)
        moved = literal(new) + func.substr(column, len(old) + 1, type_=String)
        connection.execute(update(table).where(or_(column == old, _is_inside(column, old))).values({name: moved}))
