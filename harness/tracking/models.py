"""Stores a run's checkpoint as an MLflow model, so that the Models page lists it with its losses.

The files are safetensors and JSON: no pickle, and no MLflow flavor.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.core.links import regular_files
from harness.core.paths import DESCRIPTION, WEIGHTS
from harness.core.secrets import without_login
from harness.tracking import direct
from harness.tracking.direct import NOTE, STORED_BY, NotStored, Place, Stored
from harness.tracking.locations import check_file, folder_of_model
from harness.tracking.queries import pages
from harness.tracking.server_errors import PAGE, Failure
from harness.tracking.store import RefusedFile, ServerError, is_server, unrepeated_requests

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric, Run

MODEL_TYPE: Final = "GPT"
MODEL_FILES: Final = (WEIGHTS, DESCRIPTION)  # required to load a checkpoint
_REFUSED: Final = str.maketrans({"/": "-", ":": "-", ".": ",", "%": "-", '"': "-", "'": "-"})


def model_name(text: str) -> str:
    """`text` in the characters that MLflow allows in a model's name: `drop_rate=0,1`."""
    return text.translate(_REFUSED)


def offer_place(
    client: MlflowClient, experiment: str, run: str, *, name: str, params: Mapping[str, str], tags: Mapping[str, str]
) -> Place | None:
    """A place where another machine can store the weights of a run; see `harness.tracking.direct`.

    Args:
        client, experiment, run, name, params, tags: as for `store_checkpoint`.

    Returns:
        None where it needs none, as its model is complete, or where its address holds a secret.

    Raises:
        RefusedFile: the model's files would be outside the store's own root.
        OSError: the folder for them cannot be written.
    """
    from mlflow.entities import LoggedModelStatus

    model = find_model(client, experiment, run)
    if model is not None and model.status == LoggedModelStatus.READY:
        return None
    if model is not None:
        _delete(client, model)
    model = _create(client, experiment, run, name, params, {**tags, STORED_BY: "node"})
    address, uri = model.artifact_location, str(client.tracking_uri)
    folder = folder_of_model(client, model, write=True)
    if folder is not None:
        return direct.place_in_folder(model.model_id, address, folder)
    if without_login(address) != address:
        return None
    return Place(model.model_id, address, server=without_login(uri) if is_server(uri) else "")


def withdraw_place(client: MlflowClient, experiment: str, run: str) -> None:
    """Delete the incomplete model of a run whose place was offered."""
    from mlflow.entities import LoggedModelStatus

    model = find_model(client, experiment, run)
    if model is not None and model.status != LoggedModelStatus.READY and STORED_BY in model.tags:
        _delete(client, model)


