"""The ranks of a worker: processes that train every job together with it, see `harness.training.distributed`.

A worker of any kind is rank 0 of its runs. It starts the other ranks once, gives them each of its jobs, and reports for
all of them. If a rank fails or dies, the others cannot continue: the worker reports the cause and has to end, so that a
new one resumes the run from its state. Ranks end with their worker, also when it is killed.

A rank is started by `python -m harness.workers.rank`, since a worker may itself be a process that cannot fork or spawn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from pathlib import Path
from typing import Final

from harness.core.outcomes import Outcome
from harness.workers.job import Cache, Channel, import_trainer, train_job
from harness.workers.messages import Finished, Job
from harness.workers.node_job import train_on_node

_CAUSE_SECONDS: Final = 5.0  # how long to wait for another rank to say why it ended
_LOST_SECONDS: Final = 30.0  # how long a worker may take to notice that a rank has ended

# Ends that all ranks reach after the same step or batch, so they can train the next job.
_TOGETHER: Final = (Outcome.COMPLETE, Outcome.DIVERGED, Outcome.INTERRUPTED)


class WorkerRanks:
    """All ranks of a worker, which is rank 0 itself. With one rank, nothing is started.

    Imports torch and the trainer.

    Args:
        size: ranks of each run.
        index: of the worker, counted over all that see the same GPUs.
        threads: CPU threads of each rank.

    Attributes:
        broken: whether a rank has failed, so that the worker has to end.
    """

    def __init__(self, size: int, index: int, threads: int) -> None:
        self.broken = False
        self._first_device = index * size
        self._cache = Cache()
        self._others: list[_Rank] = []
        if size > 1:
            listener = socket.create_server(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            self._others = [_Rank(rank, size, port, threads) for rank in range(1, size)]
        import_trainer(threads)
        from harness.training.distributed import ALONE, join

        self._ranks = join(0, size, port, listener) if size > 1 else ALONE

    def train(self, job: Job, channel: Channel) -> Finished:
        """Train one job on all ranks; see `train_job` and `train_on_node`."""
        device = self._first_device
        for rank in self._others:
            rank.begin(job, device + rank.number)
        train = train_job if job.away is None else train_on_node
        own = train(job, channel, device, self._cache, self._ranks)
        if self._others and own.outcome not in _TOGETHER:
            self.broken = True
            return self._cause(own)
        ends = [rank.end(job.id) for rank in self._others]
        self.broken = any(end is None or end.outcome is not own.outcome for end in ends)
        return own

    def _cause(self, own: Finished) -> Finished:
        """Why a job failed: for another reason than the end of another rank."""
        if not own.lost:
            return own
        until = time.monotonic() + _CAUSE_SECONDS
        ends = [end for rank in self._others if (end := rank.end(own.job, until)) is not None]
        return next((end for end in ends if not end.lost), ends[0] if ends else own)


class _Rank:
    """Another rank than 0: its process and the pipe to it."""

    def __init__(self, number: int, size: int, port: int, threads: int) -> None:
        self.number = number
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
        self._connection, theirs = Pipe()
        numbers = map(str, (theirs.fileno(), os.getpid(), number, size, port, threads))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.workers.rank", *numbers],
            env={**os.environ, "PYTHONPATH": path},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()  # only the rank holds this end now, so its death closes the pipe
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self, job: Job, device: int) -> None:
        """Give the rank a job."""
        with contextlib.suppress(OSError):  # it has died: the first operation with it fails
            self._connection.send((job, device))

    def end(self, job: int, until: float | None = None) -> Finished | None:
        """How the rank ended a job; None if it has not until then, on `time.monotonic`."""
        try:
            if until is not None and not self._connection.poll(max(0.0, until - time.monotonic())):
                return None
            found: Finished = self._connection.recv()
            return dataclasses.replace(found, reason=f"rank {self.number}: {found.reason}")
        except (EOFError, OSError):
            code = self._process.wait()
            how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            reason = f"rank {self.number}, process {self._process.pid}, ended {how}"
            return Finished(job, Outcome.FAILED, reason, lost=True)

    def _watch(self) -> None:
        """End the worker if it does not by itself: a GPU waits without end for a rank that has died."""
        self._process.wait()
        time.sleep(_LOST_SECONDS)
        os._exit(1)
