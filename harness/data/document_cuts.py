"""Where windows inside documents begin and end (`data.windows: within`), without any batch.

A document ends with the token `<|endoftext|>`, which is its last target; its first token is no target. Each document is
cut into consecutive windows, of which the last may be shorter. So every other token is a target exactly once, and no
position sees another document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.config.run import DataConfig
from harness.data.corpora import Corpus
from harness.data.errors import CorpusError
from harness.data.stored_ids import Tokens
from harness.data.tokenizer import Ids, Tokenizer

Numbers = npt.NDArray[np.int64]

_CHUNK: Final = 1 << 20  # tokens


@dataclass(frozen=True, eq=False)
class Cut:
    """Windows of a split, in the order of the text.

    Attributes:
        starts: index of each one's first token, (windows,).
        lengths: targets of each, (windows,); a window has one more token.
        firsts: the first position in each whose target counts, (windows,); None if all count.
    """

    starts: Numbers
    lengths: Numbers
    firsts: Numbers | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def chosen(self, numbers: Numbers) -> Cut:
        """Some of them, in this order."""
        return Cut(self.starts[numbers], self.lengths[numbers], None if self.firsts is None else self.firsts[numbers])

    @property
    def targets(self) -> int:
        """Targets that count, of all windows."""
        return int(self.lengths.sum() - (0 if self.firsts is None else self.firsts.sum()))


def documents_of(tokens: Tokens, end_of_text: int | None) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield the first and the last token of each document with a target, as indices, (documents,), in pieces.

    Args:
        tokens: a split.
        end_of_text: the last token of each document but the last one; None: the split is one document.
    """
    begin = 0
    for start in range(0, len(tokens), _CHUNK):
        part = tokens[start : start + _CHUNK]
        ends = np.flatnonzero(part == end_of_text) + start if end_of_text is not None else np.empty(0, np.int64)
        if start + len(part) == len(tokens) and (not len(ends) or ends[-1] != len(tokens) - 1):
            ends = np.append(ends, len(tokens) - 1)
        if len(ends):
            firsts = np.append(begin, ends[:-1] + 1)
            begin = int(ends[-1]) + 1
            yield firsts[firsts < ends], ends[firsts < ends]


def first_ids(tokens: Tokens, end_of_text: int | None) -> Iterator[Ids]:
    """Yield the ids of the documents' first tokens, which are no targets, in pieces; arguments as in `documents_of`."""
    after = True
    for start in range(0, len(tokens), _CHUNK):
        part = tokens[start : start + _CHUNK]
        ends = part == end_of_text if end_of_text is not None else np.zeros(len(part), bool)
        yield part[np.append(after, ends[:-1])]
        after = bool(ends[-1])


def cut_documents(tokens: Tokens, end_of_text: int | None, context_length: int) -> Cut:
    """Consecutive windows in which every token but the first of each document is a target exactly once."""
    starts, lengths = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for first, last in documents_of(tokens, end_of_text):
        count = -(-(last - first) // context_length)
        start = np.repeat(first, count) + context_length * _number_within(count)
        starts.append(start)
        lengths.append(np.minimum(context_length, np.repeat(last, count) - start))
    return Cut(np.concatenate(starts), np.concatenate(lengths))


def strided_documents(tokens: Tokens, end_of_text: int | None, context_length: int, min_context: int) -> Cut:
    """Overlapping windows in which each target that counts has at least `min_context` tokens of its document before it.

    As `harness.data.batches.strided_batches`, in each document: all of its tokens from index `min_context` on are
    targets that count exactly once, whatever the context length.
    """
    stride = context_length - min_context + 1
    starts, lengths, firsts = ([np.empty(0, np.int64)] for _ in range(3))
    for first, last in documents_of(tokens, end_of_text):
        wanted = last - first - min_context + 1  # targets that count
        first, last, wanted = first[wanted > 0], last[wanted > 0], wanted[wanted > 0]
        count = -(-wanted // stride)
        number = _number_within(count)
        first, last = np.repeat(first, count), np.repeat(last, count)
        start = first + stride * number
        moved = np.minimum(start, np.maximum(first, last - context_length))  # the last one ends with its document
        starts.append(moved)
        lengths.append(np.minimum(context_length, last - moved))
        firsts.append(min_context - 1 + start - moved)
    return Cut(np.concatenate(starts), np.concatenate(lengths), np.concatenate(firsts))


def _number_within(counts: Numbers) -> Numbers:
    """0, 1, … for each of `counts` groups: [2, 3] gives [0, 1, 0, 1, 2]."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def evenly_spaced(cut: Cut, wanted: int) -> Cut:
    """Windows at equal distances, with about `wanted` targets in all; equal for every seed."""
    count = min(len(cut), max(1, wanted * len(cut) // max(1, cut.targets)))
    return cut.chosen(np.linspace(0, len(cut) - 1, count).round().astype(np.int64))


def check_documents(config: DataConfig, corpus: Corpus, tokenizer: Tokenizer, splits: Mapping[str, Tokens]) -> None:
    """Raise CorpusError if nothing marks where documents end, or if no document of a split has a target.

    Args:
        config: with `windows: within`.
        corpus: of the data set.
        tokenizer: of the ids of `splits`.
        splits: split → its tokens.
    """
    if not corpus.token_ids and config.separator != "endoftext":
        raise CorpusError(
            "data.windows",
            f"found within and data.separator {config.separator}; allowed: data.separator endoftext, whose token marks "
            "where documents end, or across",
        )
    if tokenizer.end_of_text is None and config.vocab == "full":  # else no document ends inside the text
        raise CorpusError(
            "data.windows",
            f"found within and tokenizer {tokenizer.name}, which has no token that ends documents; allowed: "
            "another one, or across",
        )
    for split, tokens in splits.items():
        if len(tokens) > 1 and not any(len(found) for found, _ in documents_of(tokens, tokenizer.end_of_text)):
            raise CorpusError(
                "data.windows",
                f"found within, and no document of {split} has two tokens; allowed: longer documents, or across",
            )
