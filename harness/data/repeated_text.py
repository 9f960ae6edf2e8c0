"""Sentences about text that a corpus names or contains more than once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.core.text import listed, plural
from harness.data.corpora import Corpus
from harness.data.documents import text_size
from harness.data.sources.kinds import kind_of

Indices = npt.NDArray[np.integer[Any]]

_WORDS = {"train": "training", "val": "validation", "test": "test"}


def other_names(corpus: Corpus) -> str:
    """A sentence about other names of a file or folder, which is read once; empty if there are none."""
    if not corpus.repeats:
        return ""
    other, first = next(iter(corpus.repeats.items()))
    more = f" ({plural(len(corpus.repeats) - 1, 'more such name')})" if len(corpus.repeats) > 1 else ""
    return f"{other!r} is another name of {first!r}{more}; each file counts once"


def copies_in_splits(corpus: Corpus, split_bytes: Mapping[str, int]) -> str:
    """A warning about documents of equal content that lie in different splits; empty if there are none.

    Args:
        corpus: the text, with its documents.
        split_bytes: split → UTF-8 bytes of its text, in the order of the text.
    """
    documents = corpus.documents
    assert documents is not None
    known = np.flatnonzero(documents.hashes)
    order = known[np.argsort(documents.hashes[known], kind="stable")]
    hashes = documents.hashes[order]
    changes = np.flatnonzero(hashes[1:] != hashes[:-1]) + 1
    starts, stops = np.r_[0, changes], np.r_[changes, len(order)]
    groups: list[Indices] = [order[start:stop] for start, stop in zip(starts, stops, strict=True) if stop - start > 1]
    if not groups:
        return ""
    ends = np.cumsum(documents.sizes + np.uint64(text_size(corpus.separator)))
    first = np.r_[np.zeros(1, np.uint64), ends[:-1]]
    borders = np.cumsum([split_bytes[split] for split in _WORDS], dtype=np.uint64)
    begin: Indices = np.asarray(np.searchsorted(borders, first, side="right"))
    end: Indices = np.asarray(np.searchsorted(borders, first + documents.sizes - np.uint64(1), side="right"))
    leaks: list[Indices] = [group for group in groups if begin[group].min() != end[group].max()]
    if not leaks:
        return ""
    if any(kind_of(file.source).columns for file in corpus.files):
        return _counted(leaks, begin, end)
    copies = leaks[0]
    names = listed(repr(corpus.files[int(documents.files[copy])].name) for copy in copies[:3])
    splits = sorted({int(split) for copy in copies for split in range(begin[copy], end[copy] + 1)})
    where = listed(list(_WORDS.values())[split] for split in splits)
    more = f" The same holds for {plural(len(leaks) - 1, 'other text')}." if len(leaks) > 1 else ""
    return (
        f"{names}{' and others' if len(copies) > 3 else ''} have equal content, which is part of the {where} text: "
        f"models are evaluated on text that they have seen. Leave out all but one.{more}"
    )


def _counted(leaks: Sequence[Indices], begin: Indices, end: Indices) -> str:
    """The sentence for documents that have no names."""
    counts = [0] * len(_WORDS)  # of documents of a split that also stand in an earlier one
    for group in leaks:
        earliest = int(begin[group].min())
        for copy in group:
            for split in range(max(int(begin[copy]), earliest + 1), int(end[copy]) + 1):
                counts[split] += 1
    found = [
        f"{plural(number, 'document')} of the {word} text"
        for number, word in zip(counts, _WORDS.values(), strict=True)
        if number
    ]
    return (
        f"{listed(found)} also {'stands' if sum(counts) == 1 else 'stand'} in an earlier split: models are evaluated "
        "on text that they have seen. Leave the copies out."
    )
