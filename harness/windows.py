"""Which tokens a step trains on, and which windows score a split.

Both cut a split into windows of `context_length` tokens that follow each other; the target of a position is the
token after it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.rng import stream

Tokens = npt.NDArray[np.integer]


def count_windows(tokens: int, context_length: int) -> int:
    """Whole windows in a split of `tokens` tokens: each needs one more token, its last target."""
    return max(0, (tokens - 1) // context_length)


def training_order(windows: int, seed: int) -> Iterator[int]:
    """Window numbers without end: each epoch is a permutation of all windows, from a stream of its own.

    Batches may cross an epoch's border, so no window is dropped and none is seen more often than another.
    """
    epoch = 0
    while True:
        yield from stream(seed, "data", epoch).permutation(windows).tolist()
        epoch += 1


def take_windows(tokens: Tokens, starts: list[int], length: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, both (len(starts), length) int64, of the windows that begin at `starts`."""
    rows = np.stack([tokens[start : start + length + 1] for start in starts]).astype(np.int64)
    both = torch.from_numpy(rows)
    return both[:, :-1].contiguous(), both[:, 1:].contiguous()


def training_batches(tokens: Tokens, context_length: int, sequences: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (inputs, targets), each (sequences, context_length), without end."""
    order = training_order(count_windows(len(tokens), context_length), seed)
    while True:
        starts = [next(order) * context_length for _ in range(sequences)]
        yield take_windows(tokens, starts, context_length)


def scoring_batches(tokens: Tokens, context_length: int, sequences: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches that hold every token after the first exactly once as a target.

    The last window may be shorter than the others and then comes alone, so nothing is padded or left out.
    """
    whole = count_windows(len(tokens), context_length)
    starts = [number * context_length for number in range(whole)]
    for first in range(0, whole, sequences):
        yield take_windows(tokens, starts[first : first + sequences], context_length)
    rest = len(tokens) - 1 - whole * context_length
    if rest > 0:
        yield take_windows(tokens, [whole * context_length], rest)


def fixed_sample(tokens: Tokens, context_length: int, wanted: int) -> list[int]:
    """Starts of about `wanted` tokens' worth of whole windows, spread evenly; the same for every seed."""
    windows = count_windows(len(tokens), context_length)
    count = min(windows, max(1, wanted // context_length))
    return [int(number) * context_length for number in np.linspace(0, windows - 1, count).round()]
