"""Sentences about text that a corpus names or contains more than once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.core.text import listed, plural
from harness.data.corpora import Corpus
from harness.data.documents import Documents, text_size
from harness.data.sources.kinds import kind_of
from harness.data.splitting import SPLITS, Division

Indices = npt.NDArray[np.integer[Any]]

_WORDS = {"train": "training", "val": "validation", "test": "test"}


def other_names(corpus: Corpus) -> str:
    """A sentence about other names of a file or folder, which is read once; empty if there are none."""
    if not corpus.repeats:
        return ""
    other, first = next(iter(corpus.repeats.items()))
    more = f" ({plural(len(corpus.repeats) - 1, 'more such name')})" if len(corpus.repeats) > 1 else ""
    return f"{other!r} is another name of {first!r}{more}; each file counts once"


def copies_in_splits(texts: Sequence[tuple[Division, Mapping[str, int]]]) -> str:
    """A warning about documents of equal content that lie in different splits; empty if there are none.

    Args:
        texts: each text, with its documents, and how it is divided; and split → UTF-8 bytes of its text.
    """
    parts = [part for division, _ in texts for part in division.corpus.parts]
    places = [place for division, split_bytes in texts for place in _places(division, split_bytes)]
    begin, end = (np.concatenate(borders) for borders in zip(*places, strict=True))
    hashes = np.concatenate([_of(part).hashes for part in parts])
    known = np.flatnonzero(hashes)
    order = known[np.argsort(hashes[known], kind="stable")]
    changes = np.flatnonzero(hashes[order][1:] != hashes[order][:-1]) + 1
    groups = zip(np.r_[0, changes], np.r_[changes, len(order)], strict=True)
    equal: list[Indices] = [order[start:stop] for start, stop in groups if stop - start > 1]
    leaks = [group for group in equal if begin[group].min() != end[group].max()]
    if not leaks:
        return ""
    if any(kind_of(file.source).columns for part in parts for file in part.files):
        by_place = all(division.split.by == "position" and not division.corpus.held_out for division, _ in texts)
        return _counted(leaks, begin, end) + (", or divide by documents (data.split.by)." if by_place else ".")
    files = [file.name for part in parts for file in part.files]  # each is one document
    copies = leaks[0]
    names = listed(repr(files[copy]) for copy in copies[:3])
    splits = sorted({int(split) for copy in copies for split in range(begin[copy], end[copy] + 1)})
    where = listed(_WORDS[SPLITS[split]] for split in splits)
    more = f" The same holds for {plural(len(leaks) - 1, 'other text')}." if len(leaks) > 1 else ""
    return (
        f"{names}{' and others' if len(copies) > 3 else ''} have equal content, which is part of the {where} text: "
        f"models are evaluated on text that they have seen. Leave out all but one.{more}"
    )


def _of(corpus: Corpus) -> Documents:
    assert corpus.documents is not None
    return corpus.documents


def _places(division: Division, split_bytes: Mapping[str, int]) -> Iterator[tuple[Indices, Indices]]:
    """For each part of the text, the first and the last split that each of its documents lies in."""
    corpus = division.corpus
    if division.split.by == "documents":
        yield division.of_documents, division.of_documents
    else:
        sizes = _of(corpus).sizes.astype(np.int64)
        first = np.cumsum(sizes + text_size(corpus.separator)) - sizes - text_size(corpus.separator)
        if corpus.token_ids:  # whose sizes are those of their ids
            split_bytes = {split: 2 * size for split, size in division.sizes.items()}
        borders = np.cumsum([0 if split in corpus.held_out else split_bytes.get(split, 0) for split in SPLITS])
        yield np.searchsorted(borders, first, side="right"), np.searchsorted(borders, first + sizes - 1, side="right")
    for split, own in corpus.held_out.items():
        place = np.full(len(_of(own).sizes), SPLITS.index(split))
        yield place, place


def _counted(leaks: Sequence[Indices], begin: Indices, end: Indices) -> str:
    """The sentence for documents that have no names, without its end."""
    counts = [0] * len(SPLITS)  # of documents of a split that also stand in an earlier one
    for group in leaks:
        earliest = int(begin[group].min())
        for copy in group:
            for split in range(max(int(begin[copy]), earliest + 1), int(end[copy]) + 1):
                counts[split] += 1
    found = [
        f"{plural(number, 'document')} of the {_WORDS[split]} text"
        for number, split in zip(counts, SPLITS, strict=True)
        if number
    ]
    return (
        f"{listed(found)} also {'stands' if sum(counts) == 1 else 'stand'} in an earlier split: models are evaluated "
        "on text that they have seen. Leave the copies out"
    )
