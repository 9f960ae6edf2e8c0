"""A file of a corpus, and what a reader makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COLUMN: Final = "text"  # where `data.field` names no other

# A whole text, a text in pieces, or None: a value that is missing. Pieces are read before the next document.
Document = str | Iterator[str] | None


@dataclass(frozen=True)
class Source:
    """A file of a corpus.

    Attributes:
        path: where it is read.
        name: what messages call it; its ending says how it is read.
        field: the field of the spec that names it, such as `data.path`.
        plain: whether it is read as plain text, whatever its ending.
        column: the column or key that has the text, in a file that has several.
    """

    path: Path
    name: str
    field: str
    plain: bool = False
    column: str = COLUMN
