"""How a file is read, by its ending.

To add a kind of file: a function that yields its documents, and a line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from harness.data.sources.json import read_json, read_json_lines
from harness.data.sources.source import Document, Source
from harness.data.sources.streams import split_compression
from harness.data.sources.tables import read_arrow, read_csv, read_parquet, read_tsv
from harness.data.sources.text import read_text


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: for people.
        read: yields the documents of a file.
        columns: whether a document is one of several columns or keys, which `data.field` names.
    """

    name: str
    read: Callable[[Source], Iterator[Document]]
    columns: bool = True


TEXT: Final = Kind("plain text", read_text, columns=False)
# Not read as documents: `harness.data.token_files` takes them.
TOKENS: Final = Kind("token ids", lambda source: iter(()), columns=False)
_JSON_LINES: Final = Kind("JSON Lines", read_json_lines)

KINDS: Final[Mapping[str, Kind]] = {
    ".txt": TEXT,
    ".md": TEXT,
    ".jsonl": _JSON_LINES,
    ".ndjson": _JSON_LINES,
    ".json": Kind("JSON", read_json),
    ".parquet": Kind("Parquet", read_parquet),
    ".arrow": Kind("Arrow", read_arrow),
    ".csv": Kind("CSV", read_csv),
    ".tsv": Kind("TSV", read_tsv),
    ".bin": TOKENS,
}


def ending_of(name: str) -> str:
    """The ending of a path or URL that says how it is read, such as `.jsonl` for `a.jsonl.gz`; empty if none does."""
    ending = PurePath(split_compression(name)[0]).suffix.lower()
    return ending if ending in KINDS else ""


def kind_of(source: Source) -> Kind:
    """How a file is read; as plain text if its ending says nothing else."""
    return TEXT if source.plain else KINDS.get(ending_of(source.name), TEXT)
