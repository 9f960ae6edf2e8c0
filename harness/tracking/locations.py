"""Which files belong to a store: those inside its own root.

MLflow records an address with every experiment, run and model, and reads and writes there without a check. Anybody who
can write to a store can make it any address: a folder of private files that are then read, or a place of their own that
then receives all weights. So an address is used only if it is inside the store's root. The root is

- for an SQLite file: the folder `artifacts` beside it;
- for a server: what it serves itself (`mlflow-artifacts:/`), and the place where it keeps its experiments;
- for another database: that place, and `mlruns` in the current folder; new experiments get `mlruns/artifacts` there.

Another location is named with `--artifacts-at`. With a database that is no SQLite file, new experiments get it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from harness.core.links import NotRegularError, read_regular, refuse_irregular
from harness.core.paths import ARTIFACTS_VARIABLE, STORES
from harness.core.secrets import without_secrets
from harness.core.text import printable
from harness.tracking.checksums import named
from harness.tracking.errors import RefusedFile, TrackingError
from harness.tracking.places import artifacts_beside, folder_at, is_folder, local_folder, missing_folder
from harness.tracking.server_errors import Failure
from harness.tracking.store import is_database, is_server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, LoggedModel, Run

_SERVED: Final = "mlflow-artifacts:/"  # by the tracking server itself
_DEFAULT_EXPERIMENT: Final = "0"  # MLflow creates it with the store, at the store's own place
_UNKNOWN: Final = ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED")
_ARTIFACTS: Final = "artifacts"  # the last part of the address of a run's or a model's files
_LARGEST: Final = 256 * 2**20  # bytes of an artifact that is read into memory
_default_roots: dict[str, str] = {}  # tracking address → the place of the default experiment without its id, or ""


def place_of_new_files(store: str) -> str | None:
    """The address for the files of a new experiment; None: a server decides.

    Args:
        store: MLflow's tracking address.
    """
    beside = artifacts_beside(store)
    if beside is None and is_database(store):
        return _allowed() or (STORES / _ARTIFACTS).absolute().as_uri()
    return beside.as_uri() if beside is not None else None


def run_folder(client: MlflowClient, run: Run) -> Path | None:
    """The folder from which a run's artifacts are read; None: they are not on this disk. It may be missing.

    Raises:
        RefusedFile: they are outside the store's own root.
    """
    address = run.info.artifact_uri or ""
    return _own_folder(client, address, local_folder(address, str(client.tracking_uri)), run.info.run_id, _named(run))


def run_folder_to_write(client: MlflowClient, run: Run) -> Path | None:
    """The folder in which MLflow stores a run's artifacts; None: it is not on this disk.

    Raises:
        RefusedFile: it is outside the store's own root.
    """
    address = run.info.artifact_uri or ""
    return _own_folder(client, address, folder_at(address), run.info.run_id, _named(run), write=True)


def folder_of_model(client: MlflowClient, model: LoggedModel, write: bool = False) -> Path | None:
    """The folder of a model's files, to be read or written; None: it is not on this disk.

    Raises:
        RefusedFile: they are outside the store's own root.
    """
    address = model.artifact_location
    folder = folder_at(address) if write else local_folder(address, str(client.tracking_uri))
    return _own_folder(client, address, folder, model.model_id, f"the model {model.model_id}", write)


def refuse_foreign(client: MlflowClient, experiment: Experiment) -> None:
    """Raise a `TrackingError` if an experiment's files are outside the store's own root.

    Args:
        client: of the store.
        experiment: MLflow's record of it. Somebody else may have created it, at a location of their own.
    """
    address = experiment.artifact_location or ""
    folder = folder_at(address)
    if any(_is_inside(address, folder, root) for root in _roots(client)):
        return
    if lost := missing_folder(experiment, str(client.tracking_uri)):
        raise TrackingError(lost)
    place = _shown(address, folder)
    raise _foreign(client, place, f"the experiment {experiment.name}", place)


def read_file(folder: Path, path: str) -> bytes | None:
    """The content of a file in the folder of a run or a model; None if it is missing.

    Raises:
        RefusedFile: it is no regular file, a link leads to it, or it cannot be read.
    """
    with _refused(folder / path):
        try:
            return read_regular(folder, path, _LARGEST)
        except (FileNotFoundError, NotADirectoryError):
            return None


def check_file(folder: Path, path: str) -> None:
    """Raise a `RefusedFile` if there is something else than a regular file, or a link on the way to it."""
    with _refused(folder / path):
        refuse_irregular(folder, path)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn the errors of reading a file into a `RefusedFile`."""
    try:
        yield
    except NotRegularError as error:
        cause, _, remedy = printable(str(error)).rpartition("; ")
        raise RefusedFile(Failure(cause, remedy)) from error
    except OSError as error:
        cause = printable(f"{path} cannot be read ({error.strerror})")
        raise RefusedFile(Failure(cause, "allowed: a file that this user may read")) from error


