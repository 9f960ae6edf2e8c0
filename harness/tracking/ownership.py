"""Sweep ownership: one process runs a sweep at a time, across machines."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.core.paths import configured_uri, sqlite_file
from harness.tracking import provenance, schema
from harness.tracking.queries import refuse_unreadable, sweeps_of
from harness.tracking.readable import Tell, whole
from harness.tracking.store import connect, wrap_errors
from harness.tracking.trash import refuse_deleted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

OWNER_TIMEOUT_SECONDS: Final = 180  # without a heartbeat, a process of another machine counts as dead


@dataclass(frozen=True)
class SweepState:
    """The state of a sweep's parent run.

    Attributes:
        run_id: the parent run.
        status: MLflow's.
        outcome: how it last ended; None while it runs, or if its process died.
        owner: the process that runs it now, or None.
        opened: when it was last started or resumed, in milliseconds since 1970.
    """

    run_id: str
    status: str
    outcome: str | None
    owner: str | None
    opened: int


def owner_of(run: Run) -> str | None:
    """The other process that runs a sweep now, or None.

    A process of this machine is looked up by its pid; one of another machine counts as alive until its heartbeat is
    `OWNER_TIMEOUT_SECONDS` old.
    """
    tags = run.data.tags
    owner = tags.get(schema.PROCESS, "")
    if run.info.status != "RUNNING" or owner == provenance.process_name():
        return None
    if provenance.is_local(owner):
        return owner if provenance.is_running(owner) else None
    age = time.time() - (whole(tags.get(schema.HEARTBEAT)) or 0) / 1000
    return owner if age < OWNER_TIMEOUT_SECONDS else None


@wrap_errors()
def find_sweep(
    experiment: str, identity: str, uri: str | None = None, tell: Tell = lambda _: None
) -> SweepState | None:
    """The sweep of this identity, or None if it has not been started. Creates nothing.

    Args:
        experiment, identity: of the sweep.
        uri: MLflow's tracking address; by default the one that sweeps use.
        tell: gets a sentence about each sweep of the experiment that cannot be read.

    Raises:
        TrackingError: the store does not answer, the experiment was deleted, or this sweep cannot be read.
    """
    found = _experiment(experiment, uri)
    if found is None:
        return None
    for run in reversed(sweeps_of(*found, tell)):
        tags = run.data.tags
        if tags.get(schema.IDENTITY) == identity:
            opened = int(tags[schema.OPENED])
            return SweepState(run.info.run_id, run.info.status, tags.get(schema.OUTCOME), owner_of(run), opened)
    refuse_unreadable(*found, identity)
    return None


@wrap_errors()
def last_sweep(experiment: str, uri: str | None = None) -> str:
    """The parent run of the sweep that was started or resumed last; empty if there is none. Creates nothing.

    Raises:
        TrackingError: as `find_sweep`.
    """
    found = _experiment(experiment, uri)
    sweeps = sweeps_of(*found) if found else []
    return sweeps[-1].info.run_id if sweeps else ""


def _experiment(experiment: str, uri: str | None) -> tuple[MlflowClient, str] | None:
    """The store's client and the experiment's id; None if there is no such store or experiment."""
    uri = configured_uri(uri)
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        return None
    client = connect(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    refuse_deleted(found, uri)
    return client, found.experiment_id
