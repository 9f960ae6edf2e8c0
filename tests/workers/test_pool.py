from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness.config.run import RunConfig
from harness.core import metrics
from harness.core.hardware import count_gpus, default_workers
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.workers.messages import Alive, Event, Finished, Job, Progress, Started
from harness.workers.pool import Pool
from harness.workers.process import _Orders
from paths import SUPPORT

pytestmark = pytest.mark.slow


def config(**train: object) -> RunConfig:
    defaults = {"budget": {"steps": 6}, "batch_size": 2, "sample": {"max_new_tokens": 0}, "eval_every": {"steps": 3}}
    return RunConfig.model_validate(
        {
            "data": {"corpus": "sotu-1820", "tokenizer": "byte"},
            "model": {"context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 1},
            "train": {**defaults, **train},
        }
    )


LONG = {"budget": {"steps": 10**7}, "eval_every": {"steps": 10**7}}


def listen(pool: Pool, jobs: int, timeout: float = 120) -> dict[int, list[Event]]:
    """Everything that is said until so many jobs have finished."""
    heard: dict[int, list[Event]] = {}
    deadline = time.monotonic() + timeout
    while sum(isinstance(events[-1], Finished) for events in heard.values()) < jobs:
        assert time.monotonic() < deadline, heard
        for event in pool.events(1.0):
            heard.setdefault(event.job, []).append(event)
    return heard


def numbers(events: list[Event]) -> list[dict[str, float]]:
    """The points' metrics, without what depends on the clock and the process."""
    points = [event.point for event in events if isinstance(event, Progress)]
    return [{k: v for k, v in p.metrics.items() if not k.startswith(("perf/", "system/"))} for p in points]


def wait_for_a_point(pool: Pool) -> Point:
    while True:
        for event in pool.events(1.0):
            if isinstance(event, Started):
                assert event.device == "cpu"
                continue
            assert isinstance(event, Progress), event
            return event.point


def test_points_are_the_same_with_one_worker_and_with_two(tmp_path: Path) -> None:
    jobs = [Job(1, config(), read_test=True, checkpoint=tmp_path / "one"), Job(2, config(seed=2))]
    with Pool(1) as pool:
        assert pool.free == 1
        pool.submit(jobs[0])
        assert pool.free == 0
        first = listen(pool, 1)
        pid = {psutil.Process().pid, *(p.pid for p in psutil.Process().children(recursive=True))}
        pool.submit(jobs[1])
        assert set(pool.pids().values()) <= pid  # the same process trains again
        alone = first | listen(pool, 1)
    with Pool(2) as pool:
        for job in jobs:
            pool.submit(job)
        together = listen(pool, 2)
    for job in (1, 2):
        assert alone[job][-1] == together[job][-1] == Finished(job, Outcome.COMPLETE)
        assert numbers(alone[job]) == numbers(together[job])
    assert numbers(alone[1]) != numbers(alone[2])
    assert (tmp_path / "one" / "model.safetensors").is_file()
    assert [metrics.TEST_LOSS in point for point in numbers(alone[1])].count(True) == 1
    assert not any(metrics.TEST_LOSS in point for point in numbers(alone[2]))
    system = [e.point.metrics for e in alone[1] if isinstance(e, Progress) and e.point.evaluated]
    assert all(point[metrics.SYSTEM_MEMORY_MB] > 50 for point in system)


def test_warmed_workers_are_those_that_get_the_jobs() -> None:
    with Pool(2) as pool:
        pool.warm(1)
        (first,) = workers_of_this_process(1)
        pool.warm(5)
        both = workers_of_this_process(2)
        assert first in both
        pool.submit(Job(1, config()))
        pool.submit(Job(2, config(seed=2)))
        assert set(pool.pids().values()) == both
        assert {e[-1].outcome for e in listen(pool, 2).values()} == {Outcome.COMPLETE}  # type: ignore[union-attr]


def test_a_job_stops_when_it_is_told_and_the_worker_goes_on() -> None:
    with Pool(1) as pool:
        pool.submit(Job(1, config(**LONG)))
        wait_for_a_point(pool)
        pool.stop(1)
        assert listen(pool, 1)[1][-1].outcome is Outcome.INTERRUPTED  # type: ignore[union-attr]
        pool.stop(1)  # too late: nothing to stop, nothing said
        pool.submit(Job(2, config()))
        assert listen(pool, 1)[2][-1] == Finished(2, Outcome.COMPLETE)


def test_a_killed_worker_fails_its_own_job_only() -> None:
    with Pool(2) as pool:
        pool.submit(Job(1, config(**LONG)))
        pool.submit(Job(2, config(budget={"steps": 400})))
        wait_for_a_point(pool)
        os.kill(pool.pids()[1], signal.SIGKILL)
        heard = listen(pool, 2)
        assert heard[1][-1].outcome is Outcome.FAILED  # type: ignore[union-attr]
        assert "ended by signal SIGKILL" in heard[1][-1].reason  # type: ignore[union-attr]
        assert heard[2][-1] == Finished(2, Outcome.COMPLETE)
        pool.submit(Job(3, config()))
        pool.submit(Job(4, config()))
        assert {e[-1].outcome for e in listen(pool, 2).values()} == {Outcome.COMPLETE}  # type: ignore[union-attr]


def test_a_worker_that_gets_no_further_is_ended_and_its_job_goes_on(tmp_path: Path) -> None:
    whole, job = resumable(), Job(1, resumable(), state=tmp_path)
    with Pool(1, patience=2.0) as pool:
        pool.submit(job)
        heard = until_step(pool, 100)
        os.kill(pid := pool.pids()[1], signal.SIGSTOP)
        heard += listen(pool, 1)[1]
        end = heard.pop()
        assert isinstance(end, Finished)
        assert (end.outcome, end.lost) == (Outcome.FAILED, True)
        assert re.fullmatch(r"no progress for [2-9] s", end.reason)
        assert not psutil.pid_exists(pid)
        pool.submit(replace(job, after=steps(heard)[-1]))
        rest = listen(pool, 1)[1]
        pool.submit(Job(2, whole))
        assert numbers(heard) + numbers(rest) == numbers(listen(pool, 1)[2])


def test_a_worker_is_not_silent_because_its_parent_did_not_listen() -> None:
    with Pool(1, patience=4.0) as pool:
        pool.submit(Job(1, config(**LONG)))
        wait_for_a_point(pool)
        os.kill(pool.pids()[1], signal.SIGSTOP)
        time.sleep(6)  # as if this process had been stopped too
        while pool.events(0):
            pass
        os.kill(pool.pids()[1], signal.SIGCONT)
        assert isinstance(wait_for_a_point(pool), Point)


def test_being_asked_to_go_on_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.workers.process.signal.signal", lambda *_: None)
    ours, theirs = multiprocessing.Pipe()
    orders = _Orders(theirs)
    assert not orders.stop()
    assert not ours.poll()  # not so soon again
    monkeypatch.setattr("harness.workers.process._ALIVE_SECONDS", -1.0)
    assert not orders.stop()
    assert ours.recv() == Alive()


def workers_of_this_process(count: int) -> set[int]:
    """So many worker processes; one that has just been started has no command line of its own for a moment."""
    deadline = time.monotonic() + 30
    while True:
        children = psutil.Process().children()
        found = {one.pid for one in children if "spawn_main" in " ".join(one.cmdline())}
        if len(found) == count:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


def resumable(**train: object) -> RunConfig:
    """A run of a second or two, with dropout."""
    small = config(**{"budget": {"steps": 1000}, "eval_every": {"steps": 250}, "checkpoint_every": 0.01, **train})
    return small.model_copy(update={"model": small.model.model_copy(update={"drop_rate": 0.2})})


def steps(events: list[Event]) -> list[int]:
    return [event.point.step for event in events if isinstance(event, Progress)]


def until_step(pool: Pool, step: int) -> list[Event]:
    """What is said until a job has come to a step."""
    heard: list[Event] = []
    while not heard or not any(found >= step for found in steps(heard)):
        heard += pool.events(1.0)
        assert not any(isinstance(event, Finished) for event in heard), heard
    return heard


def started(events: list[Event]) -> Started:
    first = events[0]
    assert isinstance(first, Started)
    return first


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_job_that_was_stopped_and_then_killed_goes_on_bit_for_bit(tmp_path: Path) -> None:
    job = Job(1, resumable(), checkpoint=tmp_path / "parts", state=tmp_path / "state")
    with Pool(2) as pool:
        pool.submit(Job(0, resumable(), checkpoint=tmp_path / "whole"))
        whole = listen(pool, 1)[0]

        pool.submit(job)
        heard = until_step(pool, 40)
        pool.stop(1)
        heard += listen(pool, 1)[1]
        assert heard[-1] == Finished(1, Outcome.INTERRUPTED, "stopped by the sweep")

        pool.submit(job)
        second = until_step(pool, 100)
        os.kill(pool.pids()[1], signal.SIGKILL)
        second += listen(pool, 1)[1]
        assert second[-1].outcome is Outcome.FAILED  # type: ignore[union-attr]

        pool.submit(replace(job, after=steps(second)[-1]))
        third = listen(pool, 1)[1]
        assert third[-1] == Finished(1, Outcome.COMPLETE)
    assert (started(heard).resumed_from, started(heard).note) == (0, "")
    assert started(second).resumed_from >= steps(heard)[-1] >= 40 and started(second).note == ""
    assert started(third).resumed_from >= started(second).resumed_from
    assert steps(heard) + steps(second) + steps(third) == steps(whole)  # nothing is missing, nothing comes twice
    assert numbers(heard) + numbers(second) + numbers(third) == numbers(whole)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


@pytest.mark.parametrize("where", ["in a step", "in an evaluation"])
def test_sigterm_saves_the_state_and_ends_the_worker(where: str, tmp_path: Path) -> None:
    rhythm = {"steps": 10**7} if where == "in a step" else {"steps": 1}  # evaluations take nearly all of the time
    job = Job(1, resumable(budget={"steps": 10**7}, eval_every=rhythm, checkpoint_every=None), state=tmp_path / "state")
    with Pool(1) as pool:
        pool.submit(job)
        heard = until_step(pool, 3)
        worker = psutil.Process(pool.pids()[1])
        worker.terminate()
        heard += listen(pool, 1)[1]
        assert heard[-1] == Finished(1, Outcome.INTERRUPTED, "stopped by SIGTERM", lost=True)
        assert not worker.is_running() and pool.free == 1
        pool.submit(job)  # to a new one
        rest = until_step(pool, 4)
    assert started(rest).resumed_from >= steps(heard)[-1]
    whole = steps(heard) + steps(rest)
    assert whole == list(range(0, whole[-1] + 1, whole[1]))


def test_an_idle_worker_ends_on_sigterm() -> None:
    with Pool(1) as pool:
        pool.submit(Job(1, config()))
        worker = psutil.Process(pool.pids()[1])
        listen(pool, 1)
        worker.terminate()
        while worker.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        pool.submit(Job(2, config()))
        assert listen(pool, 1)[2][-1] == Finished(2, Outcome.COMPLETE)


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="only Linux can limit another process")
def test_a_full_disk_fails_the_job_and_spares_its_states(tmp_path: Path) -> None:
    job = Job(1, resumable(budget={"steps": 10**7}, eval_every={"steps": 10**7}), state=tmp_path)
    with Pool(1) as pool:
        pool.submit(job)
        heard: list[Event] = []
        while len(list(tmp_path.glob("*.json"))) < 2:  # the first one is of step 0
            heard += pool.events(1.0)
        worker = psutil.Process(pool.pids()[1])
        worker.rlimit(psutil.RLIMIT_FSIZE, (100, psutil.RLIM_INFINITY))
        heard += listen(pool, 1)[1]
        end = heard[-1]
        assert isinstance(end, Finished) and end.outcome is Outcome.FAILED
        first, *rest = end.reason.splitlines()
        assert first.startswith(f"disk: File too large: {tmp_path}/state-0") and rest[0].startswith("Traceback")
        assert not list(tmp_path.glob("*.part"))
        worker.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        pool.submit(job)
        again: list[Event] = []
        while not again:
            again += pool.events(1.0)
    assert started(again).resumed_from > 0 and started(again).note == ""