def _named(run: Run) -> str:
    return f"the run {named(run)}"


def _own_folder(
    client: MlflowClient, address: str, folder: Path | None, name: str, what: str, write: bool = False
) -> Path | None:
    """A folder of files if it belongs to the store.

    Args:
        client: of the store.
        address: as MLflow records it.
        folder: where that is on this disk; None if it is not.
        name: the id of the run or model; its folder has this name.
        what: the run or model in a message.
        write: whether files are written there. If not, a missing folder is returned unchecked: nothing is read from it.

    Raises:
        RefusedFile: it does not belong to the store.
    """
    if folder is not None and not (write or is_folder(folder)):
        return folder
    shown = _shown(address, folder)
    if not any(_is_inside(address, folder, root) for root in _roots(client)):
        raise _foreign(client, shown, what, shown.partition(f"/{name}")[0].removesuffix("/models"))
    place = _resolved(folder) if folder is not None else None
    parts = place.parts if place is not None else tuple(urlsplit(address).path.split("/"))
    if parts[-2:] != (name, _ARTIFACTS):
        where = printable(without_secrets(shown))
        raise RefusedFile(Failure(f"the files of {what} are at {where}, in the place of another one", "delete it"))
    return place


def _shown(address: str, folder: Path | None) -> str:
    """An address in a message: the folder to which links lead, where it is one of this disk."""
    return str(_resolved(folder) or address) if folder is not None else address


def _foreign(client: MlflowClient, address: str, what: str, allow: str) -> RefusedFile:
    """The error for an address outside the store, with the option that allows it."""
    beside = artifacts_beside(str(client.tracking_uri))
    where = f"{beside}, where this store keeps its files" if beside else "the place where this store keeps its files"
    cause = f"the files of {what} are at {without_secrets(address)}, outside of {where}"
    remedy = (
        f"if you know that place and want to use it: --artifacts-at {shlex.quote(without_secrets(allow or address))}"
    )
    return RefusedFile(Failure(printable(cause), printable(remedy)))


def _roots(client: MlflowClient) -> Iterator[str]:
    """The addresses below which a store keeps its files, and the one that the user allows."""
    if allowed := _allowed():
        yield allowed
    store = str(client.tracking_uri)
    beside = artifacts_beside(store)
    if beside is not None:
        yield beside.as_uri()
        return
    yield _SERVED if is_server(store) else STORES.absolute().as_uri()
    if default := _default_root(client):  # last, because it takes a request
        yield default


def _allowed() -> str:
    """The address that the user allows; empty if there is none."""
    allowed = os.environ.get(ARTIFACTS_VARIABLE, "")
    return allowed if not allowed or _split(allowed).scheme else Path(allowed).absolute().as_uri()


def _default_root(client: MlflowClient) -> str:
    """Where a store keeps the experiments that are made without a location; empty if that is unknown."""
    from mlflow.exceptions import MlflowException

    store = str(client.tracking_uri)
    if store not in _default_roots:
        try:
            address = client.get_experiment(_DEFAULT_EXPERIMENT).artifact_location
        except MlflowException as error:
            if error.error_code not in _UNKNOWN:
                raise
            address = ""
        root = address.removesuffix(f"/{_DEFAULT_EXPERIMENT}")
        _default_roots[store] = root if root != address else ""
    return _default_roots[store]


def _is_inside(address: str, folder: Path | None, root: str) -> bool:
    """Whether an address, and the folder that it names on this disk, is a root or inside it; links are resolved."""
    at = folder_at(root)
    if folder is not None and at is not None:
        place, whole = _resolved(folder), _resolved(at)
        return place is not None and whole is not None and place.is_relative_to(whole)
    if folder is not None or at is not None:
        return False
    one, other = _split(address), _split(root)
    if (one.scheme, one.netloc, one.query) != (other.scheme, other.netloc, other.query):
        return False
    parts, above = ([part for part in it.path.split("/") if part] for it in (one, other))
    return not {".", ".."} & {*parts} and parts[: len(above)] == above


def _resolved(folder: Path) -> Path | None:
    """A folder without links; None if it has a loop of them, or is none."""
    try:
        return folder.resolve()
    except (OSError, RuntimeError, ValueError):
        return None


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # unbalanced brackets
        return urlsplit("")
