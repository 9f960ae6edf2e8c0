"""The contract of a `WorkerPool`, checked on every implementation."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.core.outcomes import Outcome
from harness.workers.local_pool import LocalPool
from harness.workers.messages import Finished, Job, Progress
from harness.workers.protocol import WorkerPool
from jobs import LONG, config, finished, first_point, numbers, resumable, started, steps, until_finished, until_step

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Place:
    """One implementation, and how a test kills the worker of a job."""

    pool: Callable[[int], WorkerPool]
    kill: Callable[[WorkerPool, int], None]


def kill_process(pool: WorkerPool, job: int) -> None:
    assert isinstance(pool, LocalPool)
    os.kill(pool.pids()[job], signal.SIGKILL)


PLACES = [pytest.param(Place(LocalPool, kill_process), id="local")]  # another implementation is one more line


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    assert isinstance(request.param, Place)
    return request.param


@pytest.fixture(scope="module")
def pool(place: Place) -> Iterator[WorkerPool]:
    """Two workers for all tests, as each start imports torch."""
    with place.pool(2) as pool:
        yield pool


def test_a_job_starts_makes_progress_and_finishes(pool: WorkerPool, tmp_path: Path) -> None:
    assert (pool.size, pool.free, pool.events(0)) == (2, 2, [])
    pool.prestart(1)
    assert pool.free == 2
    pool.submit(Job(1, config(), checkpoint=tmp_path / "weights"))
    assert pool.free == 1
    events = until_finished(pool, 1)[1]
    assert pool.free == 2
    assert started(events).resumed_from == 0
    assert all(isinstance(event, Progress) for event in events[1:-1])
    assert steps(events)[0] == 0 and steps(events)[-1] == 6
    assert finished(events) == Finished(1, Outcome.COMPLETE)
    assert (tmp_path / "weights" / "model.safetensors").is_file()


def test_a_job_stops_on_request_and_its_worker_takes_the_next(pool: WorkerPool) -> None:
    pool.submit(Job(1, config(**LONG)))
    first_point(pool)
    pool.stop(1)
    assert finished(until_finished(pool, 1)[1]).outcome is Outcome.INTERRUPTED
    pool.stop(1)  # has finished: nothing happens
    pool.submit(Job(2, config()))
    assert until_finished(pool, 1)[2][-1] == Finished(2, Outcome.COMPLETE)


def test_a_killed_worker_loses_only_its_own_job(place: Place, pool: WorkerPool) -> None:
    pool.submit(Job(1, config(**LONG)))
    pool.submit(Job(2, config(budget={"steps": 400})))
    first_point(pool)
    place.kill(pool, 1)
    events = until_finished(pool, 2)
    assert (finished(events[1]).outcome, finished(events[1]).lost) == (Outcome.FAILED, True)
    assert finished(events[1]).reason
    assert events[2][-1] == Finished(2, Outcome.COMPLETE)
    pool.submit(Job(3, config()))
    pool.submit(Job(4, config()))
    assert {finished(one).outcome for one in until_finished(pool, 2).values()} == {Outcome.COMPLETE}


def test_a_stopped_and_a_killed_job_resume_with_bitwise_equal_results(
    place: Place, pool: WorkerPool, tmp_path: Path
) -> None:
    job = Job(1, resumable(), checkpoint=tmp_path / "parts", state=tmp_path / "state")
    pool.submit(Job(0, resumable(), checkpoint=tmp_path / "whole"))
    whole = until_finished(pool, 1)[0]

    pool.submit(job)
    first = until_step(pool, 40)
    pool.stop(1)
    first += until_finished(pool, 1)[1]
    assert first[-1] == Finished(1, Outcome.INTERRUPTED, "stopped by the sweep")

    pool.submit(job)
    second = until_step(pool, 100)
    place.kill(pool, 1)
    second += until_finished(pool, 1)[1]
    assert finished(second).outcome is Outcome.FAILED

    pool.submit(Job(1, job.config, checkpoint=job.checkpoint, state=job.state, after=steps(second)[-1]))
    third = until_finished(pool, 1)[1]
    assert third[-1] == Finished(1, Outcome.COMPLETE)
    assert (started(first).resumed_from, started(first).warning) == (0, "")
    assert started(second).resumed_from >= steps(first)[-1] >= 40 and started(second).warning == ""
    assert started(third).resumed_from >= started(second).resumed_from
    assert steps(first) + steps(second) + steps(third) == steps(whole)  # no point is missing or comes twice
    assert numbers(first) + numbers(second) + numbers(third) == numbers(whole)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_close_ends_running_jobs(place: Place) -> None:
    pool = place.pool(2)
    pool.submit(Job(1, config(**LONG)))
    first_point(pool)
    pool.close()
    pool.close()  # again: nothing happens
    assert pool.events(0) == []
