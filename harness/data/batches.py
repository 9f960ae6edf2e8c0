"""Which tokens a step trains on, and which windows score a split.

Both cut a split into windows of `context_length` tokens that follow each other; the target of a position is the
token after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.core.rng import stream

Tokens = npt.NDArray[np.integer]


def count_windows(tokens: int, context_length: int) -> int:
    """Whole windows in a split of `tokens` tokens: each needs one more token, its last target."""
    return max(0, (tokens - 1) // context_length)


def training_order(windows: int, seed: int, start: int = 0) -> Iterator[int]:
    """Window numbers without end: each epoch is a permutation of all windows, from a stream of its own.

    Batches may cross an epoch's border, so no window is dropped and none is seen more often than another.

    Args:
        windows: in the split.
        seed: of the run.
        start: how many window numbers to pass over; costs one permutation, however many.
    """
    epoch, passed = divmod(start, windows)
    while True:
        yield from stream(seed, "data", epoch).permutation(windows)[passed:].tolist()
        epoch, passed = epoch + 1, 0


def take_windows(tokens: Tokens, starts: list[int], length: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, both (len(starts), length) int64, of the windows that begin at `starts`."""
    rows = np.stack([tokens[start : start + length + 1] for start in starts]).astype(np.int64)
    both = torch.from_numpy(rows)
    return both[:, :-1].contiguous(), both[:, 1:].contiguous()


def training_batches(
    tokens: Tokens, context_length: int, sequences: int, seed: int, start: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (inputs, targets), each (sequences, context_length), without end, from batch number `start` on."""
    order = training_order(count_windows(len(tokens), context_length), seed, start * sequences)
    while True:
        starts = [next(order) * context_length for _ in range(sequences)]
        yield take_windows(tokens, starts, context_length)


def staged(batches: Iterator[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches on `device`. For a GPU each is on its way while the one before is trained on."""
    if device.type != "cuda":
        yield from ((tokens.to(device), targets.to(device)) for tokens, targets in batches)
        return

    def sent(part: Tensor) -> Tensor:  # from pinned memory, as a copy from any other is waited for
        return part.pin_memory().to(device, non_blocking=True)

    ahead: deque[tuple[Tensor, Tensor]] = deque()
    for tokens, targets in batches:
        ahead.append((sent(tokens), sent(targets)))
        if len(ahead) > 1:
            yield ahead.popleft()
    yield from ahead


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


def strided_batches(
    tokens: Tokens, context_length: int, sequences: int, behind: int
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Whole windows that overlap so far that every target is scored with at least `behind` tokens before it.

    The targets are all tokens from number `behind` on, each exactly once, whatever the context length: what two
    models of different context can both be asked. A split shorter than one window has none.

    Args:
        tokens: one split.
        context_length: of the model; at least `behind`.
        sequences: windows per batch.
        behind: the context that every target has, in tokens; at least 1.

    Yields:
        inputs and targets, each (windows, context_length), and the first position whose target counts.
    """
    if not 1 <= behind <= context_length:
        raise ValueError(f"behind: found {behind} with context_length {context_length}; allowed: 1 to context_length")
    last = len(tokens) - 1 - context_length  # where the last window that has all its targets begins
    if last < 0:
        return
    stride = context_length - behind + 1
    starts = list(range(0, last + 1, stride))
    for first in range(0, len(starts), sequences):
        yield *take_windows(tokens, starts[first : first + sequences], context_length), behind - 1
    if missing := last - starts[-1]:  # the end of the split: one more window, of which only the rest counts
        yield *take_windows(tokens, [last], context_length), context_length - missing


def fixed_sample(tokens: Tokens, context_length: int, wanted: int) -> list[int]:
    """Starts of about `wanted` tokens' worth of whole windows, spread evenly; the same for every seed."""
    windows = count_windows(len(tokens), context_length)
    count = min(windows, max(1, wanted // context_length))
    return [int(number) * context_length for number in np.linspace(0, windows - 1, count).round()]
