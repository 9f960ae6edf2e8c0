"""Checkpoints of runs whose node has another disk than the parent.

The parent asks for the files in pieces, as fast as it can write them. A checkpoint is complete only when the checksums
of all its files are those that the worker has reported.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from harness.core.files import sha256_of
from harness.core.links import refuse_irregular, regular_files
from harness.core.paths import DESCRIPTION, TOKEN_LOSSES, WEIGHTS

if TYPE_CHECKING:
    from hashlib import _Hash

PIECE_BYTES: Final = 1 << 23
FILES: Final = (WEIGHTS, TOKEN_LOSSES, DESCRIPTION)


def checksums(folder: Path) -> dict[str, str]:
    """File name → SHA-256, of the files of a checkpoint.

    Raises:
        OSError: a file cannot be read.
    """
    return {file.name: sha256_of(file) for file in regular_files(folder)}


def read_piece(folder: Path, name: str, start: int) -> bytes:
    """`PIECE_BYTES` of a file from `start` on, fewer at its end.

    Raises:
        OSError, ValueError: it cannot be read, or is not a file of a checkpoint.
    """
    refuse_irregular(folder, name)
    with (folder / name).open("rb") as stream:
        stream.seek(start)
        return stream.read(PIECE_BYTES)


class IncompleteError(ValueError):
    """The files received are not those that the worker wrote; the message says which differ."""


class Download:
    """Collects the files of one checkpoint under temporary names.

    Args:
        folder: of the checkpoint; created if it is missing.
        files: file name → SHA-256.

    Raises:
        IncompleteError: there is no such checkpoint.
        OSError: the folder cannot be written.

    Attributes:
        next: name of the file and position in it, of the piece that comes next; None when there are no more.
    """

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        if DESCRIPTION not in files or not set(files) <= set(FILES):
            raise IncompleteError(f"found the files {', '.join(sorted(files))}; allowed: {', '.join(FILES)}")
        self._folder, self._expected = folder, dict(files)
        self._left = sorted(files)
        self._digest: _Hash = hashlib.sha256()
        self._stream: IO[bytes] | None = None
        self.next: tuple[str, int] | None = (self._left[0], 0)
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, piece: bytes) -> None:
        """Append the piece that was asked for; the last one gives all files their names, the description last.

        Raises:
            IncompleteError: a file differs from what the worker has written.
            OSError: it cannot be written.
        """
        assert self.next is not None
        name, start = self.next
        if self._stream is None:
            self._part(name).unlink(missing_ok=True)
            self._stream = self._part(name).open("xb")
        self._stream.write(piece)
        self._digest.update(piece)
        self.next = (name, start + len(piece))
        if len(piece) < PIECE_BYTES:
            self._end_file(name)

    def discard(self) -> None:
        """Remove what has arrived, unless all has."""
        if self._stream is not None:
            self._stream.close()
        for name in self._expected:
            with contextlib.suppress(OSError):
                self._part(name).unlink(missing_ok=True)

    def _end_file(self, name: str) -> None:
        assert self._stream is not None
        self._stream.close()
        self._stream = None
        if self._digest.hexdigest() != self._expected[name]:
            raise IncompleteError(f"{name} differs from what the worker has written")
        self._digest = hashlib.sha256()
        self._left.remove(name)
        self.next = (self._left[0], 0) if self._left else None
        if self.next is None:
            for file in sorted(self._expected, key=DESCRIPTION.__eq__):
                self._part(file).replace(self._folder / file)

    def _part(self, name: str) -> Path:
        return self._folder / f"{name}.part"
