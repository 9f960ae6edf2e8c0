"""Batches of tokens for training and for evaluation.

Both cut a split into consecutive windows of `context_length` tokens. The target of a position is the next token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from harness.core.rng import stream
from harness.data.stored_ids import Tokens

Batch = tuple[Tensor, Tensor, int]  # inputs, targets and the first position whose target counts

NO_TARGET: Final = -100  # in place of a target that does not count; torch's default

_CHUNK: Final = 1 << 16  # windows


def count_windows(tokens: int, context_length: int) -> int:
    """Whole windows in a split of `tokens` tokens; each needs one more token for its last target."""
    return max(0, (tokens - 1) // context_length)


def training_order(windows: int, seed: int, start: int = 0) -> Iterator[int]:
    """Endless window numbers: every epoch is a permutation of all windows, from a random stream of its own.

    Batches may cross the end of an epoch, so no window is dropped.

    Args:
        windows: in the split.
        seed: of the run.
        start: how many window numbers to skip; costs one permutation at most.
    """
    epoch, passed = divmod(start, windows)
    while True:
        order = stream(seed, "data", epoch).permutation(windows)
        for first in range(passed, windows, _CHUNK):  # Python's numbers take five times as much memory as NumPy's
            yield from order[first : first + _CHUNK].tolist()
        epoch, passed = epoch + 1, 0


def take_windows(tokens: Tokens, starts: Sequence[int], length: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of the windows that begin at `starts`, each of shape (len(starts), length), int64."""
    rows = [tokens[start : start + length + 1] for start in starts]
    both = torch.from_numpy(np.stack(rows).astype(np.int64) if rows else np.empty((0, length + 1), np.int64))
    return both[:, :-1].contiguous(), both[:, 1:].contiguous()


def training_batches(
    tokens: Tokens, context_length: int, sequences: int, seed: int, start: int = 0, rows: slice = slice(None)
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of (inputs, targets), each of shape (sequences, context_length), from batch `start` on.

    Args:
        tokens: the training split.
        context_length: of the model.
        sequences: rows of a batch.
        seed: of the run.
        start: number of the first batch.
        rows: of each batch that are taken; by default all.
    """
    order = training_order(count_windows(len(tokens), context_length), seed, start * sequences)
    while True:
        starts = [next(order) * context_length for _ in range(sequences)]
        yield take_windows(tokens, starts[rows], context_length)


def prefetch(batches: Iterator[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches on `device`. On a GPU each batch is copied while the previous one is trained on."""
    if device.type != "cuda":
        yield from ((tokens.to(device), targets.to(device)) for tokens, targets in batches)
        return

    def copy(part: Tensor) -> Tensor:  # only copies from pinned memory are asynchronous
        return part.pin_memory().to(device, non_blocking=True)

    ahead: deque[tuple[Tensor, Tensor]] = deque()
    for tokens, targets in batches:
        ahead.append((copy(tokens), copy(targets)))
        if len(ahead) > 1:
            yield ahead.popleft()
    yield from ahead


def scoring_batches(tokens: Tokens, context_length: int, sequences: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in which every token but the first is a target exactly once.

    A shorter last window is a batch of its own, so nothing is padded or left out.
    """
    whole = count_windows(len(tokens), context_length)
    starts = range(0, whole * context_length, context_length)
    for first in range(0, whole, sequences):
        yield take_windows(tokens, starts[first : first + sequences], context_length)
    rest = len(tokens) - 1 - whole * context_length
    if rest > 0:
        yield take_windows(tokens, [whole * context_length], rest)


def strided_batches(
    tokens: Tokens, context_length: int, sequences: int, min_context: int
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Overlapping windows in which every target has at least `min_context` tokens before it.

    The targets are all tokens from index `min_context` on, each exactly once, whatever the context length. So models
    of different context lengths are evaluated on the same targets. A split shorter than one window gives no batch.

    Args:
        tokens: one split.
        context_length: of the model; at least `min_context`.
        sequences: windows per batch.
        min_context: least context of a target, in tokens; at least 1.

    Yields:
        inputs and targets, each of shape (windows, context_length), and the first position whose target counts.
    """
    if not 1 <= min_context <= context_length:
        raise ValueError(
            f"min_context: found {min_context} with context_length {context_length}; allowed: 1 to context_length"
        )
    last = len(tokens) - 1 - context_length  # start of the last whole window
    if last < 0:
        return
    stride = context_length - min_context + 1
    starts = range(0, last + 1, stride)
    for first in range(0, len(starts), sequences):
        yield *take_windows(tokens, starts[first : first + sequences], context_length), min_context - 1
    if (
        missing := last - starts[-1]
    ):  # one more window at the end of the split, of which only the last `missing` targets count
        yield *take_windows(tokens, [last], context_length), context_length - missing


def fixed_sample(tokens: Tokens, context_length: int, wanted: int) -> list[int]:
    """Starts of evenly spaced whole windows with about `wanted` tokens in all; equal for every seed."""
    windows = count_windows(len(tokens), context_length)
    count = min(windows, max(1, wanted // context_length))
    return [int(number) * context_length for number in np.linspace(0, windows - 1, count).round()]
