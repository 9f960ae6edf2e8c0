"""Sweep ownership: one process runs a sweep at a time, across machines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.core.paths import configured_uri, sqlite_file
from harness.core.text import printable
from harness.tracking import provenance, schema
from harness.tracking.queries import opened_at, refuse_unreadable, sweeps_of
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
    `OWNER_TIMEOUT_SECONDS` old. If its clock is fast, that is never seen: `--take-over` is for this case.
    """
    tags = run.data.tags
    owner = tags.get(schema.PROCESS, "")
    if run.info.status != "RUNNING" or owner == provenance.process_name():
        return None
    if provenance.is_local(owner):
        return owner if provenance.is_running(owner) else None
    age = schema.milliseconds() - heartbeat_of(run)
    return owner if age < 1000 * OWNER_TIMEOUT_SECONDS else None


def heartbeat_of(run: Run) -> int:
    """The last heartbeat of a sweep's process, in milliseconds since 1970; 0 without one that can be read.

    One from the future, as of a machine with a fast clock, counts as now.
    """
    return min(_stored_heartbeat(run), schema.milliseconds())


def _stored_heartbeat(run: Run) -> int:
    return whole(run.data.tags.get(schema.HEARTBEAT)) or 0


def named_owner(run: Run, owner: str) -> str:
    """`process HOST:PID:TIME`, and when its last heartbeat was if it is of another machine."""
    name = f"process {printable(owner)}"
    if provenance.is_local(owner):
        return name
    seconds = (schema.milliseconds() - _stored_heartbeat(run)) / 1000
    if seconds < -OWNER_TIMEOUT_SECONDS:
        return f"{name}, whose last heartbeat is in the future: its clock is fast, or the heartbeat was edited"
    return f"{name}, whose last heartbeat was {max(0.0, seconds):.0f} s ago"


def advice(owner: str) -> str:
    """What to do about a process that owns a sweep."""
    dead = "" if provenance.is_local(owner) else "; if it no longer runs, give the command with --take-over"
    return f"wait for it or stop it{dead}"


def sweep_of(runs: Iterable[Run], identity: str) -> Run | None:
    """The parent run of an identity; of several, which another program must have made, the one that began first."""
    found = [run for run in runs if run.data.tags.get(schema.IDENTITY) == identity]
    return min(found, key=lambda run: int(run.info.start_time), default=None)


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
    if run := sweep_of(sweeps_of(*found, tell), identity):
        owner, outcome = owner_of(run), run.data.tags.get(schema.OUTCOME)
        shown = None if owner is None else printable(owner)
        return SweepState(run.info.run_id, run.info.status, outcome, shown, opened_at(run))
    refuse_unreadable(*found, identity)
    return None


@wrap_errors()
def last_sweep(experiment: str, uri: str | None = None) -> str:
    """The parent run of the sweep that was started or resumed last; empty if there is none. Creates nothing.

    Raises:
        TrackingError: as `find_sweep`.
    """
    return next(iter(sweep_ids(experiment, uri)), "")


@wrap_errors()
def sweep_ids(experiment: str, uri: str | None = None) -> list[str]:
    """The parent runs of all sweeps of a name, the one that was started or resumed last first. Creates nothing.

    Raises:
        TrackingError: as `find_sweep`.
    """
    found = _experiment(experiment, uri)
    return [run.info.run_id for run in reversed(sweeps_of(*found))] if found else []


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
