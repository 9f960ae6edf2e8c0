"""The contract of a `WorkerPool`, checked on every implementation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from harness.core.outcomes import Outcome
from harness.workers.local_pool import LocalPool
from harness.workers.messages import Finished, Job, Progress
from harness.workers.protocol import WorkerPool
from harness.workers.ray_pool import RayPool
from jobs import LONG, config, finished, first_point, numbers, resumable, started, steps, until_finished, until_step
from ray_nodes import training_process
from scripted_pool import ScriptedPool

pytestmark = pytest.mark.slow

PATIENCE = 6.0


class Killable(Protocol):
    """A worker."""

    def kill(self) -> object: ...


@dataclass(frozen=True)
class Place:
    """One implementation, and what tests do to its workers.

    Attributes:
        open: a pool of two workers.
        worker: the one that has a job.
        trainer: the process in which the job trains; None: nothing trains.
    """

    open: Callable[[], WorkerPool]
    worker: Callable[[WorkerPool, int], Killable]
    trainer: Callable[[WorkerPool, int], psutil.Process] | None = None


def process(pool: WorkerPool, job: int) -> psutil.Process:
    assert isinstance(pool, LocalPool | RayPool)
    return psutil.Process(pool.pids()[job])


def scripted_worker(pool: WorkerPool, job: int) -> Killable:
    assert isinstance(pool, ScriptedPool)
    return pool.worker(job)


PLACES = {
    "scripted": Place(lambda: ScriptedPool(2), scripted_worker),
    "local": Place(lambda: LocalPool(2, patience=PATIENCE), process, process),
    "ray": Place(
        lambda: RayPool(cpus=1, gpus=0, most=2, threads=1, patience=PATIENCE),
        process,
        lambda pool, job: training_process(process(pool, job)),
    ),
}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.ray] if name == "ray" else []) for name in PLACES]
)
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "ray":
        request.getfixturevalue("ray_connection")
    return PLACES[request.param]


@pytest.fixture(scope="module")
def pool(place: Place) -> Iterator[WorkerPool]:
    """Two workers for all tests, as each start imports torch."""
    with place.open() as pool:
        yield pool


def test_a_job_starts_makes_progress_and_finishes(place: Place, pool: WorkerPool, tmp_path: Path) -> None:
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
    assert (tmp_path / "weights" / "model.safetensors").is_file() is (place.trainer is not None)


def test_a_job_stops_on_request_and_its_worker_takes_the_next(pool: WorkerPool) -> None:
    pool.submit(Job(1, config(**LONG)))
    first_point(pool)
    pool.stop(1)
    assert finished(until_finished(pool, 1)[1]).outcome is Outcome.INTERRUPTED
    pool.stop(1)  # has finished: nothing happens
    pool.submit(Job(2, config()))
    assert until_finished(pool, 1)[2][-1] == Finished(2, Outcome.COMPLETE)


def test_a_job_that_is_told_to_stop_twice_stops_once(pool: WorkerPool) -> None:
    pool.submit(Job(1, config(**LONG)))
    first_point(pool)
    pool.stop(1)
    pool.stop(1)
    assert finished(until_finished(pool, 1)[1]).outcome is Outcome.INTERRUPTED
    pool.submit(Job(1, config()))
    assert until_finished(pool, 1)[1][-1] == Finished(1, Outcome.COMPLETE)


def test_a_worker_that_dies_without_a_job_is_replaced(place: Place, pool: WorkerPool) -> None:
    pool.submit(Job(1, config(**LONG)))
    first_point(pool)
    worker = place.worker(pool, 1)
    pool.stop(1)
    until_finished(pool, 1)
    worker.kill()
    assert pool.events(0.1) == []
    jobs = [Job(2, config()), Job(3, config())]
    for job in jobs:
        pool.submit(job)
    ends = {job: finished(events) for job, events in until_finished(pool, 2).items()}
    if unnoticed := [job for job in jobs if ends[job.id].lost]:  # one went to the dead worker, as Ray told it late
        [job] = unnoticed
        pool.submit(job)
        ends[job.id] = finished(until_finished(pool, 1)[job.id])
    assert {end.outcome for end in ends.values()} == {Outcome.COMPLETE}


def test_a_killed_worker_loses_only_its_own_job(place: Place, pool: WorkerPool) -> None:
    pool.submit(Job(1, config(**LONG)))
    pool.submit(Job(2, config(budget={"steps": 400})))
    first_point(pool)
    place.worker(pool, 1).kill()
    events = until_finished(pool, 2)
    assert (finished(events[1]).outcome, finished(events[1]).lost) == (Outcome.FAILED, True)
    assert finished(events[1]).reason
    assert events[2][-1] == Finished(2, Outcome.COMPLETE)
    pool.submit(Job(3, config()))
    pool.submit(Job(4, config()))
    assert {finished(one).outcome for one in until_finished(pool, 2).values()} == {Outcome.COMPLETE}


def test_a_stopped_a_killed_and_a_hung_job_resume_with_bitwise_equal_results(
    place: Place, pool: WorkerPool, tmp_path: Path
) -> None:
    if place.trainer is None:
        pytest.skip("nothing trains here")
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
    place.worker(pool, 1).kill()
    second += until_finished(pool, 1)[1]
    assert finished(second).outcome is Outcome.FAILED

    pool.submit(replace(job, after=steps(second)[-1]))
    third = until_step(pool, steps(second)[-1] + 100)
    (trainer := place.trainer(pool, 1)).suspend()
    third += until_finished(pool, 1)[1]
    assert (finished(third).outcome, finished(third).lost) == (Outcome.FAILED, True)
    assert re.fullmatch(r"no progress for \d+ s", finished(third).reason)
    assert not trainer.is_running()

    pool.submit(replace(job, after=steps(third)[-1]))
    fourth = until_finished(pool, 1)[1]
    assert fourth[-1] == Finished(1, Outcome.COMPLETE)
    parts = (first, second, third, fourth)
    assert (started(first).resumed_from, started(first).warning) == (0, "")
    assert started(second).resumed_from >= steps(first)[-1] >= 40
    assert started(fourth).resumed_from >= started(third).resumed_from >= started(second).resumed_from
    assert [started(one).warning for one in parts] == [""] * 4
    together = [event for part in parts for event in part]
    assert steps(together) == steps(whole)  # no point is missing or comes twice
    assert numbers(together) == numbers(whole)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_close_ends_running_jobs(place: Place) -> None:
    pool = place.open()
    pool.submit(Job(1, config(**LONG)))
    first_point(pool)
    pool.close()
    pool.close()  # again: nothing happens
    assert pool.events(0) == []
