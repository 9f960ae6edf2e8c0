"""Delivers a sweep's runs to MLflow: every entry goes to the disk first, and from there, in a thread, to the store.

Training never waits for the store. While a server is down, entries stay in the runs' folders; they are sent in order
when it answers again, if need be by a later process. Nothing is stored twice: the run in MLflow is found by its key,
and points that it has are skipped. A run's folder is deleted once the run has ended and MLflow has everything. If the
server refuses an artifact, such as one that is too large, only the artifact is left for the next process.
"""

from __future__ import annotations

import contextlib
import math
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from harness.core.files import remove_folder
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.core.text import is_key
from harness.tracking import schema
from harness.tracking.outbox import journal
from harness.tracking.outbox.journal import Journal
from harness.tracking.outbox.places import PlaceRequests
from harness.tracking.outbox.sender import Sender
from harness.tracking.outbox.sending_time import SendingTime
from harness.tracking.outbox.unfinished import UnfinishedRun, unfinished_runs
from harness.tracking.outbox.waiting import OpenRun, Waiting
from harness.tracking.readable import Tell
from harness.tracking.records import TrialInfo
from harness.tracking.writing.sweeps import NOT_CLOSED
from harness.tracking.writing.tracker import Tracker

# While the thread computes, another one waits this long for Python's lock after each system call; a point needs
# three of them. With Python's default of 5 ms, 60 points a second would get through beside a busy thread.
_SWITCH_SECONDS: Final = 0.0002


