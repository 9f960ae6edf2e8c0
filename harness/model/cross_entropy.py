"""The cross-entropy of a linear head on the CPU, with few logits at once and no more work than the products need.

The head of a small GPT is most of its work: logits (N, V) = features (N, C) · weightᵀ (C, V), with V = 50257 for
GPT-2's vocabulary. Whole logits are written to memory and read again several times. Here a block of rows meets a
block of the vocabulary, so that logits are exponentiated and summed while they are still in the processor's cache, as
in Wijmans et al. 2024, "Cut your losses in large-vocabulary language models". Of the exponentials one block of rows
is kept, for the weight's gradient. Exponentials are taken without subtracting each row's largest logit, which is
known too late; where they leave float32's comfortable range, the rows are computed anew by torch's own functions.

They are taken as powers of two, exp(x · w) = 2^((x · log₂e) · w), which torch computes in half the time of exp.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness.core.hardware import processor_name

# Sizes of a block. Seen on two cores with 1 MB of second-level cache each, V = 50257 and C = 64, 128, 768: 1.2 to 1.5
# times as fast as `torch.nn.functional.linear_cross_entropy` in its best setting. Where a core has AVX-512, and with it
# 1 to 2 MB of cache, 320 to 768 columns are within 3 %, but for the power of two, whose rows lie in the same places of
# the cache.
_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
_AMD = "AMD" in processor_name()
ROWS = 512
VOCABULARY = 512 if not _AVX512 else 640 if _AMD else 320

# Whether exponentials that are kept are computed where they are kept, which is not in cache: on a Xeon faster by a
# twentieth, on a Zen 4 slower by as much.
_IN_PLACE = not _AMD

# Features from which on the weight's gradient is a faster product as it stands than transposed and copied: by MKL's
# products for AVX-512 on AMD's processors always.
_WIDE = 0 if _AVX512 and _AMD else 192
_GPU_MULTIPLE = 64

_LOG2_E = math.log2(math.e)

_SAFE_SUMS = (1e-30, 1e30)  # of exponentials over the vocabulary: far from where float32 underflows or overflows


class _Scratch(threading.local):
    """Memory that is used again at every call: fresh memory costs a page fault for every 4 kB."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def take(self, size: int) -> Tensor:
        """`size` float32 numbers, uninitialised, until the next call."""
        if len(self._memory) < size:
            self._memory = torch.empty(size)
        return self._memory[:size]


_scratch = _Scratch()


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The mean negative log probability of `targets` under softmax(x · weightᵀ), in nats; differentiable once.

    Args:
        x: features, (N, C) float32 on the CPU.
        weight: of the head, (V, C) float32.
        targets: token ids, (N,) int64.
    """
    loss: Tensor = _LinearCrossEntropy.apply(x, weight, targets)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_losses(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The negative log probability of each target, (N,) float32, in nats; for arguments as above, without gradients."""
    losses = []
    for rows, wanted in zip(x.split(ROWS), targets.split(ROWS), strict=True):
        logits = _scratch.take(len(rows) * VOCABULARY)
        sums, scaled = rows.new_zeros(len(rows)), rows * _LOG2_E
        for part in weight.split(VOCABULARY):
            sums += _exponentials(scaled, part, logits, logits).sum(1)
        if _safe(sums):
            losses.append(sums.log() - _target_logits(rows, weight, wanted))
        else:
            losses.append(F.cross_entropy(rows @ weight.T, wanted, reduction="none"))
    return torch.cat(losses)


