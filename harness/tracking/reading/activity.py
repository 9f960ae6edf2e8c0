"""Whether a sweep still runs, and whether anything has changed since it was last looked at; curves are not read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from harness.core import metrics
from harness.tracking import schema
from harness.tracking.ownership import holder_of
from harness.tracking.reading.sweeps import parent_runs
from harness.tracking.store import explained, trials_of


@dataclass(frozen=True)
class Pulse:
    """A sweep at one moment.

    Attributes:
        run_id: the parent run.
        going: whether a process is at it; not so where one died.
        mark: changes whenever a run begins, is evaluated or ends.
        ended: how many of its runs have ended.
        running: the names of those that have not.
        measured: whether any has a validation loss, so that there is something to report: of the whole split, which
            runs with `train.eval_tokens` have too, at their beginning and at their end.
    """

    run_id: str
    going: bool
    mark: str
    ended: int
    running: tuple[str, ...]
    measured: bool


@explained()
def read_pulse(experiment: str, uri: str | None = None, sweep: str | None = None) -> Pulse:
    """The sweep now.

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
    return Pulse(
        run_id=parent.info.run_id,
        going=holder_of(parent) is not None,
        mark=digest.hexdigest(),
        ended=len(runs) - len(open_runs),
        running=tuple(run.info.run_name for run in open_runs),
        measured=any(metrics.VAL_LOSS in run.data.metrics for run in runs),
    )
