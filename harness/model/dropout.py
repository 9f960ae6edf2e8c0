"""Dropout, and attention with dropout, as fast as the CPU allows.

torch draws one float for every element, which took a sixth of a small GPT's blocks. Here 64 random bits serve four
elements, so a rate is rounded to a multiple of 2⁻¹⁶ (0.1 becomes 0.100006, and what is kept is scaled accordingly).
On other devices torch's own kernels are used. All bits come from torch's global generator, which the trainer seeds anew
for every step.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.model.dispatch import is_plain

_STEPS = 1 << 16  # of a rate: 16 bits decide on an element


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Zero each element with probability `rate` and scale the rest by 1 / (1 - rate), in training only."""
    if not training or rate == 0:
        return x
    if is_plain(x):
        return x * kept(x, rate)
    return F.dropout(x, rate, training)


def kept(like: Tensor, rate: float) -> Tensor:
    """A float32 tensor of `like`'s shape: 0 with probability `rate`, else 1 / (1 - rate)."""
    threshold = min(round(rate * _STEPS), _STEPS - 1)
    count = like.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    return (bits >= threshold - _STEPS // 2).to(torch.float32).mul_(_STEPS / (_STEPS - threshold)).view(like.shape)


def causal_attention(query: Tensor, key: Tensor, value: Tensor, rate: float) -> Tensor:
    """softmax(query · keyᵀ / √D + causal mask), dropout with `rate`, · value; all (B, H, T, D).

    With dropout, torch's fused kernel for the CPU does not work, and its composed one draws a float for every weight
    and looks for rows without any allowed position, which a causal mask never has.
    """
    if rate == 0 or not is_plain(query):
        return F.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
    length, dim = query.shape[-2:]
    mask = torch.full((length, length), -math.inf).triu_(1)
    queries, keys, values = (part.reshape(-1, length, dim) for part in (query, key, value))
    weights = torch.baddbmm(mask, queries, keys.transpose(1, 2), alpha=1 / math.sqrt(dim)).softmax(-1)  # (B·H, T, T)
    return torch.bmm(weights * kept(weights, rate), values).view(query.shape)
