"""The code inside a worker process: trains the jobs that it receives and reports events.

Every way in which a run can end becomes one outcome and one reason. After SIGTERM, which clusters send before they
take a machine back, the worker finishes the current step, saves the state, reports it and exits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import psutil

from harness.config.run import DataConfig
from harness.core import metrics
from harness.core.disk import disk_error
from harness.core.gc_pause import gc_paused_for_imports
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.data import Dataset, open_dataset
from harness.workers.messages import TERMINAL_SIGNALS, Exiting, Finished, Heartbeat, Job, Progress, Started, Stop

if TYPE_CHECKING:
    from harness.training.evaluation import Evaluation

_HEARTBEAT_SECONDS = 1.0  # between two heartbeats
_DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # no space on the disk, the process's limit, the user's quota
_PARENT_DIED = (EOFError, BrokenPipeError, ConnectionResetError)


def run_worker(connection: Connection, index: int, threads: int) -> None:
    """The main function of a worker process: trains job after job until the parent dies or SIGTERM arrives.

    Args:
        connection: to the parent: receives `Job` and `Stop`, sends events, `Heartbeat` and `Exiting`.
        index: of the worker, which is also the index of its GPU.
        threads: CPU threads.
    """
    for number in TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)  # the pool has blocked them for the start
    control = _Control(connection)
    with gc_paused_for_imports():  # torch and the trainer, before the first job arrives
        import torch

        import harness.training.trainer  # noqa: F401

    torch.set_num_threads(threads)
    cache = _Cache()
    with contextlib.suppress(*_PARENT_DIED):
        while not control.terminated:
            message = connection.recv()
            if isinstance(message, Job):
                control.job = message
                finished = _train(message, control, index, cache)
                if control.terminated:
                    connection.send(Exiting())
                connection.send(finished)
                control.job = None
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            stream.flush()
    os._exit(0)  # skips the interpreter's shutdown, which takes 1.6 s with torch


def _train(job: Job, control: _Control, index: int, cache: _Cache) -> Finished:
    """Train one job and send its points; every exception becomes an outcome, unless the parent has died."""
    import torch

    from harness.training.devices import describe, release_memory, resolve_device
    from harness.training.trainer import train

    connection = control.connection
    process = psutil.Process()
    process.cpu_percent()  # the first call starts the measurement
    try:
        device = resolve_device(job.config.train, index)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # memory statistics and release_memory() use the current device

        def on_start(step: int, warning: str) -> None:
            connection.send(Started(job.id, describe(device), step, warning))

        points = train(
            job.config,
            cache.dataset(job.config.data),
            read_test=job.read_test,
            common_context=job.common_context,
            checkpoint=job.checkpoint,
            device_index=index,
            state=job.state,
            after=job.after,
            on_start=on_start,
            stop=control.should_stop,
            step0_cache=cache.step0,
        )
        with contextlib.closing(points):  # saves the state if the parent has died and send() raises
            for point in points:
                connection.send(Progress(job.id, _with_system_metrics(point, process)))
        return Finished(job.id, Outcome.COMPLETE)
    except _PARENT_DIED:
        raise
    except Exception as error:
        return _finished_with(error, job, control)
    finally:
        release_memory()


def _finished_with(error: Exception, job: Job, control: _Control) -> Finished:
    """The outcome and reason of a job that ended with an exception."""
    import torch

    from harness.training.errors import Diverged, Stopped

    if isinstance(error, Stopped):
        reason = "stopped by SIGTERM" if control.terminated else "stopped by the sweep"
        return Finished(job.id, Outcome.INTERRUPTED, reason, lost=control.terminated)
    if isinstance(error, Diverged):
        return Finished(job.id, Outcome.DIVERGED, str(error))
    text = str(error)
    reason = f"{type(error).__name__}: {text}".splitlines()[0]
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return Finished(job.id, Outcome.OOM, reason)
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        reason = disk_error(error)
    trace = "".join(traceback.format_exception(error))
    return Finished(job.id, Outcome.FAILED, f"{reason}\n{trace}")


def _with_system_metrics(point: Point, process: psutil.Process) -> Point:
    """Add CPU and memory use to a point of an evaluation; other points are too many."""
    import torch

    if not point.evaluated:
        return point
    system = {
        metrics.SYSTEM_CPU_PERCENT: process.cpu_percent(),
        metrics.SYSTEM_MEMORY_MB: process.memory_info().rss / 1e6,
    }
    if torch.cuda.is_available():
        system[metrics.SYSTEM_GPU_MEMORY_MB] = torch.cuda.max_memory_allocated() / 1e6
    return dataclasses.replace(point, metrics={**point.metrics, **system})


class _Control:
    """Tells the trainer whether to stop, and the parent that the job makes progress.

    The trainer calls `should_stop` after every step and batch of an evaluation, so it takes microseconds.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.job: Job | None = None  # the running one
        self.terminated = False  # whether SIGTERM arrived during a job
        self._last_heartbeat = time.monotonic()
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, _number: int, _frame: object) -> None:
        if self.job is None:
            raise SystemExit(128 + signal.SIGTERM)
        self.terminated = True

    def should_stop(self) -> bool:
        """Whether SIGTERM or a `Stop` for this job has arrived, or the parent has died; sends heartbeats."""
        try:
            while not self.terminated and self.connection.poll():
                if self.job is not None and self.connection.recv() == Stop(self.job.id):
                    return True
            if time.monotonic() - self._last_heartbeat > _HEARTBEAT_SECONDS:
                self.connection.send(Heartbeat())
                self._last_heartbeat = time.monotonic()
        except (EOFError, OSError):
            return True
        return self.terminated


@dataclass
class _Cache:
    """Objects that a worker reuses for later jobs: open datasets, and evaluations of untrained models (see `train`)."""

    datasets: dict[DataConfig, Dataset] = field(default_factory=dict)
    step0: dict[str, Evaluation] = field(default_factory=dict)

    def dataset(self, config: DataConfig) -> Dataset:
        """The dataset of a config, opened once."""
        if config not in self.datasets:
            self.datasets[config] = open_dataset(config, compare=False)
        return self.datasets[config]
