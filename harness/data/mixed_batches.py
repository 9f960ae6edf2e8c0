"""Training batches of a mixture: each window is drawn from a source at random, in proportion to the weights.

Which source a window comes from depends on the seed, the weights and the window's number in the run alone, so that any
batch can be made without the earlier ones. Runs of one seed draw the same random numbers whatever their weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.core.rng import derive, stream
from harness.data.windows import Windows

_BLOCK: Final = 1 << 16  # windows whose sources are drawn at a time


def mixed_batches(
    parts: Mapping[str, Windows],
    weights: Mapping[str, float],
    sequences: int,
    seed: int,
    start: int = 0,
    rows: slice = slice(None),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches as of `training_batches`; those of one source are equal to its batches.

    In a source every window is taken once before any is again, in an order of its own.

    Args:
        parts: source → the windows of its training split, at least one.
        weights: source → its weight.
        sequences, seed, start, rows: as for `harness.data.batches.training_batches`.
    """
    shares = [weights[name] for name in parts]
    before = _drawn_before(shares, seed, start * sequences)
    seeds = [seed if len(parts) == 1 else derive(seed, "mix", name) for name in parts]
    windows = [part.training(1, own, count) for part, own, count in zip(parts.values(), seeds, before, strict=True)]
    order = source_order(shares, seed, start * sequences)
    while True:
        drawn = [next(windows[source]) for source in islice(order, sequences)][rows]
        inputs, targets = zip(*drawn, strict=True)
        yield torch.cat(inputs), torch.cat(targets)


def source_order(weights: Sequence[float], seed: int, start: int = 0) -> Iterator[int]:
    """Yield, without end, the number of the source that each training window is drawn from.

    Args:
        weights: of the sources.
        seed: of the run.
        start: number of the first window.
    """
    block, passed = divmod(start, _BLOCK)
    while True:
        yield from _drawn(weights, seed, block)[passed:].tolist()
        block, passed = block + 1, 0


def _drawn(weights: Sequence[float], seed: int, block: int) -> npt.NDArray[np.intp]:
    """The sources of the windows of one block."""
    ends = np.cumsum(weights)
    return np.searchsorted(ends[:-1] / ends[-1], stream(seed, "mix", block).random(_BLOCK), side="right")


def _drawn_before(weights: Sequence[float], seed: int, windows: int) -> list[int]:
    """How many of the first windows came from each source; 1 ms for 65,536 of them."""
    whole, rest = divmod(windows, _BLOCK)
    counts = np.zeros(len(weights), np.int64)
    for block in range(whole + (rest > 0)):
        drawn = _drawn(weights, seed, block)
        counts += np.bincount(drawn[:rest] if block == whole else drawn, minlength=len(weights))
    return [int(count) for count in counts]
