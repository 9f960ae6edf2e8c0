"""Documents written to files of every kind by other libraries, for tests of the code that reads them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

ENDINGS = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv")  # of files with columns
COMPRESSIONS = ("", ".gz", ".zst", ".xz")


def write(path: Path, texts: Sequence[str | None], column: str = "text") -> Path:
    """Write documents to a file by its ending, beside a column of numbers; returns the path."""
    ending, compression = path.suffix, ""
    if ending in COMPRESSIONS:
        ending, compression = path.with_suffix("").suffix, ending
    path.write_bytes(compress(table(ending, {"id": list(range(len(texts))), column: list(texts)}), compression))
    return path


def compress(raw: bytes, ending: str) -> bytes:
    """The bytes, compressed as the ending says."""
    if ending == ".zst":
        return bytes(pa.compress(raw, "zstd", asbytes=True)) if raw else b""
    if ending == ".gz":
        return gzip.compress(raw)
    return lzma.compress(raw) if ending == ".xz" else raw


def table(ending: str, columns: Mapping[str, Sequence[Any]]) -> bytes:
    """The content of a file with these columns."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if ending == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if ending == ".json":
        return json.dumps(rows, indent=1).encode()
    if ending in (".csv", ".tsv"):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(columns), delimiter="," if ending == ".csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    stream, arrow = io.BytesIO(), pa.table(dict(columns))
    if ending == ".parquet":
        pyarrow.parquet.write_table(arrow, stream, row_group_size=3)
    else:
        with pa.ipc.new_stream(stream, arrow.schema) as writer:
            writer.write_table(arrow, max_chunksize=3)
    return stream.getvalue()
