"""Trains one job inside a worker, whatever kind of process the worker is.

Every way in which a run can end becomes one outcome and one reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import psutil

from harness.config.run import DataConfig
from harness.core import metrics
from harness.core.disk import disk_error
from harness.core.gc_pause import gc_paused_for_imports
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.data import Dataset, open_dataset
from harness.data.encoded import EncodedData, open_encoded
from harness.workers.messages import Finished, Job, Note, Progress, Started

if TYPE_CHECKING:
    from harness.training.distributed import Ranks
    from harness.training.evaluation import Evaluation

_DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # no space on the disk, the process's limit, the user's quota


class ParentDied(Exception):
    """A job's channel leads to nobody any more: the job saves its state and ends."""


class Channel(Protocol):
    """What connects a job that trains with the parent."""

    @property
    def terminated(self) -> bool:
        """Whether the worker itself has to end, so that the job goes on elsewhere."""

    def send(self, event: Started | Progress | Note) -> None:
        """Report an event.

        Raises:
            ParentDied: nobody receives it.
        """

    def should_stop(self) -> bool:
        """Whether the job has to stop after its current step.

        The trainer asks after every step and batch of an evaluation, so it takes microseconds. To ask shows that the
        job makes progress.
        """


@dataclass
class Cache:
    """Objects that a worker reuses for later jobs: open datasets, and evaluations of untrained models (see `train`).

    Data sets that are `encoded` are opened without their text, which this machine may not have.
    """

    encoded: dict[DataConfig, EncodedData] = field(default_factory=dict)
    datasets: dict[DataConfig, Dataset] = field(default_factory=dict)
    step0: dict[str, Evaluation] = field(default_factory=dict)

    def dataset(self, config: DataConfig) -> Dataset:
        """The dataset of a config, opened once; runs with other weights of a mixture share it."""
        config = config.texts
        if config not in self.datasets:
            encoded = self.encoded.get(config)
            opened = open_dataset(config, compare=False) if encoded is None else open_encoded(encoded)
            self.datasets[config] = opened
        return self.datasets[config]


def import_trainer(threads: int) -> None:
    """Import torch and the trainer, and set the number of CPU threads: before the first job arrives."""
    with gc_paused_for_imports():
        import torch

        import harness.training.trainer  # noqa: F401

    torch.set_num_threads(threads)


def train_job(job: Job, channel: Channel, index: int, cache: Cache, ranks: Ranks | None = None) -> Finished:
    """Train one job and send its events, without the last one, which is returned. Every exception becomes an outcome.

    Args:
        job: what to train.
        channel: to the parent.
        index: of the GPU among those that this process sees.
        cache: the worker's.
        ranks: the processes that train the job together; None: this one alone. Others than rank 0 write no state and
            no checkpoint.

    Raises:
        ParentDied: by `channel.send`. The state is saved.
    """
    import torch

    from harness.training.devices import describe, release_memory, resolve_device
    from harness.training.distributed import ALONE
    from harness.training.trainer import train

    ranks = ranks or ALONE
    process = psutil.Process()
    process.cpu_percent()  # the first call starts the measurement
    try:
        device = resolve_device(job.config.train, index, ranks.size)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # memory statistics and release_memory() use the current device

        def on_start(step: int, warning: str) -> None:
            channel.send(Started(job.id, describe(device), step, warning, ranks=ranks.size))

        points = train(
            job.config,
            cache.dataset(job.config.data),
            read_test=job.read_test,
            common_context=job.common_context,
            checkpoint=job.checkpoint if ranks.rank == 0 else None,
            device_index=index,
            state=job.state if ranks.rank == 0 else None,
            after=job.after,
            on_start=on_start,
            stop=channel.should_stop,
            step0_cache=cache.step0,
            ranks=ranks,
            start=job.start,
        )
        with contextlib.closing(points):  # saves the state if the parent has died and send() raises
            for point in points:
                channel.send(Progress(job.id, _with_system_metrics(point, process)))
        return Finished(job.id, Outcome.COMPLETE)
    except ParentDied:
        raise
    except Exception as error:
        return _finished_with(error, job, channel)
    finally:
        release_memory()


def _finished_with(error: Exception, job: Job, channel: Channel) -> Finished:
    """The outcome and reason of a job that ended with an exception."""
    import torch

    from harness.training.distributed import RankLost
    from harness.training.errors import Diverged, Stopped

    if isinstance(error, RankLost):
        return Finished(job.id, Outcome.FAILED, str(error), lost=True)
    if isinstance(error, Stopped):
        reason = "stopped by SIGTERM" if channel.terminated else "stopped by the sweep"
        return Finished(job.id, Outcome.INTERRUPTED, reason, lost=channel.terminated)
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
