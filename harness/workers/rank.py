"""The process of another rank than 0: `python -m harness.workers.rank`, started by `harness.workers.ranks`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Final

from harness.core.outcomes import Outcome
from harness.workers.job import Cache, import_trainer, train_job
from harness.workers.messages import TERMINAL_SIGNALS, Job, Note, Progress, Started

_PR_SET_PDEATHSIG: Final = 1  # of Linux's prctl


class _Silent:
    """The `Channel` of a rank that does not report: rank 0 does, and decides when to stop."""

    terminated = False

    def send(self, event: Started | Progress | Note) -> None:
        """Drop the event."""

    def should_stop(self) -> bool:
        """Never."""
        return False


def run_rank(connection: Connection, worker: int, rank: int, size: int, port: int, threads: int) -> None:
    """Train job after job together with the other ranks, until the worker ends or a job fails.

    Args:
        connection: to the worker: receives jobs, each with the index of a GPU, and sends how they ended.
        worker: its process id.
        rank, size, port: see `harness.training.distributed.join`.
        threads: CPU threads.
    """
    for number in (*TERMINAL_SIGNALS, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _end_with(worker)
    import_trainer(threads)
    from harness.training.distributed import join

    ranks = join(rank, size, port)
    cache = Cache()
    outcome = Outcome.COMPLETE
    while outcome not in (Outcome.FAILED, Outcome.OOM):
        job, device = connection.recv()
        assert isinstance(job, Job)
        if job.away is not None:
            cache.encoded[job.config.data.texts] = job.away.data
        finished = train_job(job, _Silent(), device, cache, ranks)
        connection.send(finished)
        outcome = finished.outcome


def _end_with(parent: int) -> None:
    """Let Linux kill this process when its parent ends, also while it is stopped or waits for a GPU.

    Elsewhere the closed pipe ends it, or the next operation with the other ranks.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before
        raise EOFError


if __name__ == "__main__":
    descriptor, *numbers = map(int, sys.argv[1:])
    with contextlib.suppress(EOFError, OSError):  # the worker has ended
        run_rank(Connection(descriptor), *numbers)
    os._exit(0)  # skips the interpreter's shutdown, as the worker does
