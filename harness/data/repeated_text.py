"""Sentences about text that a corpus names or contains more than once."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from harness.core.text import listed, plural
from harness.data.corpora import SEPARATOR, Corpus, TextFile
from harness.data.reading import read_text

_WORDS = {"train": "training", "val": "validation", "test": "test"}


def other_names(corpus: Corpus) -> str:
    """A sentence about other names of a file or folder, which is read once; empty if there are none."""
    if not corpus.repeats:
        return ""
    other, first = next(iter(corpus.repeats.items()))
    more = f" ({plural(len(corpus.repeats) - 1, 'more such name')})" if len(corpus.repeats) > 1 else ""
    return f"{other!r} is another name of {first!r}{more}; each file counts once"


def copies_in_splits(corpus: Corpus, split_bytes: Mapping[str, int]) -> str:
    """A warning about files of equal content that lie in different splits; empty if there are none.

    Args:
        corpus: the text.
        split_bytes: split → UTF-8 bytes of its text, in the order of the text.

    Raises:
        CorpusError: a file cannot be read any more.
    """
    places: dict[TextFile, set[str]] = {}
    start = 0
    for file in corpus.files:
        places[file] = _splits_of(start, start + file.size, split_bytes)
        start += file.size + len(SEPARATOR)
    leaks = [
        (copies, splits)
        for copies in _equal_files(corpus)
        if len(splits := set.union(*(places[file] for file in copies))) > 1
    ]
    if not leaks:
        return ""
    copies, splits = leaks[0]
    names = listed(repr(file.name) for file in copies[:3]) + (" and others" if len(copies) > 3 else "")
    where = listed(_WORDS[split] for split in split_bytes if split in splits)
    more = f" The same holds for {plural(len(leaks) - 1, 'other text')}." if len(leaks) > 1 else ""
    return (
        f"{names} have equal content, which is part of the {where} text: models are evaluated on text that they have "
        f"seen. Leave out all but one.{more}"
    )


def _splits_of(start: int, end: int, split_bytes: Mapping[str, int]) -> set[str]:
    """The splits that the bytes from `start` to `end` lie in."""
    found, place = set(), 0
    for split, size in split_bytes.items():
        if start < place + size and end > place:
            found.add(split)
        place += size
    return found


def _equal_files(corpus: Corpus) -> list[Sequence[TextFile]]:
    """Groups of files with equal text. Only files of equal size are read."""
    sizes: dict[int, list[TextFile]] = defaultdict(list)
    for file in corpus.files:
        sizes[file.size].append(file)
    groups: dict[tuple[int, str], list[TextFile]] = defaultdict(list)
    for size, files in sizes.items():
        for file in files if size and len(files) > 1 else ():
            digest, blank = hashlib.sha256(), True
            for piece in read_text(file.path, file.name, corpus.field):
                digest.update(piece.encode())
                blank = blank and not piece.strip()
            if not blank:
                groups[size, digest.hexdigest()].append(file)
    return [files for files in groups.values() if len(files) > 1]
