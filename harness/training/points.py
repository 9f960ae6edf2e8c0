"""The points of a run on disk, beside its states: files that only grow.

Saving a state appends the points that are new, so it takes no longer late in a run. A state names its file, and the
length and SHA-256 of the part that holds its points. What follows that part belongs to a later state, or to a save that
was killed, and is ignored.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from harness.core.files import write_after
from harness.core.metrics import Point

_NAME: Final = re.compile(r"points-\d{6,}\.jsonl")


class PointsFile:
    """One file of points, a JSON object per line.

    Args:
        path: of a new file; it is created by the first `extend`, and an old one of that name is replaced.

    Attributes:
        count: points that it holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._length = 0  # bytes
        self._sha256 = hashlib.sha256()

    @staticmethod
    def name(number: int) -> str:
        """The name of the file that begins with this state."""
        return f"points-{number:06d}.jsonl"

    @staticmethod
    def all_in(folder: Path) -> list[Path]:
        """Every such file in a folder."""
        return [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]

    @staticmethod
    def name_in(described: object) -> str:
        """The file's name in what `described` gave; empty if there is none."""
        return str(described.get("file", "")) if isinstance(described, dict) else ""

    def extend(self, points: Sequence[Point]) -> None:
        """Append the points that are not in the file yet, and flush them to disk.

        Raises:
            OSError: they cannot be written; the earlier ones are intact.
        """
        lines = [{**vars(point), "metrics": dict(point.metrics)} for point in points[self.count :]]
        added = b"".join(json.dumps(line, allow_nan=False).encode() + b"\n" for line in lines)
        write_after(self.path, self._length, added)
        self.count, self._length = len(points), self._length + len(added)
        self._sha256.update(added)

    def described(self) -> dict[str, Any]:
        """What `open` needs to find these points again."""
        return {
            "file": self.path.name,
            "count": self.count,
            "bytes": self._length,
            "sha256": self._sha256.hexdigest(),
        }

    @classmethod
    def open(cls, folder: Path, described: Mapping[str, Any]) -> tuple[PointsFile, tuple[Point, ...]] | None:
        """The file and its points, as a state described them; None if it is damaged.

        Raises:
            OSError: it cannot be read.
            LookupError, TypeError: `described` is no such description.
        """
        if not _NAME.fullmatch(described["file"]):
            raise LookupError("file")
        found = cls(folder / described["file"])
        with found.path.open("rb") as stream:
            content = stream.read(described["bytes"])
        found._sha256.update(content)
        found.count, found._length = described["count"], len(content)
        if found.described() != described:
            return None
        return found, tuple(Point.from_plain(json.loads(line)) for line in content.splitlines())
