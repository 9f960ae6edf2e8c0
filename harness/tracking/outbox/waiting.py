"""What a sweep's outbox still has to send: shared by the process, which adds, and the thread, which sends."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from harness.tracking.outbox import journal
from harness.tracking.outbox.journal import Entry, Journal
from harness.tracking.records import TrialInfo

_LAST: Final = (journal.INTERRUPTED, journal.END)  # no entry of this process follows them


@dataclass
class OpenRun:
    """A run and its entries that are still to be sent; `started` in milliseconds since 1970."""

    key: str
    info: TrialInfo
    journal: Journal
    started: int | None = None
    waiting: deque[Entry] = field(default_factory=deque)
    run_id: str | None = None
    reopen: bool = False  # whether MLflow may have it already


class Waiting:
    """The open runs of a sweep and what waits to be sent.

    Attributes:
        runs: by key, in the order in which they are sent.
        tags: of runs that are only in MLflow: run id and tags.
        new: keys of runs that MLflow has to create or reopen.
        complete: keys of runs that have ended or were interrupted.
        backlog: keys of runs that have ended and are not completely in MLflow.
        lock: of `runs`, their entries, `tags` and `idle`.
        wake: set when the thread should look at once.
        idle: set while everything is sent.
    """

    def __init__(self) -> None:
        self.runs: dict[str, OpenRun] = {}
        self.tags: deque[tuple[str, Mapping[str, str]]] = deque()
        self.new: deque[str] = deque()
        self.complete: deque[str] = deque()
        self.backlog: set[str] = set()
        self.lock = threading.Lock()
        self.wake = threading.Event()
        self.idle = threading.Event()

    def add_run(self, run: OpenRun, entries: list[Entry]) -> None:
        """Add a run whose first entry began it."""
        run.started = entries[0].at
        run.waiting.extend(entries[1:])
        with self.lock:
            self.runs[run.key] = run
            self.new.append(run.key)
            self._note_last(run.key, entries[-1].kind)
            self.idle.clear()
        self.wake.set()

    def add_entries(self, run: OpenRun, entries: list[Entry]) -> None:
        """Add entries of one kind to a run."""
        kind = entries[-1].kind if entries else ""
        with self.lock:
            run.waiting.extend(entries)
            self._note_last(run.key, kind)
            self.idle.clear()
        if kind in _LAST:
            self.wake.set()

    def add_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Add tags of a run that is only in MLflow."""
        with self.lock:
            self.tags.append((run_id, tags))
            self.idle.clear()
        self.wake.set()

    def remove(self, run: OpenRun) -> None:
        """Forget a run that is sent."""
        with self.lock:
            del self.runs[run.key]
            self.backlog.discard(run.key)

    def put_last(self, run: OpenRun) -> None:
        """Send the other runs before this one, next time."""
        with self.lock:
            if run.key in self.runs:
                self.runs[run.key] = self.runs.pop(run.key)

    def note_idle(self) -> None:
        """Set `idle` if nothing waits."""
        with self.lock:
            if not self.tags and not any(run.waiting for run in self.runs.values()):
                self.idle.set()

    def count(self) -> int:
        """How many runs have entries that wait."""
        with self.lock:
            return sum(bool(run.waiting) for run in self.runs.values())

    def _note_last(self, key: str, kind: str) -> None:
        """Note the kind of a run's last entry."""
        if kind in _LAST:
            self.complete.append(key)
        if kind == journal.END:
            self.backlog.add(key)
