"""The interface between the controller and the workers that train runs."""

from __future__ import annotations

from typing import Protocol, Self

from harness.workers.messages import Event, Job


class NoWorkers(Exception):
    """No worker can be had. `str()` is one sentence that says why and what to do."""


class WorkerPool(Protocol):
    """Workers that train one job each. Their number may change while a sweep runs.

    The events of a job come in this order: `Started`, any number of `Progress`, `Finished`. `Finished` comes exactly
    once for every submitted job, whatever happens to its worker; `Started` may be missing if the worker died early.
    Points do not depend on the number of workers or on which of them trains the job. All methods are called from one
    thread. `tests/workers/test_protocol.py` checks every implementation.
    """

    @property
    def size(self) -> int:
        """Jobs that can train at the same time."""

    @property
    def free(self) -> int:
        """Jobs that can be submitted now. A job frees its place when `events` has returned its `Finished`."""

    def prestart(self, jobs: int) -> None:
        """Start the workers for this many jobs ahead of time. Returns at once; optional for the caller."""

    def submit(self, job: Job) -> None:
        """Give a job to a free worker and return at once.

        Where `free` is 0, because the place of a lost job has gone or there is no worker yet, the job waits for one.
        A job with a `state` folder resumes from the newest state in it, on any worker.
        """

    def stop(self, job: int) -> None:
        """Ask a job to stop after its current step and return at once.

        The worker saves the state and reports `Finished` with INTERRUPTED. Does nothing for a job that has finished.
        """

    def events(self, timeout: float) -> list[Event]:
        """New events of all jobs, waiting up to `timeout` seconds for the first; may return an empty list.

        If a worker dies or makes no progress for too long, its job is reported as `Finished` with FAILED and
        `lost=True`; other jobs are not affected.

        Raises:
            NoWorkers: none is left and none will come.
        """

    def remove_states(self, run: str) -> None:
        """Remove what other places than `Job.state` have of the states of a run (`Job.run`) and return at once.

        The caller has recorded the end of the run. The name of a sweep stands for all its runs.
        """

    def close(self) -> None:
        """End all workers and wait for them. Running jobs save their state if they can; no event follows."""

    def __enter__(self) -> Self:
        """Return the pool itself."""

    def __exit__(self, *exception: object) -> None:
        """Close the pool."""
