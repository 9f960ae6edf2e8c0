"""UTF-8 files, read in pieces: a text of any size needs memory for one piece."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Final

from harness.data.errors import CorpusError
from harness.data.sources.source import Document, Source
from harness.data.sources.streams import reading

PIECE: Final = 1 << 20  # bytes


def read_text(source: Source) -> Iterator[Document]:
    """One document: the file, in pieces of at most `PIECE` bytes, without its byte order mark.

    Newlines are kept as they are.

    Raises:
        CorpusError: the file cannot be read, has a NUL, is not UTF-8 or grows meanwhile.
    """
    yield text_pieces(source)


def text_pieces(source: Source) -> Iterator[str]:
    """The document of `read_text`."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, started, ended = 0, False, False
    with reading(source) as stream:
        while not ended:
            raw = stream.read(PIECE)
            ended = not raw
            if (nul := raw.find(b"\0")) >= 0:
                raise CorpusError(
                    source.field,
                    f"found a NUL at byte offset {offset + nul:,} of {source.name!r}; "
                    "allowed: UTF-8 text, not binary files",
                )
            kept = len(decoder.getstate()[0])  # bytes of a character that the last piece has cut
            try:
                text = decoder.decode(raw, final=ended)
            except UnicodeDecodeError as error:
                place, byte = offset - kept + error.start, error.object[error.start]
                raise CorpusError(
                    source.field,
                    f"found 0x{byte:02x} at byte offset {place:,} of {source.name!r}; allowed: UTF-8 text",
                ) from None
            offset += len(raw)
            if text:
                yield text if started else text.removeprefix("\ufeff")
                started = True
