"""Data parallelism: several processes, one per GPU, train one run together. torch.distributed calls them ranks.

Every rank holds the whole model, trains on its rows of each batch and makes the same update. The gradient of the whole
batch is the sum of the ranks' gradients, each weighted by the rank's share of the batch. So the numbers are those of
one process up to the order of summation, except for dropout by torch's own kernels (`Run.seed_dropout`). Rank 0 alone
decides when a run ends, generates samples, and reads and writes states and checkpoints. Its points are the run's.

Gradients are summed after the backward pass, in buckets that never change. `DistributedDataParallel` sums them during
the backward pass, but it fills its buckets in another order in the first step of a process than later on. A sum over
three or more ranks then has another order too, so a resumed run would not be bit-equal. It also takes the mean over
ranks, which is wrong for shares of different sizes.

Everything runs on one machine and listens on the loopback interface only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

LOOPBACK: Final = "127.0.0.1"
BUCKET_NUMBERS: Final = 1 << 24  # numbers in a bucket of gradients: 64 MB
# How long a rank waits for another one. A pool of workers replaces a worker that hangs long before.
_TIMEOUT: Final = timedelta(hours=2)
_JOIN_TIMEOUT: Final = timedelta(minutes=10)  # how long ranks may take to start


class RankLost(RuntimeError):
    """Another rank has ended, so this one cannot continue."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train one run together, seen from one of them. One process needs no `join`.

    All ranks must call the same methods in the same order. With one rank, no method does anything.

    Attributes:
        rank: of this process; 0 decides.
        size: number of ranks.
    """

    rank: int = 0
    size: int = 1

    def share(self, rows: int) -> slice:
        """This rank's rows of a batch. The shares of two ranks differ by one row at most; some may be empty."""
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def agree(self, *values: float) -> Sequence[float]:
        """The values of rank 0, on every rank.

        Raises:
            RankLost: another rank has ended. The same holds for all methods below.
        """
        if self.size == 1:
            return values
        agreed = torch.tensor(values, dtype=torch.float64)
        with _lost_ranks():
            dist.broadcast(agreed, 0)
        found: list[float] = agreed.tolist()
        return found

    def decide(self, answer: bool) -> bool:
        """The answer of rank 0, on every rank."""
        return answer if self.size == 1 else bool(self.agree(answer)[0])

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of rank 0, which have the same shapes."""
        if self.size > 1:
            with _lost_ranks():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks of a tensor on the CPU, added in the order of the ranks."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with _lost_ranks():
            dist.all_gather(parts, tensor)
        return torch.stack(parts).sum(0)

    def sum_gradients(self, parameters: Iterable[Tensor], loss: Tensor) -> Tensor:
        """Replace each gradient by its sum over all ranks. A missing gradient counts as zero.

        Args:
            parameters: of the model, in the same order on every rank.
            loss: a number of this rank.

        Returns:
            The sum of `loss` over all ranks.
        """
        if self.size == 1:
            return loss
        total = loss.detach().clone()
        sums = [total]
        for bucket in _buckets(parameters):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            for parameter, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.grad = part.view_as(parameter)
            sums.append(flat)
        with _lost_ranks():
            for work in [dist.all_reduce(each, async_op=True) for each in sums]:
                work.wait()
        return total


ALONE: Final = Ranks()


def join(rank: int, size: int, port: int, listener: socket.socket | None = None) -> Ranks:
    """Connect this process with the other ranks of a group; returns once all of them have called it.

    Tensors on the CPU travel by gloo, those on a GPU by NCCL.

    Args:
        rank, size: see `Ranks`.
        port: on the loopback interface, where rank 0 listens while the ranks connect.
        listener: rank 0's listening socket on that port, which this function takes over; None on other ranks.
    """
    loopback = "lo" if sys.platform == "linux" else "lo0"
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ[variable] = loopback
    handle = None if listener is None else listener.detach()
    store = dist.TCPStore(  # type: ignore[attr-defined]
        LOOPBACK, port, size, rank == 0, _JOIN_TIMEOUT, wait_for_workers=False, master_listen_fd=handle
    )
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    ranks = Ranks(rank, size)
    ranks.agree(0.0)
    return ranks


@contextlib.contextmanager
def _lost_ranks() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankLost(f"another rank has ended: {str(error).splitlines()[0]}") from error


def _buckets(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The parameters in parts of at most `BUCKET_NUMBERS` numbers; a larger parameter is a part of its own."""
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > BUCKET_NUMBERS:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket
