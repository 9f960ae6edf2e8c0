"""JSON: one value a line, or an array of them; each value is a text or an object that has it under `data.field`.

Values are parsed one by one, so a file of any size needs memory for one of them.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from harness.data.errors import CorpusError
from harness.data.sources.columns import LONGEST, Records, too_long
from harness.data.sources.source import Document, Source
from harness.data.sources.streams import reading

_PIECE: Final = 1 << 16  # bytes that are read at least
_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\n\r]*")


def read_json_lines(source: Source) -> Iterator[Document]:
    """The text of every line.

    Raises:
        CorpusError: a line is no JSON or too long, or has no text.
    """
    records = Records(source, "line")
    with reading(source) as stream:
        number = 0
        while line := stream.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise too_long(source, f"line {number:,}")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.isspace() or not line:
                continue
            try:
                value = json.loads(line.decode())
            except UnicodeDecodeError as error:
                raise _not_utf8(source, f"line {number:,}", error) from None
            except (ValueError, RecursionError) as error:
                raise _no_json(source, f"line {number:,}", error) from None
            yield records.text(value, number)
    records.end()


def read_json(source: Source) -> Iterator[Document]:
    """The text of every element of an array, or of every object of a file that has one after the other.

    Raises:
        CorpusError: the file is no JSON, a value is too long, or has no text.
    """
    records = Records(source, "value")
    with reading(source) as stream:
        for number, value in enumerate(_Values(stream, source), 1):
            yield records.text(value, number)
    records.end()


class _Values:
    """The elements of an array, or the values of a file without one, parsed as they are read."""

    def __init__(self, stream: BinaryIO, source: Source) -> None:
        self._stream = stream
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._place = 0  # of the next character
        self._read = 0  # bytes
        self._ended = False

    def __iter__(self) -> Iterator[Any]:
        in_array = self._next() == "["
        if in_array:
            self._place += 1
            if self._next() == "]":
                self._place += 1
                self._finish()
                return
        while self._next():
            yield self._value()
            if not in_array:
                continue
            mark = self._next()
            self._place += 1
            if mark == "]":
                self._finish()
                return
            if mark != ",":
                raise self._wrong("it ends too early" if not mark else "there is no comma between two values")
        if in_array:
            raise self._wrong("it ends too early")

    def _value(self) -> Any:
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._place)
                if end < len(self._text) or self._ended:  # a number may go on
                    self._place = end
                    return value
            except json.JSONDecodeError as error:
                if self._ended:
                    raise _no_json(self._source, f"character {self._read:,}", error) from None
            except (ValueError, RecursionError) as error:
                raise _no_json(self._source, f"a value before byte {self._read:,}", error) from None
            self._more()

    def _next(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._place)
            assert found is not None
            self._place = found.end()
            if self._place < len(self._text) or self._ended:
                return self._text[self._place : self._place + 1]
            self._more()

    def _more(self) -> None:
        """Read as much again as is waiting, so that a long value is tried few times."""
        waiting = len(self._text) - self._place
        if waiting > LONGEST:
            raise too_long(self._source, "one value")
        raw = self._stream.read(max(_PIECE, waiting))
        self._ended = not raw
        try:
            text = self._decoder.decode(raw, final=self._ended)
        except UnicodeDecodeError as error:
            raise _not_utf8(self._source, f"the {len(raw):,} bytes from {self._read:,} on", error) from None
        self._read += len(raw)
        self._text, self._place = self._text[self._place :] + text, 0

    def _finish(self) -> None:
        if self._next():
            raise self._wrong("something follows the array")

    def _wrong(self, why: str) -> CorpusError:
        return _no_json(self._source, f"the first {self._read:,} bytes", ValueError(why))


def _no_json(source: Source, place: str, error: Exception) -> CorpusError:
    why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).partition(": line")[0]
    return CorpusError(
        source.field, f"found {place} of {source.name!r}, which is no JSON ({why}); allowed: texts or objects"
    )


def _not_utf8(source: Source, place: str, error: UnicodeDecodeError) -> CorpusError:
    return CorpusError(
        source.field, f"found 0x{error.object[error.start]:02x} in {place} of {source.name!r}; allowed: UTF-8 text"
    )
