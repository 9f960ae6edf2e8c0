"""A pool that trains nothing: it invents the events of a run, and tests decide how its workers end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.core.metrics import VAL_LOSS, Point
from harness.core.outcomes import Outcome
from harness.workers.messages import Event, Finished, Job, Progress, Started


@dataclass(frozen=True)
class ScriptedWorker:
    """The worker of a job in a scripted pool."""

    pool: ScriptedPool
    job: int

    def kill(self) -> None:
        """Its job is lost, if it still has it."""
        self.pool.end(Finished(self.job, Outcome.FAILED, "killed", lost=True))


class ScriptedPool:
    """A `WorkerPool` whose `events` returns one event of each running job per call.

    A job with a budget in steps has a point at every step. Another has its last point only, and before it as many as
    `points` says.

    Args:
        size: jobs at the same time.
        points: job → points before its last one.

    Attributes:
        log: what happened, in order: ("submit", job), and each event by its lower-case name.
        removed: runs whose states were removed.
    """

    def __init__(self, size: int, points: Mapping[int, int] | None = None) -> None:
        self.size, self.points = size, points or {}
        self.log: list[tuple[str, int]] = []
        self.removed: list[str] = []
        self._running: dict[int, Iterator[Event]] = {}

    def __enter__(self) -> ScriptedPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def free(self) -> int:
        return self.size - len(self._running)

    def prestart(self, jobs: int) -> None:
        pass

    def submit(self, job: Job) -> None:
        assert self.free > 0
        self.log.append(("submit", job.id))
        self._running[job.id] = self._events_of(job)

    def stop(self, job: int) -> None:
        self.end(Finished(job, Outcome.INTERRUPTED, "stopped by the sweep"))

    def worker(self, job: int) -> ScriptedWorker:
        """The worker of a job."""
        return ScriptedWorker(self, job)

    def events(self, timeout: float) -> list[Event]:
        found = [next(events) for events in self._running.values()]
        if not found:
            time.sleep(min(timeout, 0.01))
        for event in found:
            self.log.append((type(event).__name__.lower(), event.job))
            if isinstance(event, Finished):
                del self._running[event.job]
        return found

    def remove_states(self, run: str) -> None:
        self.removed.append(run)

    def close(self) -> None:
        self._running.clear()

    def end(self, event: Finished) -> None:
        """End a job, if it runs, with this event."""
        if event.job in self._running:
            self._running[event.job] = iter([event])

    def _events_of(self, job: Job) -> Iterator[Event]:
        yield Started(job.id, "no device")
        budget = job.config.train.budget
        steps = range(1, self.points.get(job.id, 0) + 2) if budget.steps is None else range(budget.steps + 1)
        for step in steps:
            tokens = 400_000 if step == steps[-1] else step
            yield Progress(job.id, Point(step, tokens, step / steps[-1], 1.0, {VAL_LOSS: 4.0 + job.id / 10}))
        yield Finished(job.id, Outcome.COMPLETE)
