"""The documents of a corpus, joined to one text, in one pass: the memory does not grow with the text."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.data.sources.kinds import kind_of
from harness.data.sources.source import Source

BLANK_LINE: Final = "\n\n"
# Stands for a special token between documents. No text has it: half of a surrogate pair is not UTF-8.
MARK: Final = "\udc00"
SEPARATORS: Final[Mapping[str, str]] = {"blank_line": BLANK_LINE, "endoftext": MARK, "none": ""}

Numbers = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class TextFile:
    """A file of a corpus.

    Attributes:
        source: the file.
        size: UTF-8 bytes of its text, with what is between its documents.
        documents: in it, without those that are left out.
    """

    source: Source
    size: int
    documents: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.source.name


@dataclass(frozen=True, eq=False)
class Documents:
    """What is known about each document of a corpus, in their order.

    Attributes:
        sizes: UTF-8 bytes of each.
        hashes: 8 bytes of a BLAKE2b hash of its text; 0 for a blank one, and in a corpus of one file of plain text.
        files: number of its file.
    """

    sizes: Numbers
    hashes: Numbers
    files: Numbers

    @cached_property
    def sha256(self) -> str:
        """Of the places where documents end, in hex."""
        return hashlib.sha256(self.sizes.astype("<u8").tobytes()).hexdigest()


@dataclass(frozen=True)
class Scan:
    """What one pass over a text has found.

    Attributes:
        files: in the order of the text.
        sha256: of its UTF-8 bytes, in hex. `MARK` counts as three bytes.
        size: UTF-8 bytes, without `MARK`.
        characters: of the text.
        blank: whether it has nothing but white space.
        documents: of the text.
        left_out: `missing` or `empty` → documents without text.
    """

    files: tuple[TextFile, ...]
    sha256: str
    size: int
    characters: int
    blank: bool
    documents: Documents
    left_out: Mapping[str, int]


def documents(
    sources: Iterable[Source], separator: str, left_out: Counter[str] | None = None
) -> Iterator[tuple[Source, Iterable[str]]]:
    """Yield the file and the text of each document, in pieces that are to be read before the next document.

    Documents without text are left out; but a blank line is put after an empty text file too, as it always was.

    Args:
        sources: the files.
        separator: between documents, one of the values of `SEPARATORS`.
        left_out: counts the documents that are left out.

    Raises:
        CorpusError: a file cannot be read, or has no text where it should.
    """
    left_out = Counter() if left_out is None else left_out
    for source in sources:
        for document in kind_of(source).read(source):
            if document is None:
                left_out["missing"] += 1
            elif isinstance(document, str):
                if document.isspace() or not document:
                    left_out["empty"] += 1
                else:
                    yield source, (document,)
            else:
                first = next(document, "")
                if first or separator == BLANK_LINE:
                    yield source, chain((first,), document)
                else:
                    left_out["empty"] += 1


def joined(sources: Iterable[Source], separator: str) -> Iterator[str]:
    """Yield the text of all documents in pieces, with the separator between them; errors as in `documents`."""
    for number, (_, pieces) in enumerate(documents(sources, separator)):
        if number and separator:
            yield separator
        yield from pieces


def scan(
    sources: Sequence[Source],
    separator: str,
    check_size: Callable[[int], None] = lambda size: None,
    compared: bool = False,
) -> Scan:
    """Read a text once.

    Args:
        sources: the files.
        separator: between documents, one of the values of `SEPARATORS`.
        check_size: called with the UTF-8 bytes so far; may raise an error.
        compared: whether the documents are compared with those of another text.

    Raises:
        CorpusError: as `documents`.
    """
    digest, size, characters, blank = hashlib.sha256(), 0, 0, True
    left_out: Counter[str] = Counter()
    sizes, counts = [0] * len(sources), [0] * len(sources)
    lengths, hashes, files = array("Q"), array("Q"), array("Q")
    between, between_size = separator.encode(errors="surrogatepass"), text_size(separator)
    several = compared or len(sources) > 1 or any(kind_of(source).columns for source in sources)
    number = {source: place for place, source in enumerate(sources)}
    for source, pieces in documents(sources, separator, left_out):
        file = number[source]
        if lengths:
            digest.update(between)
            characters += len(separator)
            size += between_size
            sizes[file] += between_size if counts[file] else 0
        start, own = size, DocumentHash()
        for piece in pieces:
            raw = piece.encode()
            digest.update(raw)
            if several:
                own.update(piece)
            size += len(raw)
            characters += len(piece)
            blank = blank and not piece.strip()
            check_size(size)
        sizes[file] += size - start
        counts[file] += 1
        lengths.append(size - start)
        hashes.append(own.value)
        files.append(file)
    found = Documents(*(np.frombuffer(numbers, np.uint64) for numbers in (lengths, hashes, files)))
    shown = tuple(map(TextFile, sources, sizes, counts))
    return Scan(shown, digest.hexdigest(), size, characters, blank, found, dict(left_out))


class DocumentHash:
    """8 bytes of the BLAKE2b hash of a document, or 0 if it is blank."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=8)
        self._blank = True

    def update(self, piece: str) -> None:
        """Take the next piece."""
        self._digest.update(piece.encode())
        self._blank = self._blank and not piece.strip()

    @property
    def value(self) -> int:
        """The hash as a number."""
        return 0 if self._blank else int.from_bytes(self._digest.digest(), "little")


def text_size(text: str) -> int:
    """UTF-8 bytes of a text; 0 for `MARK`."""
    return 0 if text == MARK else len(text.encode())
