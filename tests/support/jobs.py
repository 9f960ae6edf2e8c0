"""Small jobs for workers, and what a pool reports about them."""

from __future__ import annotations

import time
from typing import Any

from harness.config.run import RunConfig
from harness.core.metrics import Point
from harness.workers.messages import Event, Finished, Progress, Started
from harness.workers.protocol import WorkerPool

LONG: dict[str, Any] = {"budget": {"steps": 10**7}, "eval_every": {"steps": 10**7}}


def config(**train: Any) -> RunConfig:
    """A run of six steps."""
    defaults = {"budget": {"steps": 6}, "batch_size": 2, "sample": {"max_new_tokens": 0}, "eval_every": {"steps": 3}}
    return RunConfig.model_validate(
        {
            "data": {"corpus": "sotu-1820", "tokenizer": "byte"},
            "model": {"context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 1},
            "train": {**defaults, **train},
        }
    )


def resumable(**train: Any) -> RunConfig:
    """A run of a second or two with dropout, which saves its state often."""
    small = config(**{"budget": {"steps": 1000}, "eval_every": {"steps": 250}, "checkpoint_every": 0.01, **train})
    return small.model_copy(update={"model": small.model.model_copy(update={"drop_rate": 0.2})})


def until_finished(pool: WorkerPool, jobs: int, timeout: float = 120) -> dict[int, list[Event]]:
    """The events of each job, until this many jobs have finished."""
    events: dict[int, list[Event]] = {}
    deadline = time.monotonic() + timeout
    while sum(isinstance(one[-1], Finished) for one in events.values()) < jobs:
        assert time.monotonic() < deadline, events
        for event in pool.events(1.0):
            events.setdefault(event.job, []).append(event)
    return events


def until_step(pool: WorkerPool, step: int) -> list[Event]:
    """The events until a job reaches a step."""
    events: list[Event] = []
    while not any(reached >= step for reached in steps(events)):
        events += pool.events(1.0)
        assert not any(isinstance(event, Finished) for event in events), events
    return events


def first_point(pool: WorkerPool) -> Point:
    """Wait for the next point of any job; nothing may finish before."""
    return next(event.point for event in until_step(pool, 0) if isinstance(event, Progress))


def started(events: list[Event]) -> Started:
    """The first event of a job."""
    first = events[0]
    assert isinstance(first, Started)
    return first


def finished(events: list[Event]) -> Finished:
    """The last event of a job."""
    last = events[-1]
    assert isinstance(last, Finished)
    return last


def points(events: list[Event]) -> list[Point]:
    """The points, in order of arrival."""
    return [event.point for event in events if isinstance(event, Progress)]


def steps(events: list[Event]) -> list[int]:
    """The step of every point."""
    return [point.step for point in points(events)]


def numbers(events: list[Event]) -> list[dict[str, float]]:
    """The metrics of every point, without those that depend on the clock and the process."""
    return [{k: v for k, v in p.metrics.items() if not k.startswith(("perf/", "system/"))} for p in points(events)]
