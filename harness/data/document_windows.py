"""Batches of windows inside documents, which `harness.data.document_cuts` cuts.

In training, a shorter window is filled up with positions whose targets do not count; attention is causal, so they
change nothing before them. An evaluation scores windows of one length together and needs no filling.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from harness.data.batches import NO_TARGET, Batch, training_order
from harness.data.document_cuts import Cut
from harness.data.stored_ids import Tokens


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
