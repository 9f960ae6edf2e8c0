"""A pool of local worker processes, which live as long as the sweep.

A worker imports torch once, trains one job at a time and talks only to its parent, over one pipe. The parent never
blocks on a worker. A worker exits when its parent dies; the parent kills a worker that makes no progress. The code
inside the process is in `harness.workers.local_worker`. Importing this module imports no torch.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

from harness.core.environment import environment_defaults
from harness.core.outcomes import Outcome
from harness.workers.environment import terminal_signals_blocked, worker_environment
from harness.workers.messages import Event, Exiting, Finished, Heartbeat, Job, Stop
from harness.workers.waitable_queue import WaitableQueue

_STARTUP_SECONDS: Final = 120.0  # minimum patience with a new worker, which imports torch and opens its data
_SUSPENDED_SECONDS: Final = 5.0  # a longer gap between two checks means that this process was suspended
_EXIT_SECONDS: Final = 5.0  # wait for a process whose pipe is closed


@dataclass
class _Worker:
    index: int
    process: BaseProcess
    connection: Connection
    job: Job | None = None
    ready: bool = False  # whether it has sent anything since its start
    exiting: bool = False  # whether it takes no further job
    last_active: float = field(default_factory=time.monotonic)  # last message from it, or submission of its job


class LocalPool:
    """A `WorkerPool` of processes on this machine, started when needed and replaced when they die.

    Args:
        workers: maximum number of processes.
        threads: CPU threads per process. One by default: two processes with one thread each did 1.2 times the work of
            one process with two, and results do not depend on the number of cores.
        patience: seconds without a step or a batch of an evaluation after which a worker is killed.
        ranks: processes that train each run together, each on a GPU of its own if the run uses GPUs. A worker starts
            and ends those beside itself.
        own_group: give each worker a process group of its own, so that signals to the group of this process pass it by.
    """

    def __init__(
        self,
        workers: int,
        threads: int = 1,
        patience: float = math.inf,
        ranks: int = 1,
        own_group: bool = False,
    ) -> None:
        self.size = workers
        self.threads = threads
        self.patience = patience
        self.ranks = ranks
        self._own_group = own_group
        self._workers: dict[int, _Worker] = {}  # by index
        self._context = multiprocessing.get_context("spawn")
        self._last_check = time.monotonic()

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def free(self) -> int:
        """Jobs that can be submitted now."""
        return self.size - sum(worker.job is not None for worker in self._workers.values())

    def prestart(self, jobs: int) -> None:
        """Start the workers for this many jobs, so that they import torch in the meantime."""
        for _ in range(len(self._workers), min(jobs, self.size)):
            self._start_worker()

    def submit(self, job: Job) -> None:
        """Give a job to an idle worker, or to a new one."""
        assert self.free > 0
        worker = self._idle_worker() or self._start_worker()
        worker.job, worker.last_active = job, time.monotonic()
        with contextlib.suppress(OSError):  # the worker has just died: events() reports it
            worker.connection.send(job)

    def stop(self, job: int) -> None:
        """Ask a job to stop after its current step."""
        for worker in self._workers.values():
            if worker.job is not None and worker.job.id == job:
                with contextlib.suppress(OSError):
                    worker.connection.send(Stop(job))

    def events(self, timeout: float, *others: WaitableQueue[Any]) -> list[Event]:
        """New events, waiting up to `timeout` seconds for the first, or until one of the other queues has an item."""
        by_connection = {worker.connection: worker for worker in self._workers.values()}
        events: list[Event] = []
        for ready in wait([*by_connection, *(queue.fileno() for queue in others)], timeout):
            if isinstance(ready, Connection):
                events += self._receive(by_connection[ready])
        return events + self._kill_stalled()

    def pids(self) -> dict[int, int]:
        """Job id → process id, for running jobs."""
        return {w.job.id: w.process.pid or 0 for w in self._workers.values() if w.job is not None}

    def remove_states(self, run: str) -> None:
        """Nothing to do: the states are in the folders of the jobs only."""

    def close(self, grace: float = 2.0) -> None:
        """End all workers. Busy ones get SIGTERM; those that still run after `grace` seconds are killed."""
        for worker in self._workers.values():
            worker.connection.close()
            if worker.job is not None:
                worker.process.terminate()
        for worker in self._workers.values():
            worker.process.join(grace)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()

    def _idle_worker(self) -> _Worker | None:
        """A living worker without a job; removes dead ones."""
        for worker in [worker for worker in self._workers.values() if worker.job is None]:
            if worker.process.is_alive():
                return worker
            self._remove(worker)
        return None

    def _start_worker(self) -> _Worker:
        from harness.workers.local_worker import run_worker  # not needed for the environment alone

        index = next(i for i in range(self.size) if i not in self._workers)
        ours, theirs = self._context.Pipe()
        arguments = (theirs, index, self.threads, self.ranks, self._own_group)
        process = self._context.Process(target=run_worker, args=arguments, daemon=True)
        with (
            environment_defaults(worker_environment(self.threads)),
            terminal_signals_blocked(),
        ):
            process.start()
        theirs.close()  # only the worker holds this end now, so its death closes the pipe
        self._workers[index] = _Worker(index, process, ours)
        return self._workers[index]

    def _receive(self, worker: _Worker) -> list[Event]:
        """Read one message; a closed pipe means that the process has died."""
        try:
            message: Event | Heartbeat | Exiting = worker.connection.recv()
        except (EOFError, OSError):
            return self._remove(worker)
        worker.last_active, worker.ready = time.monotonic(), True
        if isinstance(message, Heartbeat):
            return []
        if isinstance(message, Exiting):
            worker.exiting = True
            return []
        if isinstance(message, Finished):
            worker.job = None
            if worker.exiting:
                self._remove(worker)
        return [message]

    def _kill_stalled(self) -> list[Event]:
        """Kill workers whose job has made no progress for longer than `patience`."""
        now = time.monotonic()
        suspended = now - self._last_check > max(_SUSPENDED_SECONDS, self.patience / 2)
        self._last_check = now
        events: list[Event] = []
        for worker in list(self._workers.values()):
            if suspended:  # perhaps the workers were too: give them time again
                worker.last_active = now
            silence = now - worker.last_active
            patience = self.patience if worker.ready else max(self.patience, _STARTUP_SECONDS)
            if worker.job is not None and silence > patience and not worker.connection.poll():
                worker.process.kill()
                events += self._remove(worker, f"no progress for {silence:.0f} s")
        return events

    def _remove(self, worker: _Worker, reason: str = "") -> list[Event]:
        """Remove a worker that has died or exits; its job, if it has one, is lost."""
        worker.process.join(_EXIT_SECONDS)
        worker.connection.close()
        del self._workers[worker.index]
        if worker.job is None:
            return []
        code = worker.process.exitcode
        how = f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        reason = reason or f"worker process {worker.process.pid} ended {how}"
        return [Finished(worker.job.id, Outcome.FAILED, reason, lost=True)]
