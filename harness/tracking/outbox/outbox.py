"""What a sweep measures, on its way to MLflow: first to the disk, then, by a thread of its own, to the store.

Training never waits for the store. While a server is down, everything stays in the runs' folders and is sent when it
answers again, in order; a process that takes over sends what an earlier one could not. Nothing is stored twice: a
run's folder has its whole record, the run in MLflow is found by its key, and what it has is left out. A folder is
there as long as there is something to train or to send, and no longer.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.tracking import schema
from harness.tracking.outbox import journal
from harness.tracking.outbox.journal import Entry, Journal
from harness.tracking.records import TrialInfo
from harness.tracking.writing.sweeps import Tracker

ARTIFACTS: Final = "artifacts"  # folder in a run's folder: what is stored with the run when it ends
_SEND_SECONDS: Final = 4.0  # points wait so long for company: to send them costs by the batch
_FAREWELL_SECONDS: Final = 2.0  # that a thread which waits for a server is waited for
_LONGEST_PAUSE: Final = 10.0  # between two attempts to reach a server that does not answer
_BEAT_SECONDS: Final = 45.0


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that is on disk: interrupted, or ended and not yet wholly in MLflow.

    Attributes:
        key: of the run, and the name of its folder.
        info: what it is.
        points: of its curves, each step once.
        outcome: how it ended; None where it can be gone on with.
        reason: of that outcome.
    """

    key: str
    info: TrialInfo
    points: tuple[Point, ...]
    outcome: Outcome | None
    reason: str


@dataclass
class _Run:
    """A run and what of it is still to be sent; what was taken from `waiting` is with the tracker."""

    key: str
    info: TrialInfo
    journal: Journal
    waiting: deque[Entry] = field(default_factory=deque)
    run_id: str | None = None
    again: bool = False  # whether MLflow may know it already


