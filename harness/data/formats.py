"""Tells tables and JSON from plain text."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from itertools import chain
from typing import Final

_HEAD: Final = 1 << 16  # characters that are looked at
_ROWS: Final = 20  # lines that must look alike
_FEWEST_ROWS: Final = 5
ENDINGS: Final = {"CSV": ".csv", "TSV": ".tsv", "JSON": ".json", "JSON Lines": ".jsonl"}
_OBJECT: Final = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:')
_JSON: Final = re.compile(r'\s*(?:\[\s*)?\{\s*"(?:[^"\\]|\\.)*"\s*:')


def structure_of(text: str) -> str | None:
    """`CSV`, `TSV`, `JSON` or `JSON Lines`, if the beginning of a text looks like it; else None."""
    head = text[:_HEAD]
    lines = [line for line in head.splitlines() if line.strip()]
    if len(head) < len(text) and len(lines) > 1:
        lines.pop()  # it may be cut
    if len(lines) > 1 and all(map(_OBJECT.match, lines[:_ROWS])):
        return "JSON Lines"
    if _JSON.match(head):
        return "JSON"
    if _is_table(lines[:_ROWS], "\t", 2):
        return "TSV"
    return "CSV" if _is_table(lines[:_ROWS], ",", 3) or _is_table(lines[:_ROWS], ";", 3) else None


def _is_table(lines: Sequence[str], delimiter: str, columns: int) -> bool:
    """Whether all lines have the same number of fields, at least `columns`. Commas of prose are followed by a space."""
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
    except csv.Error:
        return False
    if len(rows) < _FEWEST_ROWS or len(rows[0]) < columns or any(len(row) != len(rows[0]) for row in rows):
        return False
    later = list(chain.from_iterable(row[1:] for row in rows))
    return all(row[0] for row in rows) and sum(field.startswith(" ") for field in later) <= len(later) / 2
