"""The sweep's own MLflow run: opened before its runs, closed with the sweep's outcome whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.console.cli import err
from harness.core.outcomes import Outcome
from harness.tracking import SweepBusy, Tracker, TrackingError
from harness.tracking.records import SweepInfo
from harness.tracking.schema import summary


@dataclass
class ParentRun:
    """The sweep's own MLflow run, and the outcome that it is closed with."""

    run_id: str
    outcome: Outcome = Outcome.FAILED


@contextmanager
def parent_run(tracker: Tracker, info: SweepInfo) -> Iterator[ParentRun]:
    """Open the sweep's MLflow run, and close it at the end, unless another process took the sweep over."""
    parent = ParentRun(tracker.begin_sweep(info))
    try:
        tracker.describe_sweep(parent.run_id)
        yield parent
    except SweepBusy:
        raise  # the other process closes it
    except KeyboardInterrupt:
        _close(tracker, parent.run_id, Outcome.INTERRUPTED)
        raise
    except BaseException as error:
        _close(tracker, parent.run_id, parent.outcome, summary(str(error) or type(error).__name__))
        raise
    _close(tracker, parent.run_id, parent.outcome)


def _close(tracker: Tracker, run_id: str, outcome: Outcome, reason: str = "") -> None:
    try:
        tracker.close_sweep(run_id, outcome, reason)
    except TrackingError as error:
        err.print(f"{error}; the same command repairs the status of the sweep's MLflow run", soft_wrap=True)
