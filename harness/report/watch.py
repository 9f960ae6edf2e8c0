"""Rewrites a report while its sweep runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.tracking import Activity, TrackingError, read_activity

if TYPE_CHECKING:
    from harness.report.write import ReportFiles

EVERY: Final = 10.0  # seconds between two polls of the store
_PATIENCE: Final = 30  # failed polls in a row before giving up


@dataclass(frozen=True)
class Written:
    """A written report, and the progress of its sweeps.

    Attributes:
        files: the report; None if there is nothing to report yet.
        ended: number of runs that have ended.
        running: names of the runs that are training.
        preliminary: whether a sweep still runs, so that the report will be written again.
    """

    files: ReportFiles | None
    ended: int
    running: tuple[str, ...]
    preliminary: bool


def watch(
    names: Sequence[str],
    write: Callable[[], ReportFiles],
    uri: str | None = None,
    sweep: str | None = None,
    every: float = EVERY,
) -> Iterator[Written]:
    """Write a report, and again whenever its sweeps have changed, until none of them is running.

    Args:
        names: names of the sweeps.
        write: writes the report.
        uri: MLflow tracking URI; by default the one that sweeps use.
        sweep: parent run id of a single sweep; by default the sweep that was started or resumed last.
        every: seconds between two polls.

    Raises:
        TrackingError: the store or a sweep does not exist, the store stopped answering, or a sweep ended without a run.
    """
    seen: tuple[str, ...] = ()
    failures = 0
    while True:
        try:
            activities = [read_activity(name, uri, sweep) for name in names]
            marks = tuple(activity.digest for activity in activities)
            active = any(activity.active for activity in activities)
            if marks != seen:
                yield _written(activities, write, active)
                seen = marks
            failures = 0
        except TrackingError:
            failures += 1
            if not seen or failures > _PATIENCE:
                raise
            active = True
        if not active:
            return
        time.sleep(every)


def _written(activities: Sequence[Activity], write: Callable[[], ReportFiles], active: bool) -> Written:
    ended = sum(activity.ended for activity in activities)
    running = tuple(name for activity in activities for name in activity.running)
    files = write() if all(activity.measured for activity in activities) or not active else None
    return Written(files, ended, running, active)