def store_checkpoint(
    client: MlflowClient,
    experiment: str,
    run: str,
    folder: Path,
    *,
    name: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    losses: Iterable[Metric],
) -> str:
    """Store a run's checkpoint as a model, or finish storing one that an earlier attempt left incomplete.

    Args:
        client: of the store.
        experiment, run: ids of the experiment and of the run that trained the model.
        folder: with the checkpoint's files, or with the note of weights that are stored already.
        name: shown in MLflow's UI.
        params, tags: of the model.
        losses: its last losses, which the run has too.

    Returns:
        the model's id.

    Raises:
        ServerError: the server does not have the files afterwards.
        RefusedFile: the model's files are outside the store's own root, or a link is in the way, or the weights are
            not where the note says.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric

    model = find_model(client, experiment, run)
    if model is not None and model.status == LoggedModelStatus.READY:
        return str(model.model_id)
    note = direct.read_note(folder)
    if note is not None and (model is None or model.model_id != note.model):
        raise _no_weights("their model was deleted")
    if model is not None and note is None and STORED_BY in model.tags:
        _delete(client, model)
        model = None
    if model is None:
        model = _create(client, experiment, run, name, params, tags)
    place = folder_of_model(client, model, write=True)
    files = [file for file in regular_files(folder) if file.name != NOTE]
    if note is not None:
        _check_stored(client, model, note, place)
    for file in files:  # one by one: MLflow copies a whole folder through links
        if place is not None:
            check_file(place, file.name)
        client.log_model_artifact(model.model_id, str(file))
    if is_server(str(client.tracking_uri)):  # a proxy may have answered an upload with a page and status 200
        stored = {Path(file.path).name for file in client.list_logged_model_artifacts(model.model_id)}
        if not {file.name for file in files} <= stored:
            raise ServerError(f"MLflow: {PAGE}", PAGE)
    losses = list(losses)
    found = client.get_run(run)
    if not (found.outputs and found.outputs.model_outputs):  # MLflow refuses a second output of the same model
        with unrepeated_requests():  # after an error, the next attempt looks for the output
            client.log_outputs(run, [LoggedModelOutput(model.model_id, max((one.step for one in losses), default=0))])
    dataset = _dataset(found)
    linked = [
        Metric(one.key, one.value, one.timestamp, one.step, model.model_id, *dataset, run_id=run) for one in losses
    ]
    client.log_batch(run, metrics=linked)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return str(model.model_id)


def _create(
    client: MlflowClient, experiment: str, run: str, name: str, params: Mapping[str, str], tags: Mapping[str, str]
) -> LoggedModel:
    with unrepeated_requests():  # after an error, the next attempt looks for the model
        return client.create_logged_model(
            experiment, model_name(name), run, tags=dict(tags), params=dict(params), model_type=MODEL_TYPE
        )


def _delete(client: MlflowClient, model: LoggedModel) -> None:
    """Delete an incomplete model, and its files if they are on this disk; elsewhere `mlflow gc` removes them."""
    folder = folder_of_model(client, model, write=True)
    client.delete_logged_model(model.model_id)
    if folder is not None:
        shutil.rmtree(folder.parent, ignore_errors=True)


def _check_stored(client: MlflowClient, model: LoggedModel, note: Stored, folder: Path | None) -> None:
    """Raise a `RefusedFile` if a model does not have the weights of a note."""
    if folder is None:
        if not direct.has_weights(client.list_logged_model_artifacts(model.model_id), note.bytes):
            raise _no_weights("they are not in the artifact store")
        return
    try:
        direct.check_size(folder, note)
    except NotStored as error:
        raise _no_weights(str(error)) from error
    direct.remove_proofs(folder)


def _no_weights(why: str) -> RefusedFile:
    return RefusedFile(Failure(f"the weights that a node has stored are gone: {why}", "train the run again"))


def find_model(client: MlflowClient, experiment: str, run: str) -> LoggedModel | None:
    """The model of a run, complete or not, or None."""
    condition = f"source_run_id = '{run}'"
    found = list(pages(client.search_logged_models, experiment_ids=[experiment], filter_string=condition))
    return found[0] if found else None


def model_folder(client: MlflowClient, experiment: str, run: str) -> Path | None:
    """The local folder with a run's model; None if there is no complete one.

    If it is elsewhere, it is downloaded into a folder that is removed when this process ends.

    Raises:
        RefusedFile: it is outside the store's own root, or its files are no regular files.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.entities import LoggedModelStatus

    model = find_model(client, experiment, run)
    if model is None or model.status != LoggedModelStatus.READY:
        return None
    local = folder_of_model(client, model)
    if local is not None:
        for name in MODEL_FILES:
            check_file(local, name)
        return local if local.is_dir() else None
    # Not by `models:/…`, for which MLflow 3.17 ignores the tracking address that it is given.
    here = str(download_folder(str(model.model_id)))
    return Path(download_artifacts(model.artifact_location, dst_path=here, tracking_uri=client.tracking_uri))


def download_folder(name: str) -> Path:
    """A new temporary folder for the checkpoint of a run or a model; an earlier one of that name is removed."""
    folder = _downloads() / hashlib.sha256(name.encode()).hexdigest()[:12]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@functools.cache
def _downloads() -> Path:
    """The folder of this process's downloads, which is removed when it ends."""
    folder = tempfile.mkdtemp(prefix="gpt-harness-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _dataset(run: Run) -> tuple[str | None, str | None]:
    """Name and digest of the data set that a run was trained on."""
    found = run.inputs.dataset_inputs if run.inputs else []
    return (found[0].dataset.name, found[0].dataset.digest) if found else (None, None)
