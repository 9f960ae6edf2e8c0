"""What the parent and its workers say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.config.run import RunConfig
from harness.core.metrics import Point
from harness.core.outcomes import Outcome


@dataclass(frozen=True)
class Job:
    """One run for a worker: what to train, what to score at its end, where final weights go (see `train`).

    Attributes:
        state: folder for the run's states; whoever submits the job removes it when the run is over.
        after: the last step whose point is known already, from an earlier part of the run; see `train`.
    """

    id: int
    config: RunConfig
    read_test: bool = False
    common_context: int | None = None
    checkpoint: Path | None = None
    state: Path | None = None
    after: int | None = None


@dataclass(frozen=True)
class Started:
    """A worker has begun a job, on this device.

    Attributes:
        resumed_from: the step of the state that it goes on from; 0 where it starts from the beginning.
        note: what there is to say about that: a state that was damaged, a number of threads that is another one now.
    """

    job: int
    device: str
    resumed_from: int = 0
    note: str = ""


@dataclass(frozen=True)
class Progress:
    """A worker measured a point of its job."""

    job: int
    point: Point


@dataclass(frozen=True)
class Finished:
    """A job ended. `reason` is empty for COMPLETE; for exceptions its first line is short and a traceback follows.

    It begins with "disk: " where a file could not be written for want of space. The state of an INTERRUPTED job is
    saved by then, if the job has a folder for it. `lost` says that the worker ended and not the job: given again, it
    goes on.
    """

    job: int
    outcome: Outcome
    reason: str = ""
    lost: bool = False


Event = Started | Progress | Finished


@dataclass(frozen=True)
class Stop:
    """Said by the parent: this job is to end."""

    job: int


@dataclass(frozen=True)
class Alive:
    """A job gets on: it has done a step, or a batch of an evaluation."""


@dataclass(frozen=True)
class Leaving:
    """The worker was told to end by somebody else, and does so after its job."""
