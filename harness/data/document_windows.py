"""Windows that stay inside documents: `data.windows: within`.

A document ends with the token `<|endoftext|>`, which is its last target; its first token is no target. Each document is
cut into consecutive windows, of which the last may be shorter. So every other token is a target exactly once in an
epoch, and no position sees another document. In training, a shorter window is filled up with positions whose targets
do not count; attention is causal, so they change nothing before them. An evaluation scores windows of one length
together and needs no filling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.data.batches import NO_TARGET, Batch, Tokens, training_order
from harness.data.tokenizer import Ids

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


def padded_windows(tokens: Tokens, cut: Cut, context_length: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of windows, each of shape (windows, context_length), int64.

    A shorter window is filled up with its first token, whose targets are `NO_TARGET`.
    """
    inputs = np.empty((len(cut), context_length), np.int64)
    targets = np.full((len(cut), context_length), NO_TARGET, np.int64)
    for row, (start, length) in enumerate(zip(cut.starts.tolist(), cut.lengths.tolist(), strict=True)):
        ids = tokens[start : start + length + 1]
        inputs[row, :length], inputs[row, length:], targets[row, :length] = ids[:-1], ids[0], ids[1:]
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def padded_batches(
    tokens: Tokens, cut: Cut, context_length: int, sequences: int, seed: int, start: int = 0, rows: slice = slice(None)
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches for training, as `harness.data.batches.training_batches`, of the windows of a cut."""
    order = training_order(len(cut), seed, start * sequences)
    while True:
        numbers = np.array([next(order) for _ in range(sequences)], np.int64)
        yield padded_windows(tokens, cut.chosen(numbers[rows]), context_length)


def equal_batches(tokens: Tokens, cut: Cut, sequences: int) -> Iterator[Batch]:
    """Batches of up to `sequences` windows of one length, the longest first; nothing is filled up or left out.

    Yields:
        inputs and targets, each of shape (windows, length), and the first position whose target counts.
    """
    firsts = np.zeros_like(cut.starts) if cut.firsts is None else cut.firsts
    order = np.lexsort((firsts, -cut.lengths))  # stable
    kinds = np.stack([cut.lengths[order], firsts[order]], 1)
    borders = np.flatnonzero((kinds[1:] != kinds[:-1]).any(1)) + 1
    for group in np.split(order, borders):
        for begin in range(0, len(group), sequences):
            some = cut.chosen(group[begin : begin + sequences])
            yield *padded_windows(tokens, some, int(some.lengths[0])), int(firsts[group[0]])


def evenly_spaced(cut: Cut, wanted: int) -> Cut:
    """Windows at equal distances, with about `wanted` targets in all; equal for every seed."""
    count = min(len(cut), max(1, wanted * len(cut) // max(1, cut.targets)))
    return cut.chosen(np.linspace(0, len(cut) - 1, count).round().astype(np.int64))