class Outbox:
    """Records the runs of one sweep on disk and sends them to MLflow.

    Use it as a context manager: inside, a thread sends the entries, and only that thread may use the tracker.

    Args:
        tracker: writes to MLflow.
        parent: the sweep's run there.
        folder: of the runs' folders.
        draw: makes files from the points of a run that has ended, in the given folder; they are stored with the run. It
            is called in the thread, so that no worker waits for it, and not while many ended runs wait.
        places: questions for places in the artifact store, which the thread answers.
    """

    def __init__(
        self,
        tracker: Tracker,
        parent: str,
        folder: Path,
        draw: Callable[[Sequence[Point], Path], None] = lambda _points, _folder: None,
        *,
        places: PlaceRequests | None = None,
    ) -> None:
        self.tracker, self.parent, self.folder = tracker, parent, folder
        self._waiting = Waiting()
        self._sender = Sender(tracker, parent, self._waiting, folder, draw, places or PlaceRequests())

    def __enter__(self) -> Outbox:
        self._switch_seconds = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.close()
        sys.setswitchinterval(self._switch_seconds)
        for folder in (self.folder, self.folder.parent):
            with contextlib.suppress(OSError):  # not empty, or missing
                folder.rmdir()

    # the runs ------------------------------------------------------------------------------------------------

    def unfinished_runs(self, tell: Tell = lambda _: None) -> list[UnfinishedRun]:
        """The runs on disk that an earlier process left, oldest first; `tell` as for `unfinished_runs`."""
        return unfinished_runs(self.folder, tell)

    def folder_of(self, key: str) -> Path:
        """A run's own folder."""
        assert is_key(key), f"found {key!r} as the key of a run"
        return self.folder / key

    def start(self, info: TrialInfo, key: str = "", at: int | None = None) -> str:
        """Start a run.

        Args:
            info: what is trained.
            key: of a run that may exist in MLflow and whose folder is lost; it is resumed there. "", or a text from a
                store that can be no key: a new run.
            at: when it started, in milliseconds since 1970; None: now.

        Returns:
            its key.
        """
        reopen = is_key(key)
        key = key if reopen else uuid.uuid4().hex[:12]
        run = OpenRun(key, info, Journal(self.folder_of(key)), reopen=reopen)
        run.journal.path.unlink(missing_ok=True)  # a journal that cannot be read
        self._waiting.add_run(run, [run.journal.append(journal.BEGIN, schema.describe_trial(info), at)])
        return run.key

    def resume(self, unfinished: UnfinishedRun) -> None:
        """Resume a run that was interrupted; entries that MLflow does not have are sent."""
        run = self._reopened(unfinished)
        self._waiting.add_run(
            run, [entry for entry in run.journal.read(repair=True) if entry.kind != journal.INTERRUPTED]
        )

    def send_unfinished(self, unfinished: UnfinishedRun) -> None:
        """Send all entries of a run that an earlier process left, and its outcome.

        The folder of a run that has ended is deleted then. Any other run counts as interrupted, and its folder stays.
        """
        run = self._reopened(unfinished)
        entries = run.journal.read(repair=True)
        if entries[-1].kind not in (journal.INTERRUPTED, journal.END):
            entries.append(run.journal.append(journal.INTERRUPTED, {"reason": NOT_CLOSED}))
        self._waiting.add_run(run, entries)

    def discard(self, unfinished: UnfinishedRun) -> None:
        """Delete the folder of a run that will not be resumed."""
        remove_folder(self.folder_of(unfinished.key), self.folder)

    def log_point(self, key: str, point: Point, at: int | None = None) -> None:
        """Record a point of a run, measured at `at` (milliseconds since 1970; None: now)."""
        self.log_points(key, [point], at)

    def log_points(self, key: str, points: Iterable[Point], at: int | None = None) -> None:
        """Record points of a run in one write."""
        contents = [{**vars(point), "metrics": dict(point.metrics)} for point in points]
        self._append(key, journal.POINT, contents, at)

    def tag(self, key: str, **tags: str) -> None:
        """Tag a run, by names after `harness.`."""
        self._append(key, journal.TAG, [tags])

    def tag_stored(self, run_id: str, **tags: str) -> None:
        """Tag a run that is in MLflow already. A tag that cannot be sent is lost with this process."""
        self._waiting.add_tags(run_id, tags)

    def interrupt(self, key: str, reason: str) -> None:
        """Record that a run was interrupted: its folder stays, so that another process can resume it."""
        self._append(key, journal.INTERRUPTED, [{"reason": reason}])

    def end(self, key: str, outcome: Outcome, reason: str, at: int | None = None) -> None:
        """Record how a run ended, and when (milliseconds since 1970; None: now).

        Its folder is deleted once MLflow has everything, the artifacts included.
        """
        self._append(key, journal.END, [{"outcome": str(outcome), "reason": reason}], at)

    def _reopened(self, unfinished: UnfinishedRun) -> OpenRun:
        return OpenRun(unfinished.key, unfinished.info, Journal(self.folder_of(unfinished.key)), reopen=True)

    def _append(self, key: str, kind: str, contents: Sequence[Mapping[str, Any]], at: int | None = None) -> None:
        run = self._waiting.runs[key]
        self._waiting.add_entries(run, run.journal.append_all(kind, contents, at))

    # sending --------------------------------------------------------------------------------------------

    @property
    def error(self) -> str:
        """Why the last attempt to send failed; empty if it did not."""
        return self._sender.error

    @property
    def new_owner(self) -> str:
        """The process that has taken the sweep over; empty if none has."""
        return self._sender.new_owner

    @property
    def sending(self) -> SendingTime:
        """How long sending has taken."""
        return self._sender.sending

    @property
    def waiting(self) -> int:
        """How many runs have entries that are still to be sent."""
        return self._waiting.count()

    @property
    def is_behind(self) -> bool:
        """Whether runs end faster than MLflow stores them, so that no run should start for now.

        False while MLflow does not answer: training does not wait for a server that is down.
        """
        return self._sender.is_behind

    def new_run_ids(self) -> list[tuple[str, str]]:
        """Key and MLflow run id of the runs that MLflow has created or reopened since the last call."""
        return self._sender.new_run_ids()

    def drain(self, patience: float, limit: float = math.inf) -> bool:
        """Wait until everything is sent, as long as MLflow makes progress.

        Args:
            patience: seconds without progress after which to give up.
            limit: seconds in all.

        Returns:
            whether everything is sent.
        """
        return self._sender.drain(patience, limit)

    def send(self) -> None:
        """Send all waiting entries. Only for a process that has not entered the outbox: the thread does it there.

        Raises:
            TrackingError: the store refuses or does not answer.
        """
        self._sender.send()
