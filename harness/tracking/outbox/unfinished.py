"""Runs on disk that are not finished: interrupted, or ended and not yet completely in MLflow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.core.links import irregular_in
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.tracking import schema
from harness.tracking.outbox import journal
from harness.tracking.outbox.journal import Entry, Journal
from harness.tracking.records import TrialInfo
from harness.tracking.store import TrackingError

_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class UnfinishedRun:
    """A run as its folder records it.

    Attributes:
        key: of the run, and the name of its folder.
        info: what is trained.
        points: of its curves, each step once.
        outcome: how it ended; None if it can be resumed.
        reason: of that outcome.
    """

    key: str
    info: TrialInfo
    points: tuple[Point, ...]
    outcome: Outcome | None
    reason: str


def is_key(text: object) -> bool:
    """Whether this can be the key of a run: the name of its folder, and part of a search in MLflow."""
    return isinstance(text, str) and _KEY.fullmatch(text) is not None


def unfinished_runs(folder: Path) -> list[UnfinishedRun]:
    """The runs whose folders are in `folder`, oldest first. Folders without a readable journal are skipped.

    Raises:
        TrackingError: something below the folder, or the folder itself, is a link or no regular file. The harness makes
            none, and would read, write and store what it leads to.
    """
    wrong = [(folder, "a link")] if folder.is_symlink() else irregular_in(folder)
    for path, kind in wrong:
        raise TrackingError(f"{path}: found {kind}; allowed: what a sweep wrote; remove it")
    found = []
    for one in sorted(folder.iterdir()) if folder.is_dir() else []:
        entries = Journal(one).read() if is_key(one.name) else []
        if entries and (run := _parse(one.name, entries)) is not None:
            found.append((entries[0].at, run))
    return [run for _, run in sorted(found, key=lambda pair: pair[0])]


def points_of(entries: Sequence[Entry]) -> tuple[Point, ...]:
    """The points of a journal, each step once."""
    return tuple(Point.from_plain(entry.content) for entry in journal.point_entries(entries))


def _parse(key: str, entries: Sequence[Entry]) -> UnfinishedRun | None:
    try:
        info = schema.parse_trial(entries[0].content)
        points = points_of(entries)
        last = entries[-1]
        if last.kind != journal.END:
            return UnfinishedRun(key, info, points, None, "")
        return UnfinishedRun(key, info, points, Outcome(last.content["outcome"]), last.content["reason"])
    except (ValueError, TypeError, LookupError):  # written by another version of the harness
        return None
