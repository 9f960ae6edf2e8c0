"""Workers of two and of three ranks: whatever happens to one of them, the run is resumed and no process is left."""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness.core.metrics import VAL_LOSS
from harness.core.outcomes import Outcome
from harness.workers.local_pool import LocalPool
from harness.workers.messages import Finished, Job
from helpers import run
from jobs import LONG, config, finished, first_point, numbers, resumable, started, steps, until_finished, until_step
from paths import ROOT

pytestmark = pytest.mark.slow


def processes(pool: LocalPool) -> list[psutil.Process]:
    """Rank 0, which is the worker, and the other ranks of the only running job."""
    (pid,) = pool.pids().values()
    worker = psutil.Process(pid)
    return [worker, *sorted(worker.children(), key=lambda rank: rank.pid)]


def assert_ended(*ranks: psutil.Process) -> None:
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive


def test_a_run_whose_rank_is_killed_resumes_bit_equal_and_no_process_is_left(tmp_path: Path) -> None:
    whole = Job(0, resumable(batch_size=3, budget={"steps": 300}), checkpoint=tmp_path / "whole")
    job = replace(whole, id=1, checkpoint=tmp_path / "parts", state=tmp_path / "state")
    with LocalPool(1, ranks=3) as pool:
        pool.submit(whole)
        undisturbed = until_finished(pool, 1)[0]
        losses = [one[VAL_LOSS] for one in numbers(undisturbed) if VAL_LOSS in one]
        alone = [point.metrics[VAL_LOSS] for point in run(whole.config) if VAL_LOSS in point.metrics]
        assert losses == pytest.approx(alone, abs=1e-5)

        pool.submit(job)
        first = until_step(pool, 30)
        pool.stop(1)  # saves a state
        first += until_finished(pool, 1)[1]
        assert finished(first).outcome is Outcome.INTERRUPTED

        pool.submit(replace(job, after=steps(first)[-1]))
        second = until_step(pool, steps(first)[-1] + 1)
        worker, rank, last = processes(pool)
        listening = [
            one.laddr.ip for ranks in (worker, rank, last) for one in ranks.net_connections() if one.status == "LISTEN"
        ]
        assert set(listening) == {"127.0.0.1"}
        rank.kill()
        second += until_finished(pool, 1)[1]
        reason = f"rank 1, process {rank.pid}, ended by signal SIGKILL"
        assert second[-1] == Finished(1, Outcome.FAILED, reason, lost=True)
        assert_ended(worker, rank, last)

        pool.submit(replace(job, after=steps(second)[-1]))
        third = until_finished(pool, 1)[1]
        assert third[-1] == Finished(1, Outcome.COMPLETE)
        assert started(third).resumed_from >= started(second).resumed_from >= 30
        assert numbers(first) + numbers(second) + numbers(third) == numbers(undisturbed)
        weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
        assert weights[0] == weights[1]

        pool.submit(Job(2, config(**LONG), state=tmp_path / "long"))
        first_point(pool)
        ranks = processes(pool)
    assert_ended(*ranks)
    assert list((tmp_path / "long").glob("state-*.json"))  # saved on the way out


def test_a_rank_whose_worker_has_ended_before_it_starts_ends_too() -> None:
    ours, theirs = multiprocessing.Pipe()
    numbers = map(str, (theirs.fileno(), os.getpid() + 1, 1, 2, 1, 1))  # another parent than this process
    command = [sys.executable, "-m", "harness.workers.rank", *numbers]
    assert subprocess.run(command, pass_fds=[theirs.fileno()], cwd=ROOT, timeout=120).returncode == 0
    assert not ours.poll()


def test_a_rank_that_hangs_or_fails_and_a_worker_that_is_killed_leave_no_process() -> None:
    with LocalPool(1, ranks=2) as pool:
        pool.submit(Job(1, config(**LONG)))
        first_point(pool)
        worker, rank = processes(pool)
        rank.suspend()
        pool.patience = 3.0
        end = finished(until_finished(pool, 1)[1])
        assert (end.outcome, end.lost) == (Outcome.FAILED, True)
        assert re.fullmatch(r"no progress for \d+ s", end.reason)
        assert_ended(worker, rank)  # the rank was still stopped
        pool.patience = math.inf

        pool.submit(Job(2, config(**LONG)))
        first_point(pool)
        worker, rank = processes(pool)
        os.kill(worker.pid, signal.SIGKILL)
        end = finished(until_finished(pool, 1)[2])
        assert end.reason == f"worker process {worker.pid} ended by signal SIGKILL"
        assert_ended(worker, rank)

        if hasattr(rank, "rlimit"):  # only Linux can limit another process
            large = config(**LONG, batch_size=2000)
            pool.submit(Job(3, large))
            first_point(pool)
            worker, rank = processes(pool)
            rank.rlimit(psutil.RLIMIT_AS, (rank.memory_info().vms, psutil.RLIM_INFINITY))
            end = finished(until_finished(pool, 1)[3])
            assert end.reason.startswith("rank 1: ")
            assert (end.outcome, end.lost) == (Outcome.OOM, False)
            assert_ended(worker, rank)
