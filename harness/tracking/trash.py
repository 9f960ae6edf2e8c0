"""Experiments and runs that were deleted in MLflow: they stay in its trash until `mlflow gc` removes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.core.secrets import shell_address
from harness.tracking.checksums import named
from harness.tracking.queries import search_runs
from harness.tracking.store import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

_DELETED: Final = "deleted"  # MLflow's lifecycle stage


def refuse_deleted(experiment: Experiment, uri: str) -> None:
    """Raise a `TrackingError` if an experiment is in the trash, with the commands that restore or remove it.

    Args:
        experiment: MLflow's record of it.
        uri: MLflow's tracking address, as the user gave it.
    """
    if experiment.lifecycle_stage != _DELETED:
        return
    number = experiment.experiment_id
    restore = f"{_restore(uri, 'experiments')} --experiment-id {number}"
    store = shell_address(uri)
    remove = f"python -m mlflow gc --backend-store-uri {store} --tracking-uri {store} --experiment-ids {number}"
    where = "run `mlflow gc` on the server" if uri.startswith("http") else remove
    raise TrackingError(
        f"the experiment {experiment.name!r} was deleted and is in MLflow's trash; to restore it: {restore}; "
        f"to remove it with its files, so that its name is free: {where}"
    )


def refuse_deleted_run(client: MlflowClient, experiments: list[str], condition: str, uri: str) -> None:
    """Raise a `TrackingError` if a run that meets a condition is in the trash, with the command that restores it.

    Args:
        client: of the store.
        experiments: ids of the experiments that are searched.
        condition: in MLflow's search language.
        uri: MLflow's tracking address, as the user gave it.
    """
    found: list[Run] = search_runs(client, experiments, condition, deleted=True)
    if not found:
        return
    run = found[0]
    refuse_deleted(client.get_experiment(run.info.experiment_id), uri)
    what = f"the run {named(run)} was deleted and is in MLflow's trash"
    raise TrackingError(f"{what}; to restore it: {_restore(uri, 'runs')} --run-id {run.info.run_id}")


def _restore(uri: str, what: str) -> str:
    return f"MLFLOW_TRACKING_URI={shell_address(uri)} python -m mlflow {what} restore"
