"""Where trials train: local processes that live as long as the sweep and stream points back.

A worker imports torch once, trains one job at a time and talks to nobody but its parent, over one pipe. The parent
never waits for a worker to answer; a worker whose parent is gone ends by itself, and one that gets no further is
ended. A job that has a folder for its state can be given again, to any worker, and goes on; told to stop, by its
parent or by SIGTERM, a worker first saves the state. What happens inside of the process is in
`harness.workers.process`.
Importing this module imports no torch.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final

from harness.core.outcomes import Outcome
from harness.workers.messages import Alive, Event, Finished, Job, Leaving, Stop

# glibc gives every fresh 100 MB tensor of logits back to the kernel and faults it in again, which was 40 % of all
# CPU time of small models; with these the same losses, bit for bit, came 2.4 times faster. They are read when a
# process starts, so a worker is started with them. Elsewhere than on glibc they mean nothing.
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "THP_MEM_ALLOC_ENABLE": "1",
}
_STOPPED_SECONDS: Final = 5.0  # without a look at the workers: this process did not run
FIRST_WORD_SECONDS: Final = 120.0  # that a new worker gets at least, to import torch and open its data


@dataclass
class _Worker:
    index: int
    process: BaseProcess
    connection: Connection
    job: Job | None = None
    leaving: bool = False
    heard: float = field(default_factory=time.monotonic)  # when it last said something or was given a job
    spoke: bool = False


class Pool:
    """A fixed number of workers, started when they are first needed and replaced when they die.

    Args:
        workers: processes at most.
        threads: CPU threads of each. One by default: two processes of one thread did 1.2 times the work of one of
            two, and results do not depend on the number of cores.
        patience: seconds after which a worker that did no step and no batch of an evaluation is ended.
    """

    def __init__(self, workers: int, threads: int = 1, patience: float = math.inf) -> None:
        self.size = workers
        self.threads = threads
        self.patience = patience
        self._looked = time.monotonic()
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, _Worker] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def free(self) -> int:
        """How many more jobs can be submitted now."""
        return self.size - sum(worker.job is not None for worker in self._workers.values())

    def warm(self, jobs: int) -> None:
        """Start as many workers as so many jobs will need: to import torch takes them seconds."""
        for _ in range(len(self._workers), min(jobs, self.size)):
            self._start()

    def submit(self, job: Job) -> None:
        """Give a job to a free worker."""
        assert self.free > 0
        idle = [worker for worker in self._workers.values() if worker.job is None]
        for worker in idle:
            if not worker.process.is_alive():
                self._buried(worker)
        living = [worker for worker in idle if worker.index in self._workers]
        worker = living[0] if living else self._start()
        worker.job, worker.heard = job, time.monotonic()
        with contextlib.suppress(OSError):  # it died just now: events() will say so
            worker.connection.send(job)

    def stop(self, job: int) -> None:
        """Tell the worker of a job to stop after its step; it saves the state and says Finished(INTERRUPTED)."""
        for worker in self._workers.values():
            if worker.job is not None and worker.job.id == job:
                with contextlib.suppress(OSError):
                    worker.connection.send(Stop(job))

    def events(self, timeout: float) -> list[Event]:
        """What workers said, waiting up to `timeout` seconds for the first.

        The job of a worker that died, or was ended for getting no further, is FAILED and `lost`.
        """
        by_connection = {worker.connection: worker for worker in self._workers.values()}
        events: list[Event] = []
        for connection in wait(list(by_connection), timeout):
            assert isinstance(connection, Connection)
            worker = by_connection[connection]
            try:
                event: Event | Alive | Leaving = connection.recv()
            except (EOFError, OSError):
                events += self._buried(worker)
                continue
            worker.heard, worker.spoke = time.monotonic(), True
            if isinstance(event, Alive):
                continue
            if isinstance(event, Leaving):
                worker.leaving = True
                continue
            events.append(event)
            if isinstance(event, Finished):
                worker.job = None
                if worker.leaving:  # a job given to it now would be lost
                    self._buried(worker)
        return events + self._give_up_the_silent()

    def _give_up_the_silent(self) -> list[Event]:
        """End the workers whose jobs got no further for longer than `patience`."""
        now = time.monotonic()
        asleep, self._looked = now - self._looked, now
        events: list[Event] = []
        for worker in list(self._workers.values()):
            if asleep > max(
                _STOPPED_SECONDS, self.patience / 2
            ):  # this process was stopped, and its workers perhaps with it
                worker.heard = now
            patience = self.patience if worker.spoke else max(self.patience, FIRST_WORD_SECONDS)
            if worker.job is not None and now - worker.heard > patience and not worker.connection.poll():
                worker.process.kill()
                events += self._buried(worker, f"no progress for {now - worker.heard:.0f} s")
        return events

    def pids(self) -> dict[int, int]:
        """Process id of the worker of each running job."""
        return {w.job.id: w.process.pid or 0 for w in self._workers.values() if w.job is not None}

    def close(self, grace: float = 2.0) -> None:
        """End all workers: idle ones by closing their pipe, others by a signal after `grace` seconds."""
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

    def _start(self) -> _Worker:
        from harness.workers.process import work  # which needs this module's jobs and events

        index = next(i for i in range(self.size) if i not in self._workers)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(theirs, index, self.threads), daemon=True)
        with _environment({**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": str(self.threads)}), _interrupts_ignored():
            process.start()
        theirs.close()  # the worker's copy is then the only one, so its death ends the pipe
        worker = _Worker(index, process, ours)
        self._workers[index] = worker
        return worker

    def _buried(self, worker: _Worker, reason: str = "") -> list[Event]:
        worker.process.join(5)
        worker.connection.close()
        del self._workers[worker.index]
        if worker.job is None:
            return []
        code = worker.process.exitcode
        how = f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        reason = reason or f"worker process {worker.process.pid} ended {how}"
        return [Finished(worker.job.id, Outcome.FAILED, reason, lost=True)]


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started inside; what the user set stays."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let the processes started inside ignore Ctrl-C, which a terminal sends to all: stopping is the parent's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
