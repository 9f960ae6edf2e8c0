"""Parquet, Arrow and CSV files, read in batches of rows by pyarrow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from harness.data.errors import CorpusError
from harness.data.sources.columns import no_column
from harness.data.sources.source import Document, Source
from harness.data.sources.streams import is_compressed, reading, reading_anywhere, unreadable

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS: Final = 256  # that are decoded at a time
_BUFFER: Final = 1 << 20  # bytes of a Parquet column that are read at a time
# Bytes of a CSV file that are parsed at a time, so the longest row. pyarrow reads up to 32 such blocks ahead.
_BLOCK: Final = 1 << 22
_ARROW_FILE: Final = b"ARROW1"  # begins an Arrow file; a stream begins otherwise


def read_parquet(source: Source) -> Iterator[Document]:
    """The text of every row.

    Raises:
        CorpusError: the file is damaged, or the column is missing or no text.
    """
    import pyarrow.parquet as pq

    with reading_anywhere(source) as stream, _explained(source):
        file = pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False)
        _check_column(file.schema_arrow, source)
        yield from _texts(file.iter_batches(batch_size=_ROWS, columns=[source.column], use_threads=False), source)


def read_arrow(source: Source) -> Iterator[Document]:
    """The text of every row of an Arrow stream or file; errors as in `read_parquet`."""
    import pyarrow as pa

    with reading_anywhere(source) as stream, _explained(source):
        is_file = stream.read(len(_ARROW_FILE)) == _ARROW_FILE
        stream.seek(0)
        # Mapped, as writers may put a whole table into one batch.
        content = stream if is_compressed(source) else pa.memory_map(str(source.path))
        batches = pa.ipc.open_file(content) if is_file else pa.ipc.open_stream(content)
        _check_column(batches.schema, source)
        numbers = range(batches.num_record_batches) if is_file else ()
        yield from _texts(map(batches.get_batch, numbers) if is_file else batches, source)


def read_csv(source: Source) -> Iterator[Document]:
    """The text of every row of comma-separated values, whose first row names the columns.

    Errors as in `read_parquet`.
    """
    yield from _separated(source, ",")


def read_tsv(source: Source) -> Iterator[Document]:
    """As `read_csv`, with tabs."""
    yield from _separated(source, "\t")


def _separated(source: Source, delimiter: str) -> Iterator[Document]:
    import pyarrow as pa
    from pyarrow import csv

    read = csv.ReadOptions(block_size=_BLOCK, use_threads=False)
    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)

    def opened(stream: BinaryIO, **options: Any) -> Any:
        return csv.open_csv(stream, read, parse, csv.ConvertOptions(**options))

    with reading(source) as stream, _explained(source), opened(stream) as guessed:
        _check_column(guessed.schema, source)  # pyarrow guesses the types from the first rows
    with reading(source) as stream, _explained(source):
        column = source.column
        with opened(stream, include_columns=[column], column_types={column: pa.large_string()}) as batches:
            yield from _texts(batches, source)


def _check_column(schema: pa.Schema, source: Source) -> None:
    import pyarrow as pa

    if schema.names.count(source.column) != 1:
        if source.column in schema.names:
            raise CorpusError(
                "data.field",
                f"found {schema.names.count(source.column)} columns {source.column!r} in {source.name!r}; "
                "allowed: columns with different names",
            )
        raise no_column(source, schema.names)
    kind = schema.field(source.column).type
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(is_text(values) for is_text in texts):
        raise CorpusError(
            "data.field",
            f"found {source.column!r} of {source.name!r}, a column of type {kind}; allowed: a column of text",
        )


def _texts(batches: Iterable[pa.RecordBatch], source: Source) -> Iterator[Document]:
    for batch in batches:
        column = batch.column(source.column)
        for start in range(0, len(column), _ROWS):
            part = column.slice(start, _ROWS)
            part.validate(full=True)  # a damaged file may point outside of it
            yield from part.to_pylist()


@contextlib.contextmanager
def _explained(source: Source) -> Iterator[None]:
    """Turns what pyarrow raises for a damaged file into a CorpusError."""
    import pyarrow as pa

    try:
        yield
    except CorpusError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        if "straddling" in str(error):
            error = ValueError(f"a row has more than {_BLOCK >> 20} MiB, or a quotation mark is not closed")
        raise unreadable(source, error) from None
