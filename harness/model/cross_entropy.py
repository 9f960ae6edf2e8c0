"""The cross-entropy of a linear head: `linear_cross_entropy` chooses the path of the device.

The head of a small GPT is most of its work: logits (N, V) = features (N, C) · weightᵀ (C, V), with V = 50257 for
GPT-2's vocabulary. Full logits are written to memory and read again several times. The CPU path works on blocks: a
block of rows meets a block of the vocabulary, and its logits are exponentiated and summed while they are in the
processor's cache, as in Wijmans et al. 2024, "Cut your losses in large-vocabulary language models". The exponentials of
one block of rows are kept for the weight's gradient. They are taken without subtracting each row's largest logit, which
is known too late; where they overflow or underflow float32, torch's own functions compute the batch again.

Exponentials are computed as powers of two, exp(x · w) = 2^((x · log₂e) · w): `exp2` takes half the time of `exp`.
"""

from __future__ import annotations

import math
import threading
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness.core.hardware import processor_name
from harness.data.batches import NO_TARGET
from harness.model.dispatch import use_cpu_kernels

# Block sizes. Measured on two cores with 1 MB of L2 cache each, V = 50257 and C = 64, 128, 768: 1.2 to 1.5 times as
# fast as `torch.nn.functional.linear_cross_entropy` in its best setting. On cores with AVX-512 (1 to 2 MB of L2) 320 to
# 768 columns differ by at most 3 %, except 512: rows of a power of two collide in the cache.
_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
_AMD = "AMD" in processor_name()
ROWS = 512
VOCABULARY = 512 if not _AVX512 else 640 if _AMD else 320

# Whether the GEMM writes its logits directly to the memory that keeps the exponentials, which is not in cache. That is
# 5 % faster on a Xeon and 5 % slower on a Zen 4.
_IN_PLACE = not _AMD

# From this many features on, the weight's gradient is faster as a direct product than as a transposed product that is
# copied. With MKL's AVX-512 kernels on AMD it always is.
_WIDE = 0 if _AVX512 and _AMD else 192

_GPU_MULTIPLE = 64
_UNREDUCED_ROWS = {"cpu": 256, "cuda": 8192, "mps": 8192}  # rows of full logits held at once, without reduction

_LOG2_E = math.log2(math.e)

_SAFE_SUMS = (1e-30, 1e30)  # sums of exponentials over the vocabulary, far from float32's underflow and overflow


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, reduction: Literal["mean", "none"] = "mean"
) -> Tensor:
    """The negative log probability of `targets` under softmax(x · weightᵀ), in nats.

    Args:
        x: features, (N, C).
        weight: weight of the head, (V, C).
        targets: token ids, (N,) int64. The mean leaves out rows with `NO_TARGET`, which not all may have.
        reduction: `mean` gives a scalar, differentiable once. `none` gives (N,) float32, holds few logits at once and
            must be called without gradients and `NO_TARGET`.
    """
    if use_cpu_kernels(x):
        if not (kept := targets != NO_TARGET).all():
            x, targets = x[kept], targets[kept]
        return _blockwise_mean(x, weight, targets) if reduction == "mean" else _blockwise_losses(x, weight, targets)
    if reduction == "none":
        rows = _UNREDUCED_ROWS[x.device.type]
        losses = [
            F.cross_entropy(F.linear(part, weight).float(), wanted, reduction="none")
            for part, wanted in zip(x.split(rows), targets.split(rows), strict=True)
        ]
        return torch.cat(losses)
    if x.device.type == "cuda":
        return F.cross_entropy(padded_logits(x, weight), targets)
    return F.cross_entropy(F.linear(x, weight).float(), targets)


def padded_logits(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ in float32 with V padded to a multiple of 64, which a GPU's matrix units compute fastest.

    The padding never changes the loss. Run eagerly, the result (N, V) leaves the padding out. Compiled, the padding
    stays, with logits of minus infinity: aligned rows are read faster, and the padding is never written to memory.
    """
    size = len(weight)
    missing = -size % _GPU_MULTIPLE
    logits = F.linear(x, F.pad(weight, (0, 0, 0, missing)))
    if not torch.compiler.is_compiling():
        return logits[:, :size].float()
    return torch.where(torch.arange(size + missing, device=x.device) < size, logits.float(), -math.inf)


class _Scratch(threading.local):
    """Memory that every call reuses: fresh memory costs a page fault for every 4 kB."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def take(self, size: int) -> Tensor:
        """`size` float32 numbers, uninitialised, valid until the next call."""
        if len(self._memory) < size:
            self._memory = torch.empty(size)
        return self._memory[:size]


_scratch = _Scratch()


def _blockwise_mean(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    loss: Tensor = _BlockwiseCrossEntropy.apply(x, weight, targets)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def _blockwise_losses(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
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


class _BlockwiseCrossEntropy(torch.autograd.Function):
    """The forward pass computes the gradients too, since it has the exponentials that they need."""

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
        del ctx.grad_x, ctx.grad_weight  # else autograd would copy the gradients instead of taking them
        factor = grad.item()
        if factor != 1.0:  # it is 1 where the loss itself is differentiated
            return grad_x.mul_(factor), grad_weight.mul_(factor), None
        return grad_x, grad_weight, None


def _add_product(part: Tensor, exponentials: Tensor, rows: Tensor, first: bool) -> None:
    """Add exponentialsᵀ · rows, (part, C), to `part`; the first block overwrites it."""
    if rows.shape[1] >= _WIDE:
        part.addmm_(exponentials.T, rows, beta=0 if first else 1)
        return
    product = torch.mm(rows.T, exponentials).T
    part.copy_(product) if first else part.add_(product)


def _exponentials(rows: Tensor, part: Tensor, logits: Tensor, memory: Tensor) -> Tensor:
    """2^(rows · partᵀ), (rows, part), in `memory`; the product goes to `logits`, which may be the same memory.

    Memory that keeps exponentials is not in cache. The GEMM writes out of order, `exp2` writes sequentially; which of
    the two should write there depends on the processor.
    """
    count, size = len(rows), len(rows) * len(part)
    product = torch.mm(rows, part.T, out=logits[:size].view(count, -1))
    return torch.exp2(product, out=memory[:size].view(count, -1))


def _target_logits(rows: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return (rows * weight[targets]).sum(1)


def _safe(sums: Tensor) -> bool:
    """Whether all sums are well inside float32's range; false for NaN."""
    low, high = _SAFE_SUMS
    return bool(((sums > low) & (sums < high)).all())


def _by_torch(x: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and both gradients from full logits, of whatever size they are."""
    with torch.enable_grad():
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        loss = F.cross_entropy(x @ weight.T, targets)
        grad_x, grad_weight = torch.autograd.grad(loss, (x, weight))
    return loss.detach(), grad_x, grad_weight
