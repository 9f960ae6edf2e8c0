"""Runs on disk that are not finished: interrupted, or ended and not yet completely in MLflow."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.core.bounded_json import MAX_WHOLE
from harness.core.links import irregular_in
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.core.text import is_key, printable
from harness.tracking import schema
from harness.tracking.outbox import journal
from harness.tracking.outbox.journal import Entry, Journal
from harness.tracking.readable import Tell
from harness.tracking.records import TrialInfo
from harness.tracking.store import TrackingError
from harness.tracking.stored_json import is_data

_NAME: Final = re.compile(r"[\w./ -]{1,240}", re.ASCII)  # of metrics and tags, as MLflow stores them


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


def unfinished_runs(folder: Path, tell: Tell = lambda _: None) -> list[UnfinishedRun]:
    """The runs whose folders are in `folder`, oldest first.

    A folder without a journal is skipped. `tell` gets a sentence about each journal that cannot be read; it is left
    out.

    Raises:
        TrackingError: something below the folder, or the folder itself, is a link or no regular file. The harness makes
            none, and would read, write and store what it leads to.
    """
    wrong = [(folder, "a link")] if folder.is_symlink() else irregular_in(folder)
    for path, kind in wrong:
        raise TrackingError(printable(f"{path}: found {kind}; allowed: what a sweep wrote; remove it"))
    found = []
    for one in sorted(folder.iterdir()) if folder.is_dir() else []:
        own = Journal(one)
        entries = own.read()
        run = _parse(one.name, entries) if entries else None
        if run is not None:
            found.append((entries[0].at, run))
        elif own.path.is_file():
            what = "holds no run that this version of the harness can read; remove its folder if you do not need it"
            tell(printable(f"{own.path} {what}"))
    return [run for _, run in sorted(found, key=lambda pair: pair[0])]


def points_of(entries: Sequence[Entry]) -> tuple[Point, ...]:
    """The points of a journal, each step once."""
    return tuple(Point.from_plain(entry.content) for entry in journal.point_entries(entries))


def _parse(key: str, entries: Sequence[Entry]) -> UnfinishedRun | None:
    try:
        info = schema.parse_trial(entries[0].content)
        info.config.digest()  # fails without the size of the vocabulary
        points = points_of(entries)
        last = entries[-1]
        outcome, reason = None, ""
        if last.kind == journal.END:
            outcome, reason = Outcome(last.content["outcome"]), last.content["reason"]
    except (ValueError, TypeError, LookupError, AttributeError):  # written by another version of the harness
        return None
    intact = is_key(key) and _is_trial(info) and all(_is_content(entry.kind, entry.content) for entry in entries)
    return UnfinishedRun(key, info, points, outcome, reason) if intact else None


def _is_trial(info: TrialInfo) -> bool:
    """Whether the fields that `RunConfig` does not check have their types."""
    texts = (info.name, info.arm, info.point, info.study or "")
    numbers = (info.seed, info.number or 0)
    return (
        all(isinstance(one, str) for one in texts)
        and all(_is_count(one) for one in numbers)
        and (info.study is None) == (info.number is None)
        and (info.data is None or is_data(info.data))
    )


def _is_content(kind: str, content: Mapping[str, Any]) -> bool:
    """Whether an entry of this kind can have this content. That of BEGIN is left to `schema.parse_trial`."""
    if kind == journal.POINT:
        return _is_point(content)
    if kind == journal.TAG:
        return all(_NAME.fullmatch(name) and isinstance(text, str) for name, text in content.items())
    if kind in (journal.INTERRUPTED, journal.END):
        known = kind == journal.INTERRUPTED or content.get("outcome") in [str(outcome) for outcome in Outcome]
        return known and isinstance(content.get("reason"), str)
    return kind == journal.BEGIN


def _is_point(content: Mapping[str, Any]) -> bool:
    try:
        point = Point.from_plain(content)
        numbers = (point.progress, *point.metrics.values(), *point.by_position)
        return (
            _is_count(point.step)
            and _is_count(point.tokens)
            and all(isinstance(one, int | float) and math.isfinite(one) for one in numbers)
            and isinstance(point.seconds, int | float)
            and isinstance(point.sample, str | None)
            and isinstance(point.greedy, str | None)
            and all(_NAME.fullmatch(name) for name in (*point.metrics, *point.not_finite))
        )
    except (TypeError, AttributeError):
        return False


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= MAX_WHOLE
