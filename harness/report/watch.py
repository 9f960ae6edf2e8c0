"""A report that is written again while its sweep runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.tracking import Activity, TrackingError, read_activity

if TYPE_CHECKING:
    from harness.report.write import ReportFiles

EVERY: Final = 10.0  # seconds between two looks at the store
_PATIENCE: Final = 30  # looks at a store that does not answer, before it is given up


@dataclass(frozen=True)
class Written:
    """A report, and what of its sweeps it could not have yet.

    Attributes:
        files: None where there is nothing to report yet.
        ended: runs that have ended.
        running: the names of those that train.
        going: whether it will be written again.
    """

    files: ReportFiles | None
    ended: int
    running: tuple[str, ...]
    going: bool


def watch(
    names: Sequence[str],
    write: Callable[[], ReportFiles],
    uri: str | None = None,
    sweep: str | None = None,
    every: float = EVERY,
) -> Iterator[Written]:
    """Write a report, and again whenever something of its sweeps has changed, until none of them runs.

    Args:
        names: of the sweeps.
        write: writes the report.
        uri: MLflow's tracking address; by default the one that sweeps use.
        sweep: a parent run's id, of a single sweep; by default the one that was started or resumed last.
        every: seconds between two looks.

    Raises:
        TrackingError: no such store or sweep; or the store no longer answers; or the sweeps ended without a run.
    """
    seen: tuple[str, ...] = ()
    failures = 0
    while True:
        try:
            activities = [read_activity(name, uri, sweep) for name in names]
            marks = tuple(activity.digest for activity in activities)
            going = any(activity.active for activity in activities)
            if marks != seen:
                yield _written(activities, write, going)
                seen = marks
            failures = 0
        except TrackingError:
            failures += 1
            if not seen or failures > _PATIENCE:
                raise
            going = True
        if not going:
            return
        time.sleep(every)


def _written(activities: Sequence[Activity], write: Callable[[], ReportFiles], going: bool) -> Written:
    ended = sum(activity.ended for activity in activities)
    running = tuple(name for activity in activities for name in activity.running)
    files = write() if all(activity.measured for activity in activities) or not going else None
    return Written(files, ended, running, going)
