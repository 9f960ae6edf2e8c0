"""Inside of one worker process: it trains what it is given and says what happens.

Every way in which a run can end becomes one outcome and one reason. SIGTERM, which clusters send before they take a
machine back, is one of them: the step that runs is finished, the state saved and said, and the process ends.
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
from harness.core.gc_pause import importing
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.data import Dataset, open_dataset
from harness.workers.messages import Alive, Finished, Job, Leaving, Progress, Started, Stop

if TYPE_CHECKING:
    from harness.training.evaluation import Measured

_ALIVE_SECONDS = 1.0  # how often the parent hears that a job gets on
_NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # on the disk, under the process's limit, under the user's quota


class _Orders:
    """Whether a worker's job is to go on: asked after every step, so it costs microseconds.

    Being asked shows that the job gets on, which the parent is told now and then.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.job: Job | None = None
        self.terminated = False
        self._said = time.monotonic()
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self.job is None:
            raise SystemExit(128 + signal.SIGTERM)
        self.terminated = True

    def stop(self) -> bool:
        """Whether somebody wants the job to end: SIGTERM, the parent, or the parent's death."""
        try:
            while not self.terminated and self.connection.poll():
                if self.job is not None and self.connection.recv() == Stop(self.job.id):
                    return True
            if time.monotonic() - self._said > _ALIVE_SECONDS:
                self.connection.send(Alive())
                self._said = time.monotonic()
        except (EOFError, OSError):
            return True
        return self.terminated


@dataclass
class _Memory:
    """What a worker keeps from run to run: open corpora, and what untrained models were measured to be."""

    datasets: dict[DataConfig, Dataset] = field(default_factory=dict)
    step0_cache: dict[str, Measured] = field(default_factory=dict)

    def dataset(self, config: DataConfig) -> Dataset:
        """The tokens, opened once."""
        if config not in self.datasets:
            self.datasets[config] = open_dataset(config)
        return self.datasets[config]


def work(connection: Connection, index: int, threads: int) -> None:
    """The life of a worker process: one job after the other, until the parent is gone or SIGTERM comes.

    Args:
        connection: to the parent; jobs and stops come in, events go out.
        index: of the worker, and so of its GPU.
        threads: CPU threads.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = _Orders(connection)
    with importing():  # while the parent opens its stores
        import torch

        import harness.training.trainer  # noqa: F401 (the first job needs it)

    torch.set_num_threads(threads)
    memory = _Memory()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone: nothing to do
        while not orders.terminated:
            message = connection.recv()
            if isinstance(message, Job):
                orders.job = message
                finished = _train(message, orders, index, memory)
                if orders.terminated:
                    connection.send(Leaving())
                connection.send(finished)
                orders.job = None
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # everything is said and saved: to take torch apart piece by piece would take 1.6 s more


def _train(job: Job, orders: _Orders, index: int, memory: _Memory) -> Finished:
    import torch

    from harness.training.devices import describe, release_memory, resolve_device
    from harness.training.errors import Diverged, Stopped
    from harness.training.trainer import train

    connection = orders.connection
    process = psutil.Process()
    process.cpu_percent()  # the first call only starts the measurement
    try:
        device = resolve_device(job.config.train, index)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # what is measured and freed below is this device's

        def began(step: int, note: str) -> None:
            connection.send(Started(job.id, describe(device), step, note))

        data = memory.dataset(job.config.data)
        points = train(
            job.config,
            data,
            read_test=job.read_test,
            common_context=job.common_context,
            checkpoint=job.checkpoint,
            device_index=index,
            state=job.state,
            after=job.after,
            began=began,
            stop=orders.stop,
            step0_cache=memory.step0_cache,
        )
        with contextlib.closing(points):  # a parent that is gone takes no points, but the state is worth saving
            for point in points:
                connection.send(Progress(job.id, _with_system_metrics(point, process)))
        return Finished(job.id, Outcome.COMPLETE)
    except Stopped:
        why = "stopped by SIGTERM" if orders.terminated else "stopped by the sweep"
        return Finished(job.id, Outcome.INTERRUPTED, why, lost=orders.terminated)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Diverged as error:
        return Finished(job.id, Outcome.DIVERGED, str(error))
    except Exception as error:
        text = str(error)
        out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text
        reason = f"{type(error).__name__}: {text}".splitlines()[0]
        if out_of_memory:
            return Finished(job.id, Outcome.OOM, reason)
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            reason = f"disk: {error.strerror}: {error.filename}"
        return Finished(job.id, Outcome.FAILED, f"{reason}\n{traceback.format_exc()}")
    finally:
        release_memory()


def _with_system_metrics(point: Point, process: psutil.Process) -> Point:
    """The point with what this process uses, at evaluations only: they are few and cheap to keep."""
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
