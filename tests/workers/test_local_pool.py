"""The local pool: behaviour beyond the contract of `test_protocol.py`."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.config.run import RunConfig
from harness.core import metrics
from harness.core.outcomes import Outcome
from harness.workers.environment import COMPILER_CACHE, worker_environment
from harness.workers.local_pool import LocalPool
from harness.workers.local_worker import _PipeChannel
from harness.workers.messages import Event, Finished, Heartbeat, Job, Progress
from jobs import (
    LONG,
    config,
    finished,
    first_point,
    numbers,
    resumable,
    started,
    steps,
    until_finished,
    until_step,
)
from paths import SUPPORT

pytestmark = pytest.mark.slow


def test_points_are_the_same_with_one_worker_and_with_two(tmp_path: Path) -> None:
    jobs = [Job(1, config(), read_test=True, checkpoint=tmp_path / "one"), Job(2, config(seed=2))]
    with LocalPool(1) as pool:
        assert pool.free == 1
        pool.submit(jobs[0])
        assert pool.free == 0
        first = until_finished(pool, 1)
        processes = {child.pid for child in psutil.Process().children(recursive=True)}
        pool.submit(jobs[1])
        assert set(pool.pids().values()) <= processes  # the same worker trains again
        one_worker = first | until_finished(pool, 1)
    with LocalPool(2) as pool:
        for job in jobs:
            pool.submit(job)
        two_workers = until_finished(pool, 2)
    for number in (1, 2):
        assert one_worker[number][-1] == two_workers[number][-1] == Finished(number, Outcome.COMPLETE)
        assert numbers(one_worker[number]) == numbers(two_workers[number])
    assert numbers(one_worker[1]) != numbers(one_worker[2])
    assert (tmp_path / "one" / "model.safetensors").is_file()
    assert [metrics.TEST_LOSS in point for point in numbers(one_worker[1])].count(True) == 1
    assert not any(metrics.TEST_LOSS in point for point in numbers(one_worker[2]))
    system = [e.point.metrics for e in one_worker[1] if isinstance(e, Progress) and e.point.evaluated]
    assert all(point[metrics.SYSTEM_MEMORY_MB] > 50 for point in system)


def test_prestarted_workers_get_the_jobs() -> None:
    earlier = {child.pid for child in psutil.Process().children()}  # the pool that other tests share
    with LocalPool(2) as pool:
        pool.prestart(1)
        (first,) = new_workers(1, earlier)
        pool.prestart(5)
        both = new_workers(2, earlier)
        assert first in both
        pool.submit(Job(1, config()))
        pool.submit(Job(2, config(seed=2)))
        assert set(pool.pids().values()) == both
        assert {finished(events).outcome for events in until_finished(pool, 2).values()} == {Outcome.COMPLETE}


def test_a_worker_is_not_killed_because_its_parent_was_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalPool(1, patience=4.0) as pool:
        pool.submit(Job(1, config(**LONG)))
        first_point(pool)
        os.kill(pool.pids()[1], signal.SIGSTOP)
        clock = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: clock() + 60)  # as if this process had been suspended too
        while pool.events(0):
            pass
        os.kill(pool.pids()[1], signal.SIGCONT)
        assert first_point(pool).step > 0


def test_workers_do_not_load_compiled_code_from_the_shared_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT_HARNESS_CACHE", "/somewhere")
    assert worker_environment(3)[COMPILER_CACHE] == "/somewhere/torchinductor"
    assert worker_environment(3)["OMP_NUM_THREADS"] == "3"


def test_the_reason_names_the_signal_that_ended_a_worker() -> None:
    with LocalPool(1) as pool:
        pool.submit(Job(1, config()))
        pid = pool.pids()[1]
        os.kill(pid, signal.SIGKILL)
        reason = f"worker process {pid} ended by signal SIGKILL"
        assert until_finished(pool, 1)[1] == [Finished(1, Outcome.FAILED, reason, lost=True)]


def test_asking_whether_to_stop_sends_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.workers.local_worker.signal.signal", lambda *_: None)
    ours, theirs = multiprocessing.Pipe()
    channel = _PipeChannel(theirs)
    assert not channel.should_stop()
    assert not ours.poll()  # not yet due
    monkeypatch.setattr("harness.workers.local_worker._HEARTBEAT_SECONDS", -1.0)
    assert not channel.should_stop()
    assert ours.recv() == Heartbeat()


def new_workers(count: int, earlier: set[int]) -> set[int]:
    """The process ids of this many workers that were not there earlier.

    A new process has no command line of its own for a moment.
    """
    deadline = time.monotonic() + 30
    while True:
        children = psutil.Process().children()
        found = {one.pid for one in children if "spawn_main" in " ".join(one.cmdline())} - earlier
        if len(found) == count:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


@pytest.mark.parametrize("where", ["in a step", "in an evaluation"])
def test_sigterm_saves_the_state_and_ends_the_worker(where: str, tmp_path: Path) -> None:
    eval_every = {"steps": 10**7} if where == "in a step" else {"steps": 1}  # nearly all time goes to evaluations
    job = Job(
        1, resumable(budget={"steps": 10**7}, eval_every=eval_every, checkpoint_every=None), state=tmp_path / "state"
    )
    with LocalPool(1) as pool:
        pool.submit(job)
        events = until_step(pool, 3)
        worker = psutil.Process(pool.pids()[1])
        worker.terminate()
        events += until_finished(pool, 1)[1]
        assert events[-1] == Finished(1, Outcome.INTERRUPTED, "stopped by SIGTERM", lost=True)
        assert not worker.is_running() and pool.free == 1
        pool.submit(job)  # to a new worker
        rest = until_step(pool, 4)
    assert started(rest).resumed_from >= steps(events)[-1]
    whole = steps(events) + steps(rest)
    assert whole == list(range(0, whole[-1] + 1, whole[1]))


def test_an_idle_worker_ends_on_sigterm() -> None:
    with LocalPool(1) as pool:
        pool.submit(Job(1, config()))
        worker = psutil.Process(pool.pids()[1])
        until_finished(pool, 1)
        worker.terminate()
        while worker.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        pool.submit(Job(2, config()))
        assert until_finished(pool, 1)[2][-1] == Finished(2, Outcome.COMPLETE)


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="only Linux can limit another process")
def test_a_full_disk_fails_the_job_and_keeps_its_states(tmp_path: Path) -> None:
    job = Job(1, resumable(budget={"steps": 10**7}, eval_every={"steps": 10**7}), state=tmp_path)
    with LocalPool(1) as pool:
        pool.submit(job)
        events: list[Event] = []
        while len(list(tmp_path.glob("*.json"))) < 2:  # the first is of step 0
            events += pool.events(1.0)
        worker = psutil.Process(pool.pids()[1])
        worker.rlimit(psutil.RLIMIT_FSIZE, (100, psutil.RLIM_INFINITY))
        events += until_finished(pool, 1)[1]
        end = events[-1]
        assert isinstance(end, Finished) and end.outcome is Outcome.FAILED
        first, *rest = end.reason.splitlines()
        assert re.match(rf"disk: File too large: {tmp_path}/(state|points)-0", first)
        assert rest[0].startswith("Traceback")
        assert not list(tmp_path.glob("*.part"))
        worker.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        pool.submit(job)
        again: list[Event] = []
        while not again:
            again += pool.events(1.0)
    assert started(again).resumed_from > 0 and started(again).warning == ""


def test_an_error_in_a_job_becomes_its_outcome_and_reason() -> None:
    diverging = config(learning_rate=1e30, warmup=0.0, grad_clip=None, budget={"steps": 50})
    fields = config().model_dump()
    missing = RunConfig.model_validate({**fields, "data": {"path": "/nowhere/*.txt", "tokenizer": "byte"}})
    too_large = RunConfig.model_validate({**fields, "model": {**fields["model"], "emb_dim": 2**22}})
    with LocalPool(1) as pool:
        ends = []
        for number, wrong in enumerate([diverging, missing, too_large, config()]):
            pool.submit(Job(number, wrong))
            ends.append(finished(until_finished(pool, 1)[number]))
    assert [end.outcome for end in ends] == [Outcome.DIVERGED, Outcome.FAILED, Outcome.OOM, Outcome.COMPLETE]
    assert "at step" in ends[0].reason
    first, *trace = ends[1].reason.splitlines()
    assert first.startswith("CorpusError: ")
    assert trace[0].startswith("Traceback")


def test_workers_exit_when_their_parent_dies_and_save_the_state(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        f"sys.path[:0] = [{str(SUPPORT)!r}]\n"
        "from jobs import LONG, config, until_step\n"
        "from harness.workers.messages import Job\n"
        "from harness.workers.local_pool import LocalPool\n"
        "if __name__ == '__main__':\n"
        "    pool = LocalPool(1)\n"
        f"    pool.submit(Job(1, config(**LONG), state=Path({str(tmp_path / 'state')!r})))\n"
        "    until_step(pool, 1)\n"  # the point of step 0 comes before there is a state
        "    print(pool.pids()[1], flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    with LocalPool(1) as pool:  # at once: the old worker may still be saving
        pool.submit(Job(1, config(**LONG), state=tmp_path / "state"))
        while not (events := pool.events(1.0)):
            pass
        # It has exited, but its new parent may not have reaped it yet.
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert started(events).resumed_from > 0 and started(events).warning == ""
