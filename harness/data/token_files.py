"""Token ids that another program has written, such as nanoGPT's `train.bin`: two bytes each, without any header."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from harness.data.documents import Documents, Scan, TextFile
from harness.data.errors import CorpusError
from harness.data.sources.source import Source
from harness.data.sources.streams import reading
from harness.data.tokenizer import Ids

_TYPE: Final = np.dtype("<u2")
_CHUNK: Final = 1 << 21  # bytes
_HEADERS: Final = (20240520, 20240801)  # begin the token files of llm.c and of programs after it


def read_ids(sources: Iterable[Source]) -> Iterator[tuple[Source, Ids]]:
    """Yield the ids of files in pieces.

    Raises:
        CorpusError: a file cannot be read, has half an id or another format.
    """
    for source in sources:
        with reading(source) as stream:
            first = True
            while raw := stream.read(_CHUNK):
                if len(raw) % _TYPE.itemsize:
                    raise CorpusError(
                        source.field,
                        f"found an odd number of bytes in {source.name!r}; allowed: token ids of two bytes each, or "
                        "data.format: text",
                    )
                if first and int.from_bytes(raw[:4], "little") in _HEADERS:
                    raise CorpusError(
                        source.field,
                        f"found {source.name!r} with the header of llm.c; allowed: token ids alone, without its 1,024 "
                        "bytes",
                    )
                first = False
                yield source, np.frombuffer(raw, _TYPE)


def scan_ids(sources: Sequence[Source]) -> Scan:
    """What one pass over files of ids finds: bytes and characters of the text are those of the ids themselves.

    Raises:
        CorpusError: as `read_ids`.
    """
    digest = hashlib.sha256()
    own = {source: hashlib.blake2b(digest_size=8) for source in sources}
    counts = dict.fromkeys(sources, 0)
    for source, ids in read_ids(sources):
        digest.update(ids.tobytes())
        own[source].update(ids.tobytes())
        counts[source] += len(ids)
    sizes = [_TYPE.itemsize * count for count in counts.values()]
    hashes = [int.from_bytes(found.digest(), "little") if counts[source] else 0 for source, found in own.items()]
    columns = (array("Q", numbers) for numbers in (sizes, hashes, range(len(sources))))
    return Scan(
        files=tuple(TextFile(source, size, 1) for source, size in zip(sources, sizes, strict=True)),
        sha256=digest.hexdigest(),
        size=sum(sizes),
        characters=sum(counts.values()),
        blank=not any(sizes),
        documents=Documents(*(np.frombuffer(numbers, np.uint64) for numbers in columns)),
        left_out={},
    )
