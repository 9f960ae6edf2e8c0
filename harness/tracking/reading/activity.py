"""Whether a sweep still runs, and whether it has changed since the last look; curves are not read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from harness.config.labels import shown_name
from harness.core import metrics
from harness.tracking import schema
from harness.tracking.ownership import owner_of
from harness.tracking.queries import trials_of
from harness.tracking.reading.sweeps import parent_runs
from harness.tracking.store import wrap_errors


@dataclass(frozen=True)
class Activity:
    """A sweep at one moment.

    Attributes:
        run_id: the parent run.
        active: whether another process runs it; False if that process has died.
        digest: changes whenever a run starts, is evaluated or ends.
        ended: how many of its runs have ended.
        running: the names of those that have not, with the labels of their arms.
        measured: whether any run has a loss of the whole validation split, so that there is something to report. Runs
            with `train.eval_tokens` have one at their start and at their end.
    """

    run_id: str
    active: bool
    digest: str
    ended: int
    running: tuple[str, ...]
    measured: bool


@wrap_errors()
def read_activity(experiment: str, uri: str | None = None, sweep: str | None = None) -> Activity:
    """The activity of a sweep now.

    Args:
        experiment, uri, sweep: as for `load_runs`; of several sweeps, the one that was started or resumed last.

    Raises:
        TrackingError: no such store, experiment or sweep.
    """
    client, experiment_id, parents = parent_runs(experiment, uri, sweep)
    parent = parents[-1]
    digest = hashlib.sha256(f"{parent.info.run_id} {parent.info.status}".encode())
    runs = trials_of(client, experiment_id, parent.info.run_id)
    open_runs = [run for run in runs if schema.OUTCOME not in run.data.tags]
    for run in runs:
        losses = [run.data.metrics.get(name) for name in (metrics.VAL_LOSS, metrics.VAL_SAMPLE_LOSS)]
        digest.update(f"{run.info.run_id} {run.data.tags.get(schema.OUTCOME)} {losses}".encode())
    return Activity(
        run_id=parent.info.run_id,
        active=owner_of(parent) is not None,
        digest=digest.hexdigest(),
        ended=len(runs) - len(open_runs),
        running=tuple(
            shown_name(run.info.run_name, run.data.tags.get(schema.ARM, ""), run.data.tags.get(schema.LABEL, ""))
            for run in open_runs
        ),
        measured=any(metrics.VAL_LOSS in run.data.metrics for run in runs),
    )