def padded_logits(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ in float32 by a product whose V is a multiple of 64: what a GPU's matrix units are fastest at.

    No loss knows of the columns that are added. Launched by itself, the result (N, V) leaves them out. Compiled, they
    are there with a logit of minus infinity: rows of a multiple of 64 are read faster, and nothing is written for it.
    """
    size = len(weight)
    missing = -size % _GPU_MULTIPLE
    logits = F.linear(x, F.pad(weight, (0, 0, 0, missing)))
    if not torch.compiler.is_compiling():
        return logits[:, :size].float()
    return torch.where(torch.arange(size + missing, device=x.device) < size, logits.float(), -math.inf)


class _LinearCrossEntropy(torch.autograd.Function):
    """Forward computes the gradients too: the exponentials are at hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        count, size = len(x), len(weight)
        grad_x, grad_weight = torch.zeros_like(x), torch.empty_like(weight)
        nats = x.new_zeros(())
        for start in range(0, count, ROWS):
            rows, wanted, grad = x[start : start + ROWS], targets[start : start + ROWS], grad_x[start : start + ROWS]
            sums, scaled = rows.new_zeros(len(rows)), rows * _LOG2_E
            logits, *kept = _scratch.take(len(rows) * (VOCABULARY + size)).split(len(rows) * VOCABULARY)
            for memory, part in zip(kept, weight.split(VOCABULARY), strict=True):
                exponentials = _exponentials(scaled, part, memory if _IN_PLACE else logits, memory)
                sums += exponentials.sum(1)
                grad.addmm_(exponentials, part)  # Σ over the vocabulary of exp(logit) · weight
            if not _safe(sums):
                loss, ctx.grad_x, ctx.grad_weight = _by_torch(x, weight, targets)
                return loss
            nats += (sums.log() - _target_logits(rows, weight, wanted)).sum()
            # d loss / d logits = (exp(logit) / sum - [target]) / count
            grad.div_(sums[:, None]).sub_(weight[wanted]).div_(count)
            normed = rows / (sums[:, None] * count)
            for memory, part in zip(kept, grad_weight.split(VOCABULARY), strict=True):
                _add_product(part, memory.view(len(rows), -1), normed, first=start == 0)
            grad_weight.index_add_(0, wanted, rows, alpha=-1 / count)
        ctx.grad_x, ctx.grad_weight = grad_x, grad_weight
        return nats / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        grad_x, grad_weight = ctx.grad_x, ctx.grad_weight
        del ctx.grad_x, ctx.grad_weight  # autograd copies a gradient that somebody else holds, and the weight is large
        factor = grad.item()
        if factor != 1.0:  # it is 1 where the loss is what is differentiated
            return grad_x.mul_(factor), grad_weight.mul_(factor), None
        return grad_x, grad_weight, None


def _add_product(part: Tensor, exponentials: Tensor, rows: Tensor, first: bool) -> None:
    """exponentialsᵀ · rows, (part, C), is what `part` is, or what is added to it."""
    if rows.shape[1] >= _WIDE:
        part.addmm_(exponentials.T, rows, beta=0 if first else 1)
        return
    product = torch.mm(rows.T, exponentials).T
    part.copy_(product) if first else part.add_(product)


def _exponentials(rows: Tensor, part: Tensor, logits: Tensor, memory: Tensor) -> Tensor:
    """2^(rows · partᵀ), (rows, part), in `memory`; the product is written to `logits`, which may be the same.

    Memory in which exponentials are kept is not in cache. A product writes there now here, now there, exponentials from
    front to back; which is faster depends on the processor.
    """
    count, size = len(rows), len(rows) * len(part)
    product = torch.mm(rows, part.T, out=logits[:size].view(count, -1))
    return torch.exp2(product, out=memory[:size].view(count, -1))


def _target_logits(rows: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return (rows * weight[targets]).sum(1)


def _safe(sums: Tensor) -> bool:
    """Whether all sums are in float32's comfortable range; NaN is not."""
    low, high = _SAFE_SUMS
    return bool(((sums > low) & (sums < high)).all())


def _by_torch(x: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and both gradients from whole logits, whatever their size."""
    with torch.enable_grad():
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        loss = F.cross_entropy(x @ weight.T, targets)
        grad_x, grad_weight = torch.autograd.grad(loss, (x, weight))
    return loss.detach(), grad_x, grad_weight
