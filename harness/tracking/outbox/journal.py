"""A run's journal: the file that records a run on disk before anything is sent to MLflow.

One entry per line, each with a checksum. A line that a killed process left incomplete is cut off when the run is
resumed, and its point is measured again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.core.bounded_json import read_json
from harness.tracking.readable import MAX_TIME
from harness.tracking.schema import milliseconds

FILE: Final = "journal.jsonl"

# Kinds of entries. The first entry is the only BEGIN; nothing follows an END.
BEGIN: Final = "begin"  # what is trained
POINT: Final = "point"  # of the run's curves
TAG: Final = "tag"
INTERRUPTED: Final = "pause"  # points may follow
END: Final = "end"  # how the run ended


@dataclass(frozen=True)
class Entry:
    """One event of a run.

    Attributes:
        kind: BEGIN, POINT, TAG, INTERRUPTED or END.
        at: milliseconds since 1970.
        content: plain values.
    """

    kind: str
    at: int
    content: Mapping[str, Any]


class Journal:
    """The journal of one run.

    Args:
        folder: the run's own; created at the first entry.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def append(self, kind: str, content: Mapping[str, Any], at: int | None = None) -> Entry:
        """Append an entry.

        Args:
            kind, content: see `Entry`.
            at: when it happened, in milliseconds since 1970; None: now.

        Raises:
            OSError: it cannot be written; the earlier entries are intact.
        """
        return self.append_all(kind, [content], at)[0]

    def append_all(self, kind: str, contents: Iterable[Mapping[str, Any]], at: int | None = None) -> list[Entry]:
        """Append entries of one kind and time, all of them or none; see `append`."""
        when = milliseconds() if at is None else at
        entries = [Entry(kind, when, dict(content)) for content in contents]
        descriptor = self._open()
        try:
            view = memoryview(b"".join(map(_line, entries)))
            total = len(view)
            try:
                while view:
                    view = view[os.write(descriptor, view) :]
            except OSError as error:
                os.truncate(descriptor, os.fstat(descriptor).st_size - (total - len(view)))
                raise OSError(error.errno, error.strerror, str(self.path)) from error
        finally:
            os.close(descriptor)
        return entries

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        try:
            return os.open(self.path, flags, 0o666)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, flags, 0o666)

    def read(self, repair: bool = False) -> list[Entry]:
        """All entries before the first damaged line, oldest first; none if there is no file.

        Args:
            repair: truncate the file at the first damaged line, so that entries can be appended; for the writer only.
        """
        try:
            raw = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return []
        entries: list[Entry] = []
        intact = 0  # bytes
        for line in raw.splitlines(keepends=True):
            entry = _entry(line)
            if entry is None or (entry.kind == BEGIN) is not (not entries):
                break
            entries.append(entry)
            intact += len(line)
        if repair and intact < len(raw):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                os.truncate(descriptor, intact)
            finally:
                os.close(descriptor)
        return entries


def point_entries(entries: Iterable[Entry]) -> list[Entry]:
    """The POINT entries; of each step only the first."""
    found: dict[int, Entry] = {}
    for entry in entries:
        if entry.kind == POINT:
            found.setdefault(entry.content["step"], entry)
    return list(found.values())


def _line(entry: Entry) -> bytes:
    text = json.dumps([entry.kind, entry.at, entry.content]).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _entry(line: bytes) -> Entry | None:
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        kind, at, content = read_json(text, finite=False)
    except (ValueError, TypeError):
        return None
    intact = isinstance(at, int) and 0 <= at <= MAX_TIME and isinstance(content, dict)
    return Entry(kind, at, content) if intact else None