class Outbox:
    """The record of one sweep's runs, on disk and on its way.

    Use it as a context: the thread that sends lives inside. Only that thread uses the tracker then.

    Args:
        tracker: writes into MLflow.
        parent: the sweep's run there.
        folder: of the runs' folders.
        draw: makes of the points of a run that has ended what is to be stored with it, in a folder. In the thread, so
            that no worker waits for a drawing.
    """

    def __init__(
        self,
        tracker: Tracker,
        parent: str,
        folder: Path,
        draw: Callable[[Sequence[Point], Path], None] = lambda _points, _folder: None,
    ) -> None:
        self.tracker, self.parent, self.folder, self.draw = tracker, parent, folder, draw
        self.trouble = ""  # why the last attempt to send failed; empty where it did not
        self.taken_by = ""  # the process that has taken the sweep over
        self._runs: dict[str, _Run] = {}
        self._tags: deque[tuple[str, Mapping[str, str]]] = deque()  # for runs that are in MLflow only
        self._run_ids: deque[tuple[str, str]] = deque()  # filled by the thread, see `new_run_ids`
        self._lock = threading.Lock()  # of `_runs`
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._closing = threading.Event()
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._live, name="outbox", daemon=True)

    def __enter__(self) -> Outbox:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._wake.set()
        self._thread.join(_FAREWELL_SECONDS)
        for folder in (self.folder, self.folder.parent):
            with contextlib.suppress(OSError):  # not empty, or not there
                folder.rmdir()

    # the record ----------------------------------------------------------------------------------------------

    def kept(self) -> list[UnfinishedRun]:
        """The runs on disk that an earlier process left, oldest first."""
        return unfinished_runs(self.folder)

    def folder_of(self, key: str) -> Path:
        """A run's own folder, which goes with the run."""
        return self.folder / key

    def begin(self, info: TrialInfo, key: str = "") -> str:
        """Open a run; gives its key.

        Args:
            info: what is trained.
            key: of a run that MLflow may have and whose folder is lost: it is gone on with there.
        """
        again, key = bool(key), key or uuid.uuid4().hex[:12]
        run = _Run(key, info, Journal(self.folder_of(key)), again=again)
        run.journal.path.unlink(missing_ok=True)  # one that cannot be read
        self._add(run, [run.journal.append(journal.BEGIN, schema.describe_trial(info))])
        return run.key

    def take_up(self, kept: UnfinishedRun) -> None:
        """Go on with a run that was interrupted; what MLflow does not have of it is sent."""
        run = _Run(kept.key, kept.info, Journal(self.folder_of(kept.key)), again=True)
        self._add(run, [entry for entry in run.journal.read(mend=True) if entry.kind != journal.PAUSE])

    def settle(self, kept: UnfinishedRun) -> None:
        """Let MLflow have the whole record of a run that an earlier process left, and its real end.

        One that ended is ended, and its folder goes; any other was interrupted, and its folder stays.
        """
        run = _Run(kept.key, kept.info, Journal(self.folder_of(kept.key)), again=True)
        entries = run.journal.read(mend=True)
        if entries[-1].kind not in (journal.PAUSE, journal.END):
            entries.append(run.journal.append(journal.PAUSE, {"reason": "its process ended without closing it"}))
        self._add(run, entries)

    def drop(self, kept: UnfinishedRun) -> None:
        """Give up a run that nobody will go on with."""
        shutil.rmtree(self.folder_of(kept.key), ignore_errors=True)

    def point(self, key: str, point: Point) -> None:
        """Take a point of a run."""
        self._append(key, journal.POINT, {**vars(point), "metrics": dict(point.metrics)})

    def tag(self, key: str, **tags: str) -> None:
        """Tag a run, by names after `harness.`."""
        self._append(key, journal.TAG, tags)

    def tag_stored(self, run_id: str, **tags: str) -> None:
        """Tag a run that is in MLflow already. What cannot be sent is lost with this process."""
        self._tags.append((run_id, tags))
        self._wake.set()

    def pause(self, key: str, reason: str) -> None:
        """A run was interrupted: its folder stays, for another process to go on with it."""
        self._append(key, journal.PAUSE, {"reason": reason})

    def end(self, key: str, outcome: Outcome, reason: str) -> None:
        """A run has ended. Once everything of it and of its artifacts' folder is in MLflow, its folder goes."""
        self._append(key, journal.END, {"outcome": str(outcome), "reason": reason})

    @property
    def waiting(self) -> int:
        """Runs of which something is still to be sent."""
        with self._lock:
            return sum(bool(run.waiting) for run in self._runs.values())

    def new_run_ids(self) -> list[tuple[str, str]]:
        """Key and MLflow run id of the runs that MLflow has created or reopened since the last call."""
        return [self._run_ids.popleft() for _ in range(len(self._run_ids))]

    def drain(self, seconds: float, patience: Callable[[], bool] = lambda: True) -> bool:
        """Wait until everything is sent, for so many seconds and while `patience`; True if it is."""
        deadline = time.monotonic() + seconds
        self._idle.clear()
        self._wake.set()
        while time.monotonic() < deadline and patience() and self._thread.is_alive():
            if self._idle.wait(0.1) and not self.waiting:
                return True
        return False

    def _add(self, run: _Run, entries: list[Entry]) -> None:
        run.waiting.extend(entries[1:])
        with self._lock:
            self._runs[run.key] = run
        self._wake.set()

    def _append(self, key: str, kind: str, content: Mapping[str, Any]) -> None:
        run = self._runs[key]
        run.waiting.append(run.journal.append(kind, content))
        if kind in (journal.PAUSE, journal.END):
            self._wake.set()

    # the thread ----------------------------------------------------------------------------------------------

    def _live(self) -> None:
        failures = 0
        while not (self._closing.is_set() or self.taken_by):
            if failures:
                self._closing.wait(min(_LONGEST_PAUSE, 0.5 * 2**failures))
            else:
                self._wake.wait(_SEND_SECONDS)
            self._wake.clear()
            try:
                self.send()
                failures, self.trouble = 0, ""
                self._idle.set()
            except Exception as error:  # whatever a store answers, the sweep goes on, and it is asked again
                failures = min(failures + 1, 10)
                self.trouble = (str(error).strip() or type(error).__name__).splitlines()[0]

    def send(self) -> None:
        """Send all that waits; for the thread, and before there is one.

        Raises:
            TrackingError: the store refuses or does not answer.
        """
        if time.monotonic() - self._beat >= _BEAT_SECONDS:
            self.taken_by = self.tracker.beat(self.parent) or ""
            self._beat = time.monotonic()
            if self.taken_by:
                return
        with self._lock:
            runs = list(self._runs.values())
        # New runs are begun first, as an end is drawn, which takes longer. One that could not be begun has its turn.
        new = [run for run in runs if run.run_id is None and not run.again]
        for step, run in (*((self._begin, run) for run in new), *((self._send, run) for run in runs)):
            try:
                step(run)
            except Exception:
                with self._lock:  # the others have their turn before it
                    if run.key in self._runs:
                        self._runs[run.key] = self._runs.pop(run.key)
                raise
        self.tracker.flush()
        while self._tags:
            run_id, tags = self._tags[0]
            self.tracker.tag(run_id, tags)
            self._tags.popleft()

    def _begin(self, run: _Run) -> str:
        again, run.again = run.again, True
        run.run_id = self.tracker.start_trial(self.parent, run.info, run.key, again)
        self._run_ids.append((run.key, run.run_id))
        return run.run_id

    def _send(self, run: _Run) -> None:
        """Give the tracker what waits of one run. An entry is taken from the queue once the tracker has it."""
        run_id = run.run_id or self._begin(run)
        while run.waiting:
            entry = run.waiting[0]
            content = dict(entry.content)
            if entry.kind == journal.POINT:
                self.tracker.log_point(run_id, Point.from_plain(content), entry.at)
            elif entry.kind == journal.TAG:
                self.tracker.tag(run_id, content)
            elif entry.kind == journal.PAUSE and len(run.waiting) == 1:
                self.tracker.end_trial(run_id, Outcome.INTERRUPTED, content["reason"], entry.at)
            elif entry.kind == journal.END:
                artifacts = self.folder_of(run.key) / ARTIFACTS
                self.draw(_points(run.journal.read()), artifacts)
                if artifacts.is_dir():
                    self.tracker.keep_files(run_id, artifacts)
                self.tracker.end_trial(run_id, Outcome(content["outcome"]), content["reason"], entry.at)
            run.waiting.popleft()
            if entry.kind == journal.END:
                shutil.rmtree(self.folder_of(run.key), ignore_errors=True)
            if entry.kind == journal.END or (entry.kind == journal.PAUSE and not run.waiting):
                with self._lock:
                    del self._runs[run.key]


def unfinished_runs(folder: Path) -> list[UnfinishedRun]:
    """The runs whose folders are in `folder`, oldest first. What is no run's record is passed over."""
    found = []
    for one in sorted(folder.iterdir()) if folder.is_dir() else []:
        entries = Journal(one).read()
        if entries and (kept := _kept(one.name, entries)) is not None:
            found.append((entries[0].at, kept))
    return [kept for _, kept in sorted(found, key=lambda pair: pair[0])]


def _points(entries: list[Entry]) -> tuple[Point, ...]:
    return tuple(Point.from_plain(entry.content) for entry in journal.points_of(entries))


def _kept(key: str, entries: list[Entry]) -> UnfinishedRun | None:
    try:
        info = schema.parse_trial(entries[0].content)
        points = _points(entries)
        last = entries[-1]
        if last.kind != journal.END:
            return UnfinishedRun(key, info, points, None, "")
        return UnfinishedRun(key, info, points, Outcome(last.content["outcome"]), last.content["reason"])
    except (ValueError, TypeError, LookupError):  # of another version of the harness
        return None
