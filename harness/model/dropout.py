"""Dropout, and attention with dropout, with fast masks on the CPU.

torch draws one float per element, which took a sixth of the time of a small GPT's blocks. Here 64 random bits serve
four elements, so a rate is rounded to a multiple of 2⁻¹⁶ (0.1 becomes 0.100006, and the scale follows the rounded
rate). Other devices use torch's own kernels. All random numbers come from torch's global generator, which the trainer
seeds at every step.

A process that trains on some rows of a batch draws the bits of the whole batch and uses those of its rows
(`rows_of_batch`). Its masks are then those of a process that trains on the whole batch. torch's kernels cannot do so.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.model.dispatch import use_cpu_kernels

_LEVELS = 1 << 16  # of a rate: 16 bits decide on each element

_WHOLE: Final = (slice(0, 1), 1)  # one part of one
_rows: ContextVar[tuple[slice, int]] = ContextVar("rows", default=_WHOLE)


@contextlib.contextmanager
def rows_of_batch(rows: slice, of: int) -> Iterator[None]:
    """Inside, the inputs are these rows of a batch of `of` rows; `dropout_mask` gives their part of its masks."""
    token = _rows.set((rows, of))
    try:
        yield
    finally:
        _rows.reset(token)


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Zero each element with probability `rate` and scale the rest by 1 / (1 - rate), in training only."""
    if not training or rate == 0:
        return x
    if use_cpu_kernels(x):
        return x * dropout_mask(x, rate)
    return F.dropout(x, rate, training)


def dropout_mask(like: Tensor, rate: float) -> Tensor:
    """A float32 tensor of the shape of `like`: 0 with probability `rate`, else 1 / (1 - rate)."""
    threshold = min(round(rate * _LEVELS), _LEVELS - 1)
    rows, of = _rows.get()
    each = like.numel() // (rows.stop - rows.start)  # elements per row of the batch
    drawn = torch.empty((each * of + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    bits = drawn[each * rows.start : each * rows.stop]
    return (bits >= threshold - _LEVELS // 2).to(torch.float32).mul_(_LEVELS / (_LEVELS - threshold)).view(like.shape)


def causal_attention(query: Tensor, key: Tensor, value: Tensor, rate: float) -> Tensor:
    """softmax(query · keyᵀ / √D + causal mask), dropout with `rate`, · value; all (B, H, T, D).

    torch's fused CPU kernel has no dropout. Its unfused one draws a float for every weight, and looks for rows without
    any allowed position, which a causal mask never has.
    """
    if rate == 0 or not use_cpu_kernels(query):
        return F.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
    length, dim = query.shape[-2:]
    mask = torch.full((length, length), -math.inf).triu_(1)
    queries, keys, values = (part.reshape(-1, length, dim) for part in (query, key, value))
    weights = torch.baddbmm(mask, queries, keys.transpose(1, 2), alpha=1 / math.sqrt(dim)).softmax(-1)  # (B·H, T, T)
    return torch.bmm(weights * dropout_mask(weights, rate), values).view(query.shape)
