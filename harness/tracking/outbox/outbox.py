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
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness.core.disk import disk_error
from harness.core.files import remove_folder
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.core.secrets import without_secrets
from harness.core.text import is_key
from harness.tracking import schema
from harness.tracking.direct import Place
from harness.tracking.outbox import journal
from harness.tracking.outbox.journal import Entry, Journal
from harness.tracking.outbox.places import PlaceRequests
from harness.tracking.outbox.sending_time import SendingTime
from harness.tracking.outbox.unfinished import UnfinishedRun, points_of, unfinished_runs
from harness.tracking.readable import Tell
from harness.tracking.records import TrialInfo
from harness.tracking.writing.sweeps import NOT_CLOSED
from harness.tracking.writing.tracker import Tracker

ARTIFACTS: Final = "artifacts"  # folder in a run's folder: the files that are stored with the run when it ends
_FLUSH_SECONDS: Final = 4.0  # flush interval: one batch costs as much as one point
# While the thread computes, another one waits this long for Python's lock after each system call; a point needs
# three of them. With Python's default of 5 ms, 60 points a second would get through beside a busy thread.
_SWITCH_SECONDS: Final = 0.0002
_MAX_FLUSH_SECONDS: Final = 30.0  # where a flush takes longer than the interval, the next one waits as long as it took
_JOIN_SECONDS: Final = 2.0  # how long to wait at exit for a thread that is waiting for a server
_MAX_RETRY_SECONDS: Final = 10.0  # longest delay between two attempts to reach a server that does not answer
_HEARTBEAT_SECONDS: Final = 45.0
_MAX_BACKLOG: Final = 20  # ended runs that MLflow has not stored yet; with more, no run should start
_DRAWING_BACKLOG: Final = 10  # with more ended runs, figures of runs are left out until MLflow has caught up
_DRAWING_RUNS: Final = 100  # with more runs at once, their figures would take as much time as their points
_LAST: Final = (journal.INTERRUPTED, journal.END)  # no entry of this process follows them
_STALLED_SECONDS: Final = 10.0  # a store that has accepted nothing for so long counts as down


