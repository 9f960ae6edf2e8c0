"""The bytes of a file, decompressed by its ending; whatever is wrong with them is one sentence."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, cast
from urllib.parse import urlsplit

from harness.core.links import open_regular
from harness.data.errors import CorpusError
from harness.data.sources.source import Source

_PIECE: Final = 1 << 20  # bytes
_DAMAGED: Final = (OSError, EOFError, zlib.error, lzma.LZMAError)


def _zstandard(stream: BinaryIO) -> BinaryIO:
    import pyarrow

    # Unlike the package zstandard it raises an error where the data end too early.
    return cast(BinaryIO, pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, "r"), "zstd"))


# Ending → what decompresses a stream.
COMPRESSIONS: Final[dict[str, Callable[[BinaryIO], BinaryIO]]] = {
    ".gz": lambda stream: cast(BinaryIO, gzip.GzipFile(fileobj=stream)),
    ".xz": lambda stream: cast(BinaryIO, lzma.LZMAFile(stream)),  # noqa: SIM115
    ".zst": _zstandard,
}


def split_compression(name: str) -> tuple[str, str]:
    """The path of a file or a URL without the ending of its compression, and that ending; empty if it has none."""
    path = urlsplit(name).path if name.startswith(("http://", "https://")) else name
    ending = next((ending for ending in COMPRESSIONS if path.lower().endswith(ending)), "")
    return path[: len(path) - len(ending)], ending


def is_compressed(source: Source) -> bool:
    """Whether a file is decompressed when it is read."""
    return bool(split_compression(source.name)[1])


@contextlib.contextmanager
def reading(source: Source) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file.

    Raises:
        CorpusError: they cannot be read, end too early, or the file grows meanwhile.
    """
    try:
        with open_regular(source.path) as file:
            stream = cast(BinaryIO, io.BufferedReader(_Unchanged(file, source)))
            if compression := split_compression(source.name)[1]:
                stream = cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, COMPRESSIONS[compression](stream))))
            yield stream
    except _DAMAGED as error:
        raise unreadable(source, error) from None


@contextlib.contextmanager
def reading_anywhere(source: Source) -> Iterator[BinaryIO]:
    """As `reading`, for readers that jump inside a file. A compressed one is decompressed into a temporary file."""
    if not is_compressed(source):
        try:
            with open_regular(source.path) as file:
                yield file
        except _DAMAGED as error:
            raise unreadable(source, error) from None
        return
    with tempfile.TemporaryFile() as whole:
        with reading(source) as stream:
            while piece := stream.read(_PIECE):
                try:
                    whole.write(piece)
                except OSError as error:
                    raise CorpusError(
                        source.field,
                        f"found {source.name!r}, for whose content {tempfile.gettempdir()!r} has no room "
                        f"({error.strerror}); allowed: a decompressed file, or TMPDIR with a larger disk",
                    ) from None
        whole.seek(0)
        yield cast(BinaryIO, whole)


def unreadable(source: Source, error: Exception) -> CorpusError:
    """The error for a file whose bytes cannot be read."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EILSEQ):
        why = error.strerror or type(error).__name__
    else:
        why = " ".join(str(error).split()) or type(error).__name__
    return CorpusError(
        source.field, f"found {source.name!r}, which cannot be read ({why}); allowed: readable text files"
    )


class _Unchanged(io.RawIOBase):
    """A file up to the size that it had when it was opened; more is an error: some files of the system never end."""

    def __init__(self, file: BinaryIO, source: Source) -> None:
        self._file = file
        self._source = source
        self._size = self._left = os.fstat(file.fileno()).st_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._file.read(len(buffer))
        self._left -= len(piece)
        if self._left < 0:
            raise CorpusError(
                self._source.field,
                f"found more than the {self._size:,} bytes of {self._source.name!r} while it was read; "
                "allowed: files that do not change",
            )
        buffer[: len(piece)] = piece
        return len(piece)
