"""The messages between the controller's process and its workers."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.config.run import RunConfig
from harness.core.metrics import Point
from harness.core.outcomes import Outcome

if TYPE_CHECKING:
    from harness.data.encoded import EncodedData

# What a terminal sends to every process in it. Workers ignore it: their parent tells them what to do.
TERMINAL_SIGNALS: Final = (signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Away:
    """What a job needs on a node that may have another disk than the parent.

    Attributes:
        data: its data set, which the parent has encoded.
        shared: folder or address where every node finds the states of runs; None: there is none.
    """

    data: EncodedData
    shared: str | None = None


@dataclass(frozen=True)
class Job:
    """One run to train. `start`, and the fields from `config` to `after`, are arguments of `training.trainer.train`.

    Attributes:
        id: chosen by the caller; every event carries it.
        config: the run.
        read_test: evaluate on the test split after the last step.
        common_context: tokens of context for the loss that arms with different context lengths share.
        checkpoint: folder for the final weights; None writes none.
        state: folder for the states that the run resumes from. The caller removes it when the run has finished.
        after: last step whose point is stored already; earlier points are not sent again.
        run: `SWEEP/RUN`, the same whenever and wherever the run is trained: names its states in other places.
        away: for a worker on a node of a cluster; None for a worker of this machine.
        start: folder with the weights to start from on the parent's machine; None if there are none.
    """

    id: int
    config: RunConfig
    read_test: bool = False
    common_context: int | None = None
    checkpoint: Path | None = None
    state: Path | None = None
    after: int | None = None
    run: str = ""
    away: Away | None = None
    start: Path | None = None


# Events: from a worker to the controller.


@dataclass(frozen=True)
class Started:
    """A worker has started a job.

    Attributes:
        job: its id.
        device: what it trains on, in words.
        resumed_from: step of the state that the run resumes from; 0 if it starts from the beginning.
        warning: why the resumed run may differ, such as a damaged state or another number of threads; may be empty.
        node: name of the machine that the worker is on; empty for this one.
        ranks: processes that train the run together.
    """

    job: int
    device: str
    resumed_from: int = 0
    warning: str = ""
    node: str = ""
    ranks: int = 1


@dataclass(frozen=True)
class Progress:
    """A job has reached a new point."""

    job: int
    point: Point


@dataclass(frozen=True)
class Note:
    """A sentence for the user about a job that trains, such as a warning."""

    job: int
    text: str


@dataclass(frozen=True)
class Finished:
    """A job has stopped training. It is the last event of the job.

    Attributes:
        job: its id.
        outcome: how it ended. If INTERRUPTED, the state is saved, provided the job has a folder for it.
        reason: empty for COMPLETE. Of an exception, one short line and then the traceback. Starts with "disk: " if a
            file could not be written because the disk, the quota or the process's limit was full.
        lost: the worker ended, not the run: submit the job again and it resumes.
        checkpoint: file name → SHA-256, of a checkpoint on a node of a cluster. The pool stores it or brings it to the
            job's folder; the controller always finds this empty.
        arrived: whether its files are in the job's folder already.
    """

    job: int
    outcome: Outcome
    reason: str = ""
    lost: bool = False
    checkpoint: Mapping[str, str] = field(default_factory=dict)
    arrived: bool = False


Event = Started | Progress | Note | Finished


# Messages of a local pool to its processes and back; the controller does not see them.


@dataclass(frozen=True)
class Stop:
    """To a worker: stop this job after its current step."""

    job: int


@dataclass(frozen=True)
class Heartbeat:
    """From a worker: its job has completed another step or batch of an evaluation."""


@dataclass(frozen=True)
class Exiting:
    """From a worker: it exits after its job, since it has received SIGTERM or lost another rank."""
