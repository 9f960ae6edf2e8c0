"""A run's record on disk: what was measured, before any server knows of it.

One file, one line an entry, each with a checksum. An entry that a killed process wrote only in part is as if it had
never been: whoever goes on with the file cuts it there, and what was lost is measured again.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FILE: Final = "journal.jsonl"

# Kinds of entries. A run has one BEGIN, which comes first; after an END nothing follows.
BEGIN: Final = "begin"  # what the run is
POINT: Final = "point"  # of its curves
TAG: Final = "tag"
PAUSE: Final = "pause"  # it was interrupted; points may follow
END: Final = "end"  # its outcome


@dataclass(frozen=True)
class Entry:
    """Something that happened to a run.

    Attributes:
        kind: BEGIN, POINT, TAG, PAUSE or END.
        at: milliseconds since 1970.
        content: plain values.
    """

    kind: str
    at: int
    content: Mapping[str, Any]


class Journal:
    """The record of one run.

    Args:
        folder: the run's own; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def append(self, kind: str, content: Mapping[str, Any]) -> Entry:
        """Add an entry, of now.

        Raises:
            OSError: it cannot be written; what was there before is intact.
        """
        entry = Entry(kind, time.time_ns() // 1_000_000, dict(content))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            length = os.fstat(descriptor).st_size
            view = memoryview(_line(entry))
            try:
                while view:
                    view = view[os.write(descriptor, view) :]
            except OSError as error:
                os.truncate(descriptor, length)
                raise OSError(error.errno, error.strerror, str(self.path)) from error
        finally:
            os.close(descriptor)
        return entry

    def read(self, mend: bool = False) -> list[Entry]:
        """All entries before the first damaged line, oldest first; none where there is no file.

        Args:
            mend: cut off what is damaged, so that entries can be added; for the one who writes.
        """
        try:
            raw = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return []
        entries: list[Entry] = []
        whole = 0
        for line in raw.splitlines(keepends=True):
            entry = _entry(line)
            if entry is None or (entry.kind == BEGIN) is not (not entries):
                break
            entries.append(entry)
            whole += len(line)
        if mend and whole < len(raw):
            os.truncate(self.path, whole)
        return entries


def points_of(entries: Iterable[Entry]) -> list[Entry]:
    """Those with a point, each step once: the first one."""
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
        kind, at, content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return Entry(kind, at, content)
