"""UTF-8 files, read in pieces: a text of any size needs memory for one piece."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from harness.core.links import open_regular
from harness.data.errors import CorpusError, reason

PIECE: Final = 1 << 20  # bytes


def read_text(file: Path, shown: str, field: str) -> Iterator[str]:
    """Yield the text of a UTF-8 file in pieces of at most `PIECE` bytes, without its byte order mark.

    Args:
        file: to read; newlines are kept as they are.
        shown: its name in messages.
        field: the field of the spec that names it.

    Raises:
        CorpusError: the file cannot be read, has a NUL, is not UTF-8 or grows meanwhile.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, started, ended = 0, False, False
    try:
        with open_regular(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            while not ended:
                raw = stream.read(PIECE)
                ended = not raw
                if offset + len(raw) > size:  # some files of the system never end
                    raise CorpusError(
                        field,
                        f"found more than the {size:,} bytes of {shown!r} while it was read; "
                        "allowed: files that do not change",
                    )
                if (nul := raw.find(b"\0")) >= 0:
                    raise CorpusError(
                        field,
                        f"found a NUL at byte offset {offset + nul:,} of {shown!r}; "
                        "allowed: UTF-8 text, not binary files",
                    )
                kept = len(decoder.getstate()[0])  # bytes of a character that the last piece has cut
                try:
                    text = decoder.decode(raw, final=ended)
                except UnicodeDecodeError as error:
                    place, byte = offset - kept + error.start, error.object[error.start]
                    raise CorpusError(
                        field, f"found 0x{byte:02x} at byte offset {place:,} of {shown!r}; allowed: UTF-8 text"
                    ) from None
                offset += len(raw)
                if text:
                    yield text if started else text.removeprefix("\ufeff")
                    started = True
    except OSError as error:
        raise CorpusError(
            field, f"found {shown!r}, which cannot be read ({reason(error)}); allowed: readable text files"
        ) from None
