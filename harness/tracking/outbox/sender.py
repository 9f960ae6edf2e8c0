"""The thread that sends what an outbox holds to MLflow; only it may use the tracker."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from harness.core.disk import disk_error
from harness.core.files import remove_folder
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.core.secrets import without_secrets
from harness.tracking.direct import Place
from harness.tracking.outbox import journal
from harness.tracking.outbox.journal import Entry
from harness.tracking.outbox.places import PlaceRequests
from harness.tracking.outbox.sending_time import SendingTime
from harness.tracking.outbox.unfinished import points_of
from harness.tracking.outbox.waiting import OpenRun, Waiting
from harness.tracking.writing.tracker import Tracker

ARTIFACTS: Final = "artifacts"  # folder in a run's folder: the files that are stored with the run when it ends
_FLUSH_SECONDS: Final = 4.0  # flush interval: one batch costs as much as one point
_MAX_FLUSH_SECONDS: Final = 30.0  # where a flush takes longer than the interval, the next one waits as long as it took
_JOIN_SECONDS: Final = 2.0  # how long to wait at exit for a thread that is waiting for a server
_MAX_RETRY_SECONDS: Final = 10.0  # longest delay between two attempts to reach a server that does not answer
_HEARTBEAT_SECONDS: Final = 45.0
_MAX_BACKLOG: Final = 20  # ended runs that MLflow has not stored yet; with more, no run should start
_DRAWING_BACKLOG: Final = 10  # with more ended runs, figures of runs are left out until MLflow has caught up
_DRAWING_RUNS: Final = 100  # with more runs at once, their figures would take as much time as their points
_STALLED_SECONDS: Final = 10.0  # a store that has accepted nothing for so long counts as down


class Sender:
    """Sends what waits, in order, until it is closed or another process takes the sweep over.

    Args:
        tracker: writes to MLflow.
        parent: the sweep's run there.
        waiting: what is to be sent.
        folder: of the runs' folders.
        draw: as for `Outbox`.
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
        waiting: Waiting,
        folder: Path,
        draw: Callable[[Sequence[Point], Path], None],
        places: PlaceRequests,
    ) -> None:
        self.tracker, self.parent, self.waiting, self.folder, self.draw = tracker, parent, waiting, folder, draw
        self.error = ""
        self.new_owner = ""
        self.sending = SendingTime()
        self._run_ids: deque[tuple[str, str]] = deque()  # see `new_run_ids`
        self._points_at = 0.0  # when the points of all runs are sent next, on `time.monotonic`
        self._draining = False  # whether they are sent at once
        self._places = places
        self._places.wake = waiting.wake.set
        self._last_sent = time.monotonic()
        self._closing = threading.Event()
        self._last_heartbeat = time.monotonic()
        self._thread = threading.Thread(target=self._send_until_closed, name="outbox", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.sending = SendingTime()  # without the runs of an earlier process
        self._thread.start()

    def close(self) -> None:
        """Let the thread end, and wait a moment for it."""
        self._closing.set()
        self.waiting.wake.set()
        self._thread.join(_JOIN_SECONDS)

    @property
    def is_behind(self) -> bool:
        """Whether runs end faster than MLflow stores them; see `Outbox.is_behind`."""
        if self.error or time.monotonic() - self._last_sent > _STALLED_SECONDS:
            return False
        return len(self.waiting.backlog) > _MAX_BACKLOG

    def new_run_ids(self) -> list[tuple[str, str]]:
        """See `Outbox.new_run_ids`."""
        return [self._run_ids.popleft() for _ in range(len(self._run_ids))]

    def drain(self, patience: float, limit: float = math.inf) -> bool:
        """Wait until everything is sent; see `Outbox.drain`."""
        began = time.monotonic()
        self._draining = True
        self.waiting.wake.set()
        try:
            while self._thread.is_alive():
                if self.waiting.idle.wait(0.1):
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
                self.waiting.wake.wait(max(0.0, self._points_at - time.monotonic()))
            self.waiting.wake.clear()
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
                self.waiting.note_idle()
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
        with self.waiting.lock:
            runs = list(self.waiting.runs.values())
        for run in runs:
            self._send_complete_runs()
            if run.waiting or run.run_id is None:
                self._try(self._send, run)
        self._send_complete_runs()
        self.tracker.flush()
        self._last_sent = time.monotonic()
        while self.waiting.tags:
            run_id, tags = self.waiting.tags[0]
            self.tracker.tag(run_id, tags)
            self.waiting.tags.popleft()

    def _send_complete_runs(self) -> None:
        """Create the new runs and send those that have ended. Workers wait for them, so they wait for no points.

        New ones come first: a trial waits for its id, and a run that has ended takes longer.
        """
        while True:
            self._places.serve(self._offer_place)
            if self.waiting.new:
                run = self.waiting.runs.get(self.waiting.new.popleft())
                if run is not None and run.run_id is None:
                    self._try(self._create, run)
            elif self.waiting.complete:
                if (run := self.waiting.runs.get(self.waiting.complete.popleft())) is not None:
                    self._try(self._send, run)
            else:
                return

    def _offer_place(self, key: str) -> Place | None:
        run = self.waiting.runs[key]
        return self.tracker.offer_place(run.run_id or self._create(run))

    def _try(self, step: Callable[[OpenRun], object], run: OpenRun) -> None:
        """Do a step for a run. If it fails, the other runs come first next time."""
        try:
            step(run)
        except Exception:
            self.waiting.put_last(run)
            raise

    def _create(self, run: OpenRun) -> str:
        """Create a run in MLflow, or reopen it."""
        reopen, run.reopen = run.reopen, True  # a call that fails may have created it
        with self.sending.of_run():
            run.run_id = self.tracker.start_run(self.parent, run.info, run.key, reopen, run.started)
        self._run_ids.append((run.key, run.run_id))
        self._last_sent = time.monotonic()
        return run.run_id

    def _send(self, run: OpenRun) -> None:
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
                remove_folder(self.folder / run.key, self.folder)
            if entry.kind == journal.END or (entry.kind == journal.INTERRUPTED and not run.waiting):
                self.waiting.remove(run)

    def _end(self, run: OpenRun, run_id: str, entry: Entry) -> None:
        artifacts = self.folder / run.key / ARTIFACTS
        if len(self.waiting.backlog) <= _DRAWING_BACKLOG and len(self.waiting.runs) <= _DRAWING_RUNS:
            self.draw(points_of(run.journal.read()), artifacts)
        if artifacts.is_dir():
            self.tracker.store_files(run_id, artifacts)
        outcome, reason = Outcome(entry.content["outcome"]), entry.content["reason"]
        self.tracker.end_run(run_id, outcome, reason, entry.at)
