"""Who is at a sweep: one process at a time, on whatever machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.core.paths import configured_uri, sqlite_file
from harness.tracking import provenance, schema
from harness.tracking.store import connect, explained, sweeps_of

if TYPE_CHECKING:
    from mlflow.entities import Run

LEASE_SECONDS: Final = 180  # how long a process of another machine is believed to be at a sweep without a word


@dataclass(frozen=True)
class SweepState:
    """What MLflow knows of a sweep as a whole.

    Attributes:
        run_id: the parent run.
        status: MLflow's.
        outcome: how it ended the last time; None while it runs, or if its process died.
        holder: the process that is at it now; None where there is none.
        opened: when it was last started or gone on with, in milliseconds since 1970.
    """

    run_id: str
    status: str
    outcome: str | None
    holder: str | None
    opened: int


def holder_of(run: Run) -> str | None:
    """The process that is at a sweep now, this one excepted; None where there is none.

    One of this machine can be looked for; one of another is believed for some minutes after it last said so.
    """
    tags = run.data.tags
    owner = tags.get(schema.PROCESS, "")
    if run.info.status != "RUNNING" or owner == provenance.process_name():
        return None
    if provenance.is_here(owner):
        return owner if provenance.is_running(owner) else None
    silence = time.time() - int(tags.get(schema.BEAT, 0)) / 1000
    return owner if silence < LEASE_SECONDS else None


@explained()
def find_sweep(experiment: str, identity: str, uri: str | None = None) -> SweepState | None:
    """The sweep of this identity, or None where it has not begun. Makes nothing.

    Raises:
        TrackingError: the store does not answer.
    """
    uri = configured_uri(uri)
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        return None
    client = connect(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None or found.lifecycle_stage == "deleted":
        return None
    for run in reversed(sweeps_of(client, found.experiment_id)):
        tags = run.data.tags
        if tags.get(schema.IDENTITY) == identity:
            opened = int(tags[schema.OPENED])
            return SweepState(run.info.run_id, run.info.status, tags.get(schema.OUTCOME), holder_of(run), opened)
    return None
