"""The text of one record: the value under `data.field`, or a sentence that lists what is there instead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from harness.core.text import shown
from harness.data.errors import CorpusError
from harness.data.sources.source import Source

LONGEST: Final = 1 << 28  # bytes of one record: it is held in memory
_SEARCHED: Final = 1000  # records in which the column must occur once
_COLUMNS_SHOWN: Final = 20
_TYPES: Final = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}


class Records:
    """Takes the text out of the records of one file.

    Args:
        source: the file.
        unit: what messages call a record, such as `line`.
    """

    def __init__(self, source: Source, unit: str) -> None:
        self._source = source
        self._unit = unit
        self._missing = 0
        self._found = False
        self._columns: dict[str, None] = {}

    def text(self, value: Any, number: int) -> str | None:
        """The text of a record; None if it has none.

        Args:
            value: the record: an object with the column, or a text.
            number: of the record, from 1 on.

        Raises:
            CorpusError: the value is no text, or the column does not occur.
        """
        column = self._source.column
        if isinstance(value, dict):
            if column not in value:
                self._missing += 1
                self._columns.update(dict.fromkeys(map(str, value)))
                if not self._found and self._missing >= _SEARCHED:
                    self.end()
                return None
            self._found, value = True, value[column]
            where = f"under {shown(column)} in "
        else:
            where = "as "
        if value is None:
            return None
        place = f"{where}{self._unit} {number:,} of {self._source.name!r}"
        if not isinstance(value, str):
            raise CorpusError(
                self._source.field if where == "as " else "data.field",
                f"found {_TYPES.get(type(value), type(value).__name__)} {place}; allowed: text or null"
                + (", or an object that has it" if where == "as " else ""),
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON's \ud800
            raise CorpusError(
                self._source.field,
                f"found half of a surrogate pair, U+{ord(value[error.start]):04X}, {place}; allowed: Unicode text",
            ) from None
        return value

    def end(self) -> None:
        """Raise CorpusError if there were records, and none had the column."""
        if self._missing and not self._found:
            raise no_column(self._source, self._columns)


def no_column(source: Source, columns: Iterable[str]) -> CorpusError:
    """The error for a file that lacks the column that `data.field` names."""
    names = list(columns)
    listed = ", ".join(map(shown, names[:_COLUMNS_SHOWN])) + (", …" if len(names) > _COLUMNS_SHOWN else "")
    return CorpusError(
        "data.field",
        f"found no {shown(source.column)} in {source.name!r}; allowed: {f'one of {listed}' if names else 'a column'}"
        f"{'' if names else ' of the file, which has none'}",
    )


def too_long(source: Source, place: str) -> CorpusError:
    """The error for a record that is not read, as it would fill the memory."""
    return CorpusError(
        source.field,
        f"found more than {LONGEST >> 20} MiB in {place} of {source.name!r}; allowed: shorter documents",
    )
