"""Which part of a text is for training, for validation and for the final test."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.config.run import Split
from harness.core.rng import stream
from harness.data.corpora import Corpus
from harness.data.documents import MARK
from harness.data.errors import CorpusError
from harness.data.given_tokens import ids_of
from harness.data.tokenizer import Ids

SPLITS: Final = ("train", "val", "test")  # in the order of the text
_SPACE: Final = re.compile(rf"[\s{MARK}]")

Numbers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Division:
    """A text in splits. `val` and `test` are parts of it, or texts of their own.

    Attributes:
        corpus: the text.
        split: how it is divided.
    """

    corpus: Corpus
    split: Split

    @cached_property
    def shares(self) -> dict[str, float]:
        """`val` and `test` → share of the text; 0 for one that has a text of its own."""
        shares = {"val": self.split.val, "test": self.split.test}
        return {split: 0.0 if split in self.corpus.held_out else share for split, share in shares.items()}

    @cached_property
    def of_documents(self) -> Numbers:
        """Number of the split in `SPLITS` that each document of the text is in, if it is divided by documents.

        The documents are put into a random order, equal ones together; the first are for the test until it has its
        share of the bytes, the next for validation. Only their content and the seed decide, not their place.

        Raises:
            CorpusError: there are too few documents.
        """
        documents = self.corpus.documents
        assert documents is not None
        unique, inverse = np.unique(documents.hashes, return_inverse=True)
        sizes = np.bincount(inverse, weights=documents.sizes)  # exact up to 2^53
        order = stream(self.split.seed, "split").permutation(len(unique))
        begins = np.cumsum(sizes[order]) - sizes[order]
        total, test, both = sizes.sum(), self.shares["test"], self.shares["val"] + self.shares["test"]
        found = np.empty(len(unique), np.int64)
        found[order] = np.select([begins < round(total * test), begins < round(total * both)], [2, 1], 0)
        missing = [name for number, name in enumerate(SPLITS) if self.shares.get(name) != 0 and number not in found]
        if missing:
            raise CorpusError(
                "data.split",
                f"found {len(unique)} different {'document' if len(unique) == 1 else 'documents'} in {self.corpus.name}"
                f", and none for {missing[0]}; allowed: by position, or shares and more documents",
            )
        return found[inverse]

    @cached_property
    def points(self) -> tuple[int, int]:
        """The characters, or token ids, before which the text is cut, if it is divided by position."""
        if self.corpus.token_ids:
            size, val, test = self.corpus.characters, self.shares["val"], self.shares["test"]
            return round(size * (1 - val - test)), round(size * (1 - test))
        return split_points(self.corpus, self.split.model_copy(update=self.shares))

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Characters or bytes of each split that has any text by its share or by itself."""
        corpus, found = self.corpus, {}
        if self.split.by == "documents":
            assert corpus.documents is not None
            bytes_of = np.bincount(self.of_documents, weights=corpus.documents.sizes, minlength=len(SPLITS))
            found = dict(zip(SPLITS, map(int, bytes_of), strict=True))
        else:
            first, second = self.points
            found = {"train": first, "val": second - first, "test": corpus.characters - second}
        found = {split: size for split, size in found.items() if self.shares.get(split) != 0}
        return found | {split: own.characters for split, own in corpus.held_out.items()}

    def pieces(self) -> Iterator[tuple[str, str]]:
        """Yield the text as (split, piece), one split after the other.

        Raises:
            CorpusError: a file cannot be read or has changed.
        """
        if self.split.by == "documents":
            for number, split in enumerate(SPLITS):
                if self.shares.get(split) != 0:
                    yield from ((split, piece) for piece in self.corpus.chosen(self.of_documents == number))
        else:
            yield from split_pieces(self.corpus, self.points)
        for split, own in self.corpus.held_out.items():
            yield from ((split, piece) for piece in own.pieces())

    def ids(self) -> Iterator[tuple[str, Ids]]:
        """Yield the ids of token files as (split, ids), one split after the other.

        Raises:
            CorpusError: a file cannot be read or has changed.
        """
        place = 0
        for ids in ids_of(self.corpus):
            borders = (0, *self.points, self.corpus.characters)
            for split, begin, end in zip(SPLITS, borders, borders[1:], strict=False):
                part = ids[max(0, begin - place) : max(0, end - place)]
                if len(part):
                    yield split, part
            place += len(ids)
        for split, own in self.corpus.held_out.items():
            yield from ((split, ids) for ids in ids_of(own))

    def content(self) -> dict[str, Any]:
        """Plain values that are equal for equal texts in equal splits."""
        shares = {"val": self.split.val, "test": self.split.test}
        plain: dict[str, Any] = {"corpus": self.corpus.sha256}  # with the separators
        plain["split"] = {split: share for split, share in shares.items() if split not in self.corpus.held_out}
        if self.split.by == "documents":
            assert self.corpus.documents is not None
            plain["split"] |= {"by": "documents", "seed": self.split.seed}
            plain["documents"] = self.corpus.documents.sha256
        if self.corpus.held_out:
            plain["held_out"] = {split: own.sha256 for split, own in self.corpus.held_out.items()}
        return plain


def split_points(corpus: Corpus, split: Split) -> tuple[int, int]:
    """The characters before which a text is cut into three contiguous parts, by shares of its characters.

    A cut inside a word moves forward to the next white space or end of a document, so that every tokenizer gets the
    same whole words. If there is none up to the end of the part, the cut is made at its share.
    """
    size = corpus.characters
    first, second = round(size * (1 - split.val - split.test)), round(size * (1 - split.test))
    if split.val == 0:  # there is one cut
        first = second = _next_space(corpus.pieces(), second, size)
        return first, second
    return _next_space(corpus.pieces(), first, second), _next_space(corpus.pieces(), second, size)


def _next_space(pieces: Iterable[str], start: int, end: int) -> int:
    """The first white space or `MARK` from `start` up to `end`; `start` if there is none."""
    place = 0
    for piece in pieces:
        if place >= end:
            break
        found = _SPACE.search(piece, max(0, start - place), max(0, end - place))
        if found:
            return place + found.start()
        place += len(piece)
    return start


def split_pieces(corpus: Corpus, points: tuple[int, int]) -> Iterator[tuple[str, str]]:
    """Yield the pieces of a text as (split, piece); a piece that reaches into the next split is cut.

    No split begins with a token between documents.
    """
    ends = iter([*zip(SPLITS, points, strict=False), (SPLITS[-1], sys.maxsize)])
    split, end = next(ends)
    place, last = 0, ""
    for piece in corpus.pieces():
        while piece:
            while place == end:
                split, end = next(ends)
            part, piece = piece[: end - place], piece[end - place :]
            place += len(part)
            if part != MARK or split == last:
                yield split, part
                last = split