def test_what_goes_wrong_in_a_job_is_its_outcome_and_its_reason() -> None:
    diverging = config(learning_rate=1e30, warmup=0.0, grad_clip=None, budget={"steps": 50})
    broken = config()
    missing = RunConfig.model_validate({**broken.model_dump(), "data": {"path": "/nowhere/*.txt", "tokenizer": "byte"}})
    too_large = RunConfig.model_validate(
        {
            "data": {"corpus": "sotu-1820", "tokenizer": "byte"},
            "model": {"context_length": 16, "emb_dim": 2**22, "n_heads": 2, "n_layers": 1},
            "train": broken.train.model_dump(exclude_none=True),
        }
    )
    with Pool(1) as pool:
        heard = {}
        for number, wrong in enumerate([diverging, missing, too_large, config()]):
            pool.submit(Job(number, wrong))
            heard |= listen(pool, 1)
    ends = [heard[number][-1] for number in range(4)]
    assert [end.outcome for end in ends] == [  # type: ignore[union-attr]
        Outcome.DIVERGED,
        Outcome.FAILED,
        Outcome.OOM,
        Outcome.COMPLETE,
    ]
    assert "at step" in ends[0].reason  # type: ignore[union-attr]
    first, *traceback = ends[1].reason.splitlines()  # type: ignore[union-attr]
    assert first.startswith("CorpusError: ")
    assert traceback[0].startswith("Traceback")