@dataclass
class _Run:
    """A run and its entries that are still to be sent; `started` in milliseconds since 1970."""

    key: str
    info: TrialInfo
    journal: Journal
    started: int | None = None
    waiting: deque[Entry] = field(default_factory=deque)
    run_id: str | None = None
    reopen: bool = False  # whether MLflow may have it already


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

    Attributes:
        error: why the last attempt to send failed; empty if it did not.
        new_owner: the process that has taken the sweep over; empty if none has.
        sending: how long sending has taken.
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
        self.tracker, self.parent, self.folder, self.draw = tracker, parent, folder, draw
        self.error = ""
        self.new_owner = ""
        self.sending = SendingTime()
        self._runs: dict[str, _Run] = {}
        self._tags: deque[tuple[str, Mapping[str, str]]] = deque()  # of runs that are only in MLflow, by run id
        self._run_ids: deque[tuple[str, str]] = deque()  # filled by the thread, see `new_run_ids`
        self._new: deque[str] = deque()  # keys of runs that MLflow has to create or reopen
        self._complete: deque[str] = deque()  # of runs that have ended or were interrupted
        self._backlog: set[str] = set()  # of runs that have ended and are not completely in MLflow
        self._points_at = 0.0  # when the points of all runs are sent next, on `time.monotonic`
        self._draining = False  # whether they are sent at once
        self._lock = threading.Lock()  # of the runs, their entries, `_tags` and `_idle`
        self._wake = threading.Event()
        self._places = places or PlaceRequests()
        self._places.wake = self._wake.set
        self._idle = threading.Event()  # set while everything is sent
        self._last_sent = time.monotonic()
        self._closing = threading.Event()
        self._last_heartbeat = time.monotonic()
        self._thread = threading.Thread(target=self._send_until_closed, name="outbox", daemon=True)

    def __enter__(self) -> Outbox:
        self.sending = SendingTime()  # without the runs of an earlier process
        self._switch_seconds = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._wake.set()
        self._thread.join(_JOIN_SECONDS)
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
        run = _Run(key, info, Journal(self.folder_of(key)), reopen=reopen)
        run.journal.path.unlink(missing_ok=True)  # a journal that cannot be read
        self._add(run, [run.journal.append(journal.BEGIN, schema.describe_trial(info), at)])
        return run.key

    def resume(self, unfinished: UnfinishedRun) -> None:
        """Resume a run that was interrupted; entries that MLflow does not have are sent."""
        run = self._reopened(unfinished)
        self._add(run, [entry for entry in run.journal.read(repair=True) if entry.kind != journal.INTERRUPTED])

    def send_unfinished(self, unfinished: UnfinishedRun) -> None:
        """Send all entries of a run that an earlier process left, and its outcome.

        The folder of a run that has ended is deleted then. Any other run counts as interrupted, and its folder stays.
        """
        run = self._reopened(unfinished)
        entries = run.journal.read(repair=True)
        if entries[-1].kind not in (journal.INTERRUPTED, journal.END):
            entries.append(run.journal.append(journal.INTERRUPTED, {"reason": NOT_CLOSED}))
        self._add(run, entries)

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
        with self._lock:
            self._tags.append((run_id, tags))
            self._idle.clear()
        self._wake.set()

    def interrupt(self, key: str, reason: str) -> None:
        """Record that a run was interrupted: its folder stays, so that another process can resume it."""
        self._append(key, journal.INTERRUPTED, [{"reason": reason}])

    def end(self, key: str, outcome: Outcome, reason: str, at: int | None = None) -> None:
        """Record how a run ended, and when (milliseconds since 1970; None: now).

        Its folder is deleted once MLflow has everything, the artifacts included.
        """
        self._append(key, journal.END, [{"outcome": str(outcome), "reason": reason}], at)

    def _reopened(self, unfinished: UnfinishedRun) -> _Run:
        return _Run(unfinished.key, unfinished.info, Journal(self.folder_of(unfinished.key)), reopen=True)

    def _add(self, run: _Run, entries: list[Entry]) -> None:
        run.started = entries[0].at
        run.waiting.extend(entries[1:])
        with self._lock:
            self._runs[run.key] = run
            self._new.append(run.key)
            self._note_last(run.key, entries[-1].kind)
            self._idle.clear()
        self._wake.set()

    def _append(self, key: str, kind: str, contents: Sequence[Mapping[str, Any]], at: int | None = None) -> None:
        run = self._runs[key]
        entries = run.journal.append_all(kind, contents, at)
        with self._lock:
            run.waiting.extend(entries)
            self._note_last(key, kind)
            self._idle.clear()
        if kind in _LAST:
            self._wake.set()

    def _note_last(self, key: str, kind: str) -> None:
        """Note the kind of a run's last entry."""
        if kind in _LAST:
            self._complete.append(key)
        if kind == journal.END:
            self._backlog.add(key)

    # sending --------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many runs have entries that are still to be sent."""
        with self._lock:
            return sum(bool(run.waiting) for run in self._runs.values())

    @property
    def is_behind(self) -> bool:
        """Whether runs end faster than MLflow stores them, so that no run should start for now.

        False while MLflow does not answer: training does not wait for a server that is down.
        """
        if self.error or time.monotonic() - self._last_sent > _STALLED_SECONDS:
            return False
        return len(self._backlog) > _MAX_BACKLOG

    def new_run_ids(self) -> list[tuple[str, str]]:
        """Key and MLflow run id of the runs that MLflow has created or reopened since the last call."""
        return [self._run_ids.popleft() for _ in range(len(self._run_ids))]

    def drain(self, patience: float, limit: float = math.inf) -> bool:
        """Wait until everything is sent, as long as MLflow makes progress.

        Args:
            patience: seconds without progress after which to give up.
            limit: seconds in all.

        Returns:
            whether everything is sent.
        """
        began = time.monotonic()
        self._draining = True
        self._wake.set()
        try:
            while self._thread.is_alive():
                if self._idle.wait(0.1):
                    return True
                now = time.monotonic()
                if now - began > limit or now - max(began, self._last_sent) > patience:
                    return False
            return False
        finally:
            self._draining = False

    def _send_until_closed(self) -> None:
        """The main function of the thread."""
        failures = 0
        while not (self._closing.is_set() or self.new_owner):
            if failures:
                self._closing.wait(min(_MAX_RETRY_SECONDS, 0.5 * 2**failures))
            else:
                self._wake.wait(max(0.0, self._points_at - time.monotonic()))
            self._wake.clear()
            began = time.monotonic()
            try:
                if failures or self._draining or began >= self._points_at:
                    self.send()
                    now = time.monotonic()
                    self._points_at = now + min(_MAX_FLUSH_SECONDS, max(_FLUSH_SECONDS, now - began))
                else:
                    self._send_complete_runs()
                self.sending.seconds += time.monotonic() - began
                failures, self.error = 0, ""
                with self._lock:
                    if not self._tags and not any(run.waiting for run in self._runs.values()):
                        self._idle.set()
            except Exception as error:  # whatever a store answers, training continues and the thread retries
                failures = min(failures + 1, 10)
                text = disk_error(error) if isinstance(error, OSError) else str(error).strip()
                self.error = without_secrets((text or type(error).__name__).splitlines()[0])
                self._places.refuse(self.error)

    def send(self) -> None:
        """Send all waiting entries. Only the thread calls this once it runs.

        Raises:
            TrackingError: the store refuses or does not answer.
        """
        if time.monotonic() - self._last_heartbeat >= _HEARTBEAT_SECONDS:
            self.new_owner = self.tracker.heartbeat(self.parent) or ""
            self._last_heartbeat = time.monotonic()
            if self.new_owner:
                return
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            self._send_complete_runs()
            if run.waiting or run.run_id is None:
                self._try(self._send, run)
        self._send_complete_runs()
        self.tracker.flush()
        self._last_sent = time.monotonic()
        while self._tags:
            run_id, tags = self._tags[0]
            self.tracker.tag(run_id, tags)
            self._tags.popleft()

    def _send_complete_runs(self) -> None:
        """Create the new runs and send those that have ended. Workers wait for them, so they wait for no points.

        New ones come first: a trial waits for its id, and a run that has ended takes longer.
        """
        while True:
            self._places.serve(self._offer_place)
            if self._new:
                run = self._runs.get(self._new.popleft())
                if run is not None and run.run_id is None:
                    self._try(self._create, run)
            elif self._complete:
                if (run := self._runs.get(self._complete.popleft())) is not None:
                    self._try(self._send, run)
            else:
                return

    def _offer_place(self, key: str) -> Place | None:
        run = self._runs[key]
        return self.tracker.offer_place(run.run_id or self._create(run))

    def _try(self, step: Callable[[_Run], object], run: _Run) -> None:
        """Do a step for a run. If it fails, the other runs come first next time."""
        try:
            step(run)
        except Exception:
            with self._lock:
                if run.key in self._runs:
                    self._runs[run.key] = self._runs.pop(run.key)
            raise

    def _create(self, run: _Run) -> str:
        """Create a run in MLflow, or reopen it."""
        reopen, run.reopen = run.reopen, True  # a call that fails may have created it
        with self.sending.of_run():
            run.run_id = self.tracker.start_run(self.parent, run.info, run.key, reopen, run.started)
        self._run_ids.append((run.key, run.run_id))
        self._last_sent = time.monotonic()
        return run.run_id

    def _send(self, run: _Run) -> None:
        """Send a run's waiting entries. An entry leaves the queue once the tracker has it."""
        run_id = run.run_id or self._create(run)
        while run.waiting:
            entry = run.waiting[0]
            content = dict(entry.content)
            if entry.kind == journal.POINT:
                self.tracker.log_point(run_id, Point.from_plain(content), entry.at)
                self.sending.points += 1
            elif entry.kind == journal.TAG:
                self.tracker.tag(run_id, content)
            elif entry.kind == journal.INTERRUPTED and len(run.waiting) == 1:
                self.tracker.end_run(run_id, Outcome.INTERRUPTED, content["reason"], entry.at)
            elif entry.kind == journal.END:
                with self.sending.of_run():
                    self._end(run, run_id, entry)
                self.sending.runs += 1
            run.waiting.popleft()
            self._last_sent = time.monotonic()
            # The folder of a run whose artifacts were refused stays, so that the next command tries again.
            if entry.kind == journal.END and not self.tracker.refused_artifacts(run_id):
                remove_folder(self.folder_of(run.key), self.folder)
            if entry.kind == journal.END or (entry.kind == journal.INTERRUPTED and not run.waiting):
                with self._lock:
                    del self._runs[run.key]
                    self._backlog.discard(run.key)

    def _end(self, run: _Run, run_id: str, entry: Entry) -> None:
        artifacts = self.folder_of(run.key) / ARTIFACTS
        if len(self._backlog) <= _DRAWING_BACKLOG and len(self._runs) <= _DRAWING_RUNS:
            self.draw(points_of(run.journal.read()), artifacts)
        if artifacts.is_dir():
            self.tracker.store_files(run_id, artifacts)
        outcome, reason = Outcome(entry.content["outcome"]), entry.content["reason"]
        self.tracker.end_run(run_id, outcome, reason, entry.at)