def test_workers_end_with_their_parent_and_save_what_they_have(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        f"sys.path[:0] = [{str(SUPPORT)!r}]\n"
        "from test_workers import LONG, config, until_step\n"
        "from harness.workers.pool import Job, Pool\n"
        "if __name__ == '__main__':\n"
        "    pool = Pool(1)\n"
        f"    pool.submit(Job(1, config(**LONG), state=Path({str(tmp_path / 'state')!r})))\n"
        "    until_step(pool, 1)\n"  # the first point comes before the first step: there is nothing to go on from
        "    print(pool.pids()[1], flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    with Pool(1) as pool:  # at once: the worker may still be at it
        pool.submit(Job(1, config(**LONG), state=tmp_path / "state"))
        while not (events := pool.events(1.0)):
            pass
        # It has ended; whoever took it over from its parent may not have collected it yet.
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert started(events).resumed_from > 0 and started(events).note == ""


def test_gpus_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for visible, count in [("", 0), ("-1", 0), ("0", 1), ("0,3", 2)]:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert count_gpus() == count
    assert default_workers() == 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    tool = tmp_path / "nvidia-smi"
    asked = tmp_path / "asked"
    listing = "echo 'GPU 0: NVIDIA H100 (UUID: x)'\necho 'GPU 1: NVIDIA H100 (UUID: y)'"
    tool.write_text(f"#!/bin/sh\necho >> {asked}\n{listing}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert count_gpus() == default_workers() == 2
    assert asked.read_text() == "\n"  # once
