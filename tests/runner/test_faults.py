"""Faults that a sweep survives, each injected for real. The number of a test is that of its fault.

| | fault | result |
| --- | --- | --- |
| 1 | a worker is killed while it trains | another worker finishes its run in the same trial, bit-equal |
| 2 | the sweep's own process is killed | its workers end too; the next command finishes every open run |
| 3 | a save is killed at any of its writes, flushes and renames | the newest whole state loads |
| 4 | the disk is full, for a worker or for the sweep | one failed run, or a sweep that resumes once there is space |
| 5 | a byte of a state is changed or lost | the state before it is used, with a warning |
| 6 | a checkpoint has malicious code | it is refused, and the code does not run |
| 7 | a run resumes with more threads | it finishes, with a tag that it is not bit-equal |
| 8 | a loss is NaN | the run has diverged: it counts as the worst and is not trained again |
| 9 | memory runs out | the run is marked so and replaced at most twice; all other runs finish |
| 10 | Ctrl-C, twice, or SIGTERM | saved states, runs KILLED, the command to resume is printed, exit code 130 or 143 |
| 11 | a trial raises an exception | the run has its traceback, all other runs finish, exit code 1 |
| 12 | a worker hangs | another worker resumes its run; the run fails if every worker hangs |
| 13 | a second process starts the same sweep | the first is undisturbed; the second names it, exit code 3 |
| 14 | the search is interrupted and resumed | the same values as without interruption, none of them twice |
| 15 | the command is repeated after the sweep has finished | no more runs |
| 16 | MLflow's server is down for a while | training continues; MLflow gets everything once and in order |
| 17 | steps are trained a second time after a kill | one stored point per step |
| 18 | a metric is infinite | a tag names the metric; no number is stored |
| 19 | the spec is edited and keeps its name | two separate sweeps |
| 20 | names, texts and paths are hostile | they are refused or stay plain text |
| 21 | a corpus cannot be used | one error line, before anything is written |
| 22 | the YAML is odd | every mistake is listed with its line |
| 23 | stored tokens are damaged, half-written or written by two at once | the tokens are right |
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from mlflow.entities import Run

from damage import Trap, rewrite, vouch_for
from harness.config.run import DataConfig, RunConfig
from harness.data import open_dataset
from harness.tracking import checkpoint_folder
from harness.tracking.outbox.journal import TAG, Journal
from harness.training.trainer import train
from in_process import call
from paths import SUPPORT
from sandbox import SPEC, Command, Sandbox, exact_curves, saved
from servers import mlflow_server
from warm_start import PATIENCE

pytestmark = pytest.mark.slow

# Runs of a second or two that save several states.
SAVING = SPEC.replace("  batch_tokens", "  checkpoint_every: 0.2\n  batch_tokens")
SMALL = SAVING.replace("6_144", "80_000").replace("tokens: 2_048", "tokens: 16_000").replace("seeds: 2", "seeds: 1")
ENDLESS = SAVING.replace("6_144", "40_000_000").replace("tokens: 2_048", "tokens: 400_000")
ENDLESS = ENDLESS.replace("trials: 2, seeds: 2", "trials: 1, seeds: 1")
TESTS = str(SUPPORT)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """The same sweep without a fault, to compare with."""
    sandbox = Sandbox(tmp_path_factory.mktemp("undisturbed"), SMALL)
    done = call(sandbox, "tiny.yaml", "--workers", "2")
    assert done.returncode == 0, done.stderr
    return sandbox


def stored_metrics(database: Path) -> pd.DataFrame:
    """MLflow's SQLite table of metrics, in the order in which they were stored."""
    with sqlite3.connect(database) as connection:
        return pd.read_sql("select run_uuid, key, step, value, is_nan from metrics order by rowid", connection)


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


# One sweep with several faults: a worker is killed, another hangs, the parent is killed, a state is damaged.


@dataclass(frozen=True)
class Crashed:
    """What the commands left and printed.

    Attributes:
        sandbox: its stores, after the second command.
        first, again: output of the two commands.
        code: exit code of the second.
        statuses, trials: counts of MLflow's and Optuna's states after the parent was killed.
        states: a copy of one run's states, before the newest was damaged.
        damaged: the name of the damaged file.
        config: of that run.
    """

    sandbox: Sandbox
    first: str
    statuses: Counter[str]
    trials: Counter[str]
    states: Path
    damaged: str
    config: RunConfig
    again: str
    code: int


def paused_with_states(sweep: Command, sandbox: Sandbox) -> list[psutil.Process]:
    """Suspend both workers of a sweep in the middle of runs that have states, one of them two; returns them."""

    def in_the_middle() -> bool:
        return len(sandbox.under_way(states=1)) == 2 and bool(sandbox.under_way(states=2))

    while True:
        sweep.until(in_the_middle)
        workers = sweep.workers
        for worker in workers:
            worker.suspend()
        if len(workers) == 2 and in_the_middle():  # no run has ended since
            return workers
        for worker in workers:
            worker.resume()


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    sandbox = Sandbox(tmp_path_factory.mktemp("crashed"), SMALL)
    with sandbox.start("tiny.yaml", "--workers", "2", "--patience", "4") as sweep:
        sweep.until(lambda: len(sandbox.under_way(states=1)) == 2)
        killed, hung = sweep.workers
        killed.kill()
        hung.suspend()
        sweep.until(lambda: ": resumes from step " in sweep.said)
        waiting = [worker for worker in sweep.workers if worker.pid != hung.pid]
        for worker in waiting:
            worker.suspend()  # else it might finish all other runs before the hung one is noticed
        sweep.until(lambda: "no progress for" in sweep.said)
        for worker in waiting:
            with suppress(psutil.NoSuchProcess):  # a slow parent may have counted it as hung too
                worker.resume()
        sweep.until(lambda: sweep.said.count(": resumes from step ") >= 2)
        workers = paused_with_states(sweep, sandbox)
        sweep.process.kill()
        sweep.ended()
        for worker in workers:
            with suppress(psutil.NoSuchProcess):  # the system resumes them when their parent has died
                worker.resume()
        psutil.wait_procs(workers, timeout=PATIENCE)
        assert not any(worker.is_running() for worker in workers)
        first = sweep.said
    statuses = Counter(run.info.status for run in sandbox.runs()[1])
    trials = sandbox.trials()
    [(folder, kept), *_] = sandbox.under_way(states=2)
    states = tmp_path_factory.mktemp("states")
    shutil.copytree(folder / "state", states, dirs_exist_ok=True)
    damaged = saved(folder)[-1].with_suffix(".safetensors")
    damaged.write_bytes(flipped(damaged.read_bytes(), -100 + damaged.stat().st_size))
    again = call(sandbox, "tiny.yaml", "--workers", "2")
    output = again.stdout + again.stderr
    return Crashed(sandbox, first, statuses, trials, states, damaged.name, kept.info.config, output, again.returncode)


def test_01_sigkill_of_a_worker_mid_step(crashed: Crashed, undisturbed: Sandbox) -> None:
    assert re.search(r"worker process \d+ ended by signal SIGKILL; another worker resumes it", crashed.first)
    assert re.search(r": resumes from step [1-9]", crashed.first)
    assert crashed.sandbox.outcomes() == undisturbed.outcomes()
    pd.testing.assert_frame_equal(exact_curves(crashed.sandbox.uri), exact_curves(undisturbed.uri), check_exact=True)


def test_02_sigkill_of_the_parent(crashed: Crashed, undisturbed: Sandbox) -> None:
    assert crashed.statuses["RUNNING"] == 2 or crashed.trials["RUNNING"] == 2  # as MLflow and Optuna leave them
    assert crashed.code == 0, crashed.again
    assert re.search(r"recovered from an earlier process: \d interrupted runs?", crashed.again)
    assert crashed.sandbox.trials() == {"COMPLETE": 4}
    assert crashed.sandbox.outcomes() == {
        ("explore", "complete", "FINISHED"): 4,
        ("confirm", "complete", "FINISHED"): 2,
    }
    assert [run.info.status for run in crashed.sandbox.runs()[0]] == ["FINISHED"]
    pd.testing.assert_frame_equal(exact_curves(crashed.sandbox.uri), exact_curves(undisturbed.uri), check_exact=True)
    assert not crashed.sandbox.work.exists()


SAVE_AND_DIE = """
import json, os, shutil, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
import torch
torch.set_num_threads(1)
from harness.tracking import checkpoint_folder
from harness.tracking.outbox.journal import TAG, Journal
from harness.training.trainer import train
from helpers import small_config

config = small_config(model={{"drop_rate": 0.2}})

def until(folder, step):
    points = train(config, state=folder, after=-1)
    while next(points).step < step:
        pass
    points.close()

def loss(folder):
    *_, last = train(config, state=folder, after=-1)
    return last.metrics["val/loss"]

def dies_at(number, name, plain):
    def call(*arguments):
        calls.append(name)
        if len(calls) == number:
            if name == "write":
                plain(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments)
    return call

base = Path({folder!r}) / "base"
until(base, 1)
until(base, 2)
number, killed = 0, True
while killed:
    number += 1
    folder = base.with_name(str(number))
    shutil.copytree(base, folder)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        calls = []
        for name in ("write", "fsync", "replace", "unlink"):
            setattr(os, name, dies_at(number, name, getattr(os, name)))
        until(folder, 3)
        os._exit(0)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    said = []
    points = train(config, state=folder, after=-1, on_start=lambda step, note: said.append((step, note)))
    next(points)
    points.close()
    print(json.dumps([killed, *said[0], loss(folder)]))
print(loss(base.with_name("whole")))
"""


def test_03_sigkill_at_every_write_of_a_save(tmp_path: Path) -> None:
    """A process is killed at its first write, flush, rename or removal, the next one at its second, and so on."""
    script = SAVE_AND_DIE.format(tests=TESTS, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    *lines, whole = map(json.loads, done.stdout.splitlines())
    assert len(lines) > 20
    steps = [step for _, step, _, _ in lines]
    assert [killed for killed, *_ in lines] == [True] * (len(lines) - 1) + [False]
    assert steps == [2] * steps.count(2) + [3] * steps.count(3)
    assert steps.count(2) > 15 and steps.count(3) > 2
    half = "state-000003.json is missing; resumed from the state before, of step 2"
    assert {note for _, _, note, _ in lines} == {"", half}
    assert {loss for *_, loss in lines} == {whole}


def limited(process: psutil.Process, size: int) -> None:
    """Limit the files of a process to `size` bytes, so that the disk seems full."""
    process.rlimit(psutil.RLIMIT_FSIZE, (size, psutil.RLIM_INFINITY))


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="only Linux can limit another process")
def test_04_disk_full(tmp_path: Path) -> None:
    longer = SMALL.replace("80_000", "160_000").replace("[0.0, 0.2]", "[0.0]").replace("trials: 2", "trials: 1")
    sandbox = Sandbox(tmp_path, longer)
    with sandbox.start("tiny.yaml", "--workers", "1") as sweep:
        [worker] = sweep.until(lambda: sweep.workers)
        limited(worker, 100)  # before it can save its first state
        sweep.until(lambda: "✗" in sweep.said)
        limited(worker, psutil.RLIM_INFINITY)
        [(folder, _)] = sweep.until(lambda: sandbox.under_way(states=1))  # the trial in its place
        limited(psutil.Process(sweep.process.pid), 2000)
        assert sweep.ended() == 1
        assert re.search(r"✗ 1/\d .* failed: disk: File too large: \S+/state-\d+\.\w+", sweep.said)
        full = f"disk: File too large: {(folder / 'journal.jsonl').relative_to(tmp_path)}; the same command resumes it"
        assert full in sweep.said
        assert "Traceback" not in sweep.said
    again = call(sandbox, "tiny.yaml", "--workers", "1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert re.search(r": resumes from step [1-9]", again.stdout)
    assert "damaged" not in again.stdout
    assert sandbox.outcomes() == {
        ("explore", "failed", "FAILED"): 1,
        ("explore", "complete", "FINISHED"): 1,
        ("confirm", "complete", "FINISHED"): 1,
    }
    [failed] = [run for run in sandbox.runs()[1] if run.info.status == "FAILED"]
    assert failed.data.tags["harness.reason"].startswith("disk: File too large: ")
    assert "val/loss" in failed.data.metrics  # what it had measured before


def regions(states: Path) -> Iterator[tuple[Path, int]]:
    """A byte in every part of the newest state: its tensors' header and every tensor, its points, its description."""
    description = sorted(states.glob("*.json"))[-1]
    tensors = description.with_suffix(".safetensors")
    content = tensors.read_bytes()
    length = int.from_bytes(content[:8], "little")
    yield from ((tensors, place) for place in (0, 7, 8, 8 + length // 2, 8 + length - 1))
    for entry in json.loads(content[8 : 8 + length]).values():
        begin, end = entry["data_offsets"]
        yield tensors, 8 + length + (begin + end) // 2
    yield tensors, len(content) - 1
    points = json.loads(description.read_text())["points"]
    yield from ((states / points["file"], place) for place in (0, points["bytes"] // 2, points["bytes"] - 1))
    size = description.stat().st_size
    yield from ((description, place) for place in [*range(0, size, size // 12), size - 1])


@pytest.mark.parametrize("lost", [False, True], ids=["flipped", "missing"])
def test_05_a_byte_of_a_checkpoint(lost: bool, crashed: Crashed, tmp_path: Path) -> None:
    said = f"{crashed.damaged} is damaged; resumed from the state before, of step "
    assert said in crashed.again  # test 1 checks that its curves are the same
    [info] = [
        run.data.tags["harness.resumed"]
        for run in crashed.sandbox.runs()[1]
        if "damaged" in run.data.tags.get("harness.resumed", "")
    ]
    assert said in info
    count = 0
    for number, (file, place) in enumerate(regions(crashed.states)):
        folder = tmp_path / str(number)
        shutil.copytree(crashed.states, folder)
        content = file.read_bytes()
        damaged = content[:place] + content[place + 1 :] if lost else flipped(content, place)
        (folder / file.name).write_bytes(damaged)
        notes: list[str] = []
        points = train(crashed.config, state=folder, on_start=lambda _, note: notes.append(note))  # noqa: B023
        next(points)
        assert notes[0].startswith(f"{file.name} is damaged; resumed from the state before"), (file.name, place)
        count += 1
    assert count > 40


# An endless sweep that is stopped three times, once with a malicious state.


@dataclass(frozen=True)
class Stopped:
    """What the commands left and printed.

    Attributes:
        sandbox: where.
        running, between: what `--status` said while the sweep was running, and after the first stop.
        second: a second process on the same sweep, while the first was running.
        pid: of the first.
        codes, said: of the three commands.
        statuses: after each: MLflow's statuses of the sweep's run and of its trials, and Optuna's states, counted.
        trap: what the trap would have made.
        trapped: the name of its state.
    """

    sandbox: Sandbox
    running: str
    between: str
    second: subprocess.CompletedProcess[str]
    pid: int
    codes: list[int]
    said: list[str]
    statuses: list[Counter[str]]
    trap: Path
    trapped: str


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    sandbox = Sandbox(tmp_path_factory.mktemp("stopped"), ENDLESS)
    trap = sandbox.folder / "sprung"
    codes, said, statuses = [], [], []

    def ended(sweep: Command) -> None:
        codes.append(sweep.ended())
        said.append(sweep.said)
        [parent], children = sandbox.runs()
        found = Counter(f"sweep {parent.info.status}" for _ in range(1))
        found.update(f"run {run.info.status}" for run in children)
        found.update(f"trial {state}" for state in sandbox.trials().elements())
        statuses.append(found)

    with sandbox.start("tiny.yaml", "--workers", "2") as sweep:
        sweep.until(lambda: len(sandbox.under_way(states=2)) == 2)
        pid = sweep.process.pid
        second = call(sandbox, "tiny.yaml", "--workers", "1")
        running = call(sandbox, "tiny.yaml", "--status").stdout
        os.killpg(pid, signal.SIGINT)  # as a terminal does, to the workers too
        ended(sweep)
    between = call(sandbox, "tiny.yaml", "--status").stdout

    [(folder, _), *_] = sandbox.open_runs()
    newest = saved(folder)[-1]
    torch.save({"model.tok_emb.weight": Trap(trap)}, sandbox.folder / "pickle.pt")
    rewrite(newest.parent, int(newest.stem[-6:]), (sandbox.folder / "pickle.pt").read_bytes())
    with sandbox.start("tiny.yaml", "--workers", "2", "--threads", "2") as sweep:
        sweep.until(lambda: sweep.said.count(": resumes from step ") == 2)
        sweep.process.send_signal(signal.SIGTERM)
        ended(sweep)

    with sandbox.start("tiny.yaml", "--workers", "1") as sweep:
        sweep.until(lambda: ": resumes from step " in sweep.said)
        [worker] = sweep.workers
        worker.suspend()  # so it ignores the first Ctrl-C
        sweep.process.send_signal(signal.SIGINT)
        sweep.until(lambda: "again to stop at once" in sweep.said)
        sweep.process.send_signal(signal.SIGINT)
        ended(sweep)
        assert not worker.is_running()
    return Stopped(sandbox, running, between, second, pid, codes, said, statuses, trap, newest.stem)


def test_06_a_malicious_checkpoint(stopped: Stopped, undisturbed: Sandbox, tmp_path: Path) -> None:
    assert f"{stopped.trapped} does not fit; resumed from the state before, of step " in stopped.said[1]
    assert not stopped.trap.exists()
    run = next(run for run in undisturbed.runs()[1] if run.data.tags["harness.phase"] == "confirm")
    good = str(shutil.copytree(checkpoint_folder(run.info.run_id, undisturbed.uri), tmp_path / "checkpoint"))
    torch.save({"tok_emb.weight": Trap(stopped.trap)}, tmp_path / "pickle.pt")
    vouch_for(Path(good), (tmp_path / "pickle.pt").read_bytes())
    refused = call(undisturbed, good, module="harness.generate")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1 and "model.safetensors" in refused.stderr, refused.stderr
    assert not stopped.trap.exists()
    torch.load(tmp_path / "pickle.pt", weights_only=False)
    assert stopped.trap.exists()  # the trap works


def test_07_another_number_of_threads(stopped: Stopped) -> None:
    said = "resumed with 2 threads, was 1: not bit-equal"
    assert stopped.said[1].count(said) == 2
    assert "not bit-equal" not in stopped.said[0]
    resumed = [run.data.tags["harness.resumed"] for run in stopped.sandbox.runs()[1]]
    assert any("resumed with 1 thread, was 2: not bit-equal" in tag for tag in resumed)
    assert any(said in tag for tag in resumed)


def test_10_ctrl_c_and_sigterm(stopped: Stopped) -> None:
    assert stopped.codes == [130, 143, 130]
    command = "the same command resumes it: python -m harness.sweep tiny.yaml --workers"
    assert f"stopped; {command} 2" in stopped.said[0]
    assert f"stopped; {command} 2 --threads 2" in stopped.said[1]
    assert f"stopped at once; {command} 1" in stopped.said[2]
    assert not any("Traceback" in said for said in stopped.said)
    closed = {"sweep KILLED": 1, "run KILLED": 2, "trial WAITING": 2}
    assert stopped.statuses == [closed] * 3
    assert all("interrupted" in key for key in map(str, stopped.sandbox.outcomes()))
    for said in stopped.said[1:]:
        assert "2 interrupted runs to resume" in said


# A sweep with many failures: two thirds of its learning rates are too high, every other trial asks for a GPU that was
# there when the command started and is gone in the workers, and one arm would need 64 TiB.

FAILING = """\
name: tiny
question: What goes wrong?
data: {corpus: sotu-1820, tokenizer: byte}
model: {context_length: 32, n_heads: 2, n_layers: 1}
train:
  budget: {tokens: 6_144}
  batch_tokens: 256
  eval_every: {tokens: 2_048}
  train_eval_tokens: 512
  sample: {max_new_tokens: 8}
  warmup: 0.0
  grad_clip: null
compare:
  model.emb_dim: [32, 4194304]
tune:
  train.learning_rate: {choice: [5e-3, 1e30, 20.0]}
  train.device: {choice: [cpu, cuda]}
study: {sampler: grid, seeds: 1}
"""
TRIALS, MORE = 6, 2  # of each arm, and in place of failed ones
Failing = tuple[Sandbox, Command]


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Failing:
    sandbox = Sandbox(tmp_path_factory.mktemp("failing"), FAILING)
    script = (
        "from harness.runner import devices; devices.available_devices = lambda: ('cuda', 'cpu');"
        "from harness.sweep import app; app()"
    )
    command = ["-c", script, "tiny.yaml", "--workers", "1"]
    with Command(command, sandbox.folder, {**os.environ, "CUDA_VISIBLE_DEVICES": ""}) as sweep:
        sweep.ended()
    return sandbox, sweep


def runs_of(sandbox: Sandbox, outcome: str) -> list[Run]:
    return [run for run in sandbox.runs()[1] if run.data.tags["harness.outcome"] == outcome]


def test_08_a_loss_that_is_nan(failing: Failing) -> None:
    sandbox, _ = failing
    [run] = runs_of(sandbox, "diverged")
    assert run.info.status == "FAILED"
    assert run.data.tags["harness.reason"] in (
        "loss is nan at step 2",
        "loss is inf at step 2",
    )  # the first step did it
    assert float(run.data.params["train.learning_rate"]) == 1e30
    trials = sandbox.studies()["tiny/emb_dim=32"].trials
    [trial] = [trial for trial in trials if trial.params.get("train.learning_rate") == 1e30 and trial.value]
    assert trial.state.name == "COMPLETE" and trial.value == pytest.approx(
        5.545, abs=0.1
    )  # the loss of an untrained model
    confirmed = [run for run in sandbox.runs()[1] if run.data.tags["harness.phase"] == "confirm"]
    assert [float(run.data.params["train.learning_rate"]) for run in confirmed] == [5e-3]


def test_09_out_of_memory(failing: Failing) -> None:
    sandbox, _ = failing
    runs = runs_of(sandbox, "oom")
    assert 3 <= len(runs) <= 3 + MORE
    assert all("can't allocate memory" in run.data.tags["harness.reason"] for run in runs)
    assert {run.info.status for run in runs} == {"FAILED"}
    study = sandbox.studies()["tiny/emb_dim=4194304"]
    assert [trial.state.name for trial in study.trials] == ["FAIL"] * (TRIALS + MORE)
    first = {tuple(trial.params.values()) for trial in study.trials[:TRIALS]}
    assert len(first) == TRIALS  # every value was tried once before any was retried
    first_end = min(run.info.end_time for run in runs)
    assert any(run.info.start_time > first_end for run in runs_of(sandbox, "complete"))  # in the same worker


def test_11_an_exception_in_a_trial(failing: Failing) -> None:
    sandbox, sweep = failing
    runs = runs_of(sandbox, "failed")
    assert 6 <= len(runs) <= 6 + 2 * MORE
    reason = "DeviceError: train.device: found cuda; allowed on this machine: auto, cpu"
    for run in runs:
        assert (run.info.status, run.data.tags["harness.reason"]) == ("FAILED", reason)
        text = sandbox.client.download_artifacts(run.info.run_id, "traceback.txt")
        assert Path(text).read_text("utf-8").count("Traceback (most recent call last)") == 1
    assert len(runs_of(sandbox, "complete")) == 3  # two trials that do not diverge, and the confirm run
    assert sweep.process.returncode == 1
    assert sweep.said.count("failed: emb_dim=32 · learning_rate=") >= 3
    assert "Traceback" not in sweep.said


def test_18_a_metric_that_is_infinite(failing: Failing) -> None:
    sandbox, _ = failing
    [run] = [run for run in sandbox.runs()[1] if "harness.non_finite" in run.data.tags]
    assert run.data.tags["harness.non_finite"] == "train/perplexity, val/perplexity"
    assert (run.data.tags["harness.outcome"], float(run.data.params["train.learning_rate"])) == ("complete", 20.0)
    points = stored_metrics(sandbox.folder / "mlruns" / "mlflow.db")
    assert not points["is_nan"].any() and np.isfinite(points["value"]).all() and points["value"].abs().max() < 1e300
    losses = points[(points["run_uuid"] == run.info.run_id) & (points["key"] == "val/loss")]
    assert list(losses["step"]) == [0, 8, 16, 24] and losses["value"].max() > 710  # whose exponential overflows


# The command, with a signal that arrives while Python runs a callback of a weak reference.
DROPPED = """\
import os, runpy, signal, weakref
import harness.tracking as tracking

class Thing: pass

def opened(self, info, _open=tracking.Tracker.begin_sweep):
    thing = Thing()
    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.{name}))
    del thing
    return _open(self, info)

tracking.Tracker.begin_sweep = opened
runpy.run_module("harness.sweep", run_name="__main__")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_10_a_signal_that_python_drops(name: str, tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    command = ["-c", DROPPED.format(name=name), "tiny.yaml"]
    with Command(command, sandbox.folder) as sweep:
        assert sweep.ended() == 128 + getattr(signal, name)
    assert "Exception ignored" in sweep.said
    assert "stopped at once; the same command resumes it" in sweep.said
    (parent,), trials = sandbox.runs()
    assert (parent.info.status, trials) == ("KILLED", [])


def begun(sandbox: Sandbox) -> int:
    """How often a worker has started or resumed a run."""
    records = [Journal(path.parent).read() for path in sandbox.work.glob("*/*/journal.jsonl")]
    return sum(entry.kind == TAG and "device" in entry.content for record in records for entry in record)


def test_12_a_worker_that_hangs(crashed: Crashed, tmp_path: Path) -> None:
    assert re.search(
        r": no progress for \d+ s; another worker resumes it", crashed.first
    )  # and is finished, as in test 1
    wide = "{context_length: 256, emb_dim: 256, n_heads: 4, n_layers: 4}"  # the first evaluation takes a second
    spec = SPEC[: SPEC.index("compare:")].replace("{context_length: 32, emb_dim: 32, n_heads: 2, n_layers: 1}", wide)
    sandbox = Sandbox(tmp_path, spec.replace("train_eval_tokens: 512", "train_eval_tokens: 16_000"))
    with sandbox.start("tiny.yaml", "--workers", "1", "--patience", "3") as sweep:
        hung: list[psutil.Process] = []
        for number in range(4):  # the first worker, and three that resume the run
            sweep.until(lambda: begun(sandbox) > number)  # noqa: B023
            hung += sweep.workers
            hung[-1].suspend()
            if number < 3:
                sweep.until(lambda: sweep.said.count("; another worker resumes it") > number)  # noqa: B023
        assert sweep.ended() == 1
        assert not any(worker.is_running() for worker in hung)
    assert sandbox.outcomes() == {("confirm", "failed", "FAILED"): 1}
    assert re.fullmatch(r"no progress for \d+ s", sandbox.runs()[1][0].data.tags["harness.reason"])


def test_13_two_parents_on_one_sweep(stopped: Stopped) -> None:
    assert stopped.second.returncode == 3
    assert stopped.second.stderr == f"tiny is already being run by process {stopped.pid}; wait for it or stop it\n"
    assert re.search(rf"^running for \S+ s?, by process \S+:{stopped.pid}:", stopped.running, re.MULTILINE)
    assert len(re.findall(r"^drop 0.\d +0/1 +0/1 +1 +0 +0 +1 ", stopped.running, re.MULTILINE)) == 2
    assert "not running: interrupted; the same command resumes it" in stopped.between
    assert len(re.findall(r"^drop 0.\d +0/1 +0/1 +0 +1 +0 +1 ", stopped.between, re.MULTILINE)) == 2


def test_14_an_interrupted_search_repeats_no_values(crashed: Crashed, undisturbed: Sandbox) -> None:
    """Each command makes its own sampler from the same seed."""
    assert "recovered from" in crashed.again
    for name, study in crashed.sandbox.studies().items():
        points = [trial.params["train.learning_rate"] for trial in study.trials]
        assert len(points) == len(set(points)) == 2
        assert points == [trial.params["train.learning_rate"] for trial in undisturbed.studies()[name].trials]


def test_15_a_command_that_is_repeated(undisturbed: Sandbox) -> None:
    before = sorted(run.info.run_id for run in undisturbed.runs()[1])
    assert len(before) == 2 * (2 + 1)
    again = call(undisturbed, "tiny.yaml", "--workers", "3")
    assert again.returncode == 0, again.stderr
    assert sorted(run.info.run_id for run in undisturbed.runs()[1]) == before
    assert undisturbed.trials() == {"COMPLETE": 4}
    status = call(undisturbed, "tiny.yaml", "--status").stdout
    assert status.splitlines()[-1] == "complete"
    assert len(re.findall(r"^drop 0.\d +2/2 +1/1 +0 +0 +0 +0 ", status, re.MULTILINE)) == 2


def test_16_a_tracking_server_that_is_down_for_a_while(undisturbed: Sandbox, tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "sweep", SMALL)
    folder = tmp_path / "server"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        with mlflow_server(folder, port):
            sweep = stack.enter_context(sandbox.start("tiny.yaml", "--workers", "2", "--tracking", uri))
            sweep.until(lambda: len(stored_metrics(folder / "server.db")))
        done, stored = sweep.said.count("✓"), len(stored_metrics(folder / "server.db"))
        sweep.until(lambda: "MLflow cannot store results, so they wait on disk" in sweep.said)
        sweep.until(lambda: sweep.said.count("✓") >= done + 2)  # training does not wait
        assert len(stored_metrics(folder / "server.db")) == stored
        with mlflow_server(folder, port):
            assert sweep.ended() == 0, sweep.said
            pd.testing.assert_frame_equal(exact_curves(uri), exact_curves(undisturbed.uri), check_exact=True)
    assert "Traceback" not in sweep.said
    stored_once_and_in_order(folder / "server.db")
    with sqlite3.connect(folder / "server.db") as connection:
        assert connection.execute("select status, count(*) from runs group by status").fetchall() == [("FINISHED", 7)]
    assert not sandbox.work.exists()


def stored_once_and_in_order(database: Path) -> None:
    points = stored_metrics(database)
    assert len(points) > 1000
    assert not points.duplicated(["run_uuid", "key", "step"]).any()
    for _, curve in points.groupby(["run_uuid", "key"]):
        assert curve["step"].is_monotonic_increasing


def test_17_steps_that_are_trained_twice(crashed: Crashed) -> None:
    assert crashed.again.count(": resumes from step ") == 2
    stored_once_and_in_order(crashed.sandbox.folder / "mlruns" / "mlflow.db")


def test_19_an_edited_spec_of_the_same_name(stopped: Stopped) -> None:
    sandbox = stopped.sandbox
    old, studies = sandbox.outcomes(), set(sandbox.studies())
    states = sorted(sandbox.work.rglob("state-*"))
    small = ["--set", "train.budget.tokens=2_048", "--set", "compare={model.drop_rate: [0.0]}", "--workers", "1"]
    edited = call(sandbox, "tiny.yaml", *small)
    assert edited.returncode == 0, edited.stdout + edited.stderr
    said = (
        "the spec (train.budget.tokens, compare.model.drop_rate) changed since the last sweep of this name: "
        "this is a new sweep, and the earlier runs are kept"
    )
    assert said in " ".join(edited.stdout.split())
    new = Counter({("explore", "complete", "FINISHED"): 1, ("confirm", "complete", "FINISHED"): 1})
    assert sandbox.outcomes() == old + new
    assert len(sandbox.runs()[0]) == 2
    [added] = set(sandbox.studies()) - studies
    assert added.startswith("tiny/drop_rate=0.0@")
    assert states == sorted(sandbox.work.rglob("state-*")) != []
    assert len(pd.read_csv(sandbox.folder / "reports" / "tiny" / "runs.csv")) == 2

    fresh = call(sandbox, "tiny.yaml", *small, "--fresh")
    assert fresh.returncode == 0, fresh.stdout + fresh.stderr
    aside = rf"starting a new sweep; set aside: 1 Optuna studies \({added}\); the MLflow run \w+ with all its runs"
    assert re.search(aside, fresh.stdout), fresh.stdout
    assert sandbox.outcomes() == old + new + new
    assert len(sandbox.runs()[0]) == 3


def refused(sandbox: Sandbox, *arguments: str, module: str = "harness.sweep") -> list[str]:
    """The error lines of a command that must exit with 2 and leave no files."""
    before = sorted(path.name for path in sandbox.folder.rglob("*"))
    done = call(sandbox, *arguments, module=module)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and not done.stdout, done.stdout
    assert sorted(path.name for path in sandbox.folder.rglob("*")) == before
    return done.stderr.splitlines()


@pytest.mark.parametrize("name", ["../../etc", "<script>alert(1)</script>", "/tmp/x", "..", "", "é"])
def test_20_hostile_names(name: str, tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "in", SPEC.replace("name: tiny", f"name: {name!r}"), store=False)
    [said] = refused(sandbox)
    assert said.startswith(f"tiny.yaml:1: name: found {name!r}; allowed: 1 to 64 of a-z 0-9 - _"), said
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "tiny.yaml"]


def test_20_hostile_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script><img src=x onerror=alert(2)>&amp; [b]{{ 7*7 }} `id` $(id)"
    sandbox = Sandbox(tmp_path, SPEC.replace("corpus: sotu-1820, ", ""))
    corpus = tmp_path / "<img src=x onerror=alert(3)> {{ 7*7 }}.txt"
    corpus.write_text((bad + " and so on.\n") * 400, "utf-8")
    settings = {"question": bad, "data.path": str(corpus), "train.sample.prompt": bad, "train.budget.tokens": 2048}
    options = [f"--set={path}={json.dumps(value)}" for path, value in settings.items()]
    options += ["--set=compare={model.drop_rate: [0.0]}", "--set=study.trials=1", "--set=study.seeds=1"]
    done = call(sandbox, "tiny.yaml", "--workers", "1", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"tiny: {bad}\n")
    page = (tmp_path / "reports" / "tiny" / "report.html").read_text("utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x" in page
    assert "<script>alert" not in page and "<img src=x" not in page
    assert "{{ 7*7 }}" in page


def make_sparse(file: Path) -> None:
    """A file of 4 TB without a block on the disk."""
    file.touch()
    os.truncate(file, 1 << 42)


CORPORA: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda file: None, "found no file for 'text.txt'"),
    "a folder": (Path.mkdir, "found no text in the folder 'text.txt'"),
    "empty": (lambda file: file.write_bytes(b""), "found no text in 1 file: text.txt"),
    "white space": (lambda file: file.write_text(" \n" * 5000), "found no text in 1 file: text.txt"),
    "binary": (lambda file: file.write_bytes(b"abc\0def" * 900), "found a NUL at byte offset 3 of 'text.txt'"),
    "not UTF-8": (lambda file: file.write_bytes(b"caf\xe9 " * 900), "found 0xe9 at byte offset 3 of 'text.txt'"),
    "tiny": (lambda file: file.write_text("ab"), "byte tokens in "),
    "shorter than the context": (
        lambda file: file.write_text("a" * 38),
        "found 32; allowed: under 30, the tokens of the train split",
    ),
    "unreadable": (lambda file: file.symlink_to("/proc/self/mem"), "'text.txt', which cannot be read (Input/output"),
    "huge": (make_sparse, "found 4,398.0 GB in 1 file"),
}


@pytest.mark.parametrize("kind", CORPORA)
def test_21_a_corpus_that_cannot_be_used(kind: str, tmp_path: Path) -> None:
    if kind == "unreadable" and not Path("/proc/self/mem").exists():
        pytest.skip("needs a file that even root cannot read")
    make, words = CORPORA[kind]
    sandbox = Sandbox(tmp_path, SPEC.replace("corpus: sotu-1820", "path: text.txt"))
    make(tmp_path / "text.txt")
    said, *more = refused(sandbox)
    assert re.match(r"tiny.yaml:\d+: (data\.\w+|model.context_length): ", said), said
    assert words in said and "; allowed: " in said, said
    assert not more or kind == "shorter than the context"  # than each of the three splits


def test_22_odd_yaml(tmp_path: Path) -> None:
    odd = (
        SPEC.replace("emb_dim: 32", "emb_dim: wide, widht: 7")
        .replace("budget", "budgte")
        .replace("heads: 2", "heads: 0")
    )
    lines = refused(Sandbox(tmp_path, odd))
    assert {("tiny.yaml:4", "model.emb_dim"), ("tiny.yaml:4", "model.n_heads")} <= {
        tuple(line.split(": ")[:2]) for line in lines
    }
    assert any(line.startswith("tiny.yaml:4: model.widht: ") for line in lines), lines
    assert any(line.startswith("tiny.yaml:6: train.budgte: ") and "budget" in line for line in lines), lines
    [twice] = refused(Sandbox(tmp_path, SPEC + "name: other\n"))
    assert twice == "tiny.yaml:17: name: found twice (first on line 1); allowed: once"
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12)]
    lines = refused(Sandbox(tmp_path, "\n".join([SPEC + "l0: &l0 [x]", *levels])))
    assert lines and all(len(line) < 500 for line in lines), lines


def test_23_stored_tokens_that_are_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("GPT_HARNESS_CACHE", str(cache))
    config = DataConfig(corpus="sotu-1820", tokenizer="byte")
    code = "from harness.config.run import DataConfig; from harness.data import open_dataset;"
    command = ["-c", f"{code} open_dataset(DataConfig(corpus='sotu-1820', tokenizer='byte'))"]
    both = [Command(command, tmp_path) for _ in range(2)]  # at once, into the same empty folder
    assert [one.ended() for one in both] == [0, 0], both[0].said + both[1].said
    [folder] = (cache / "tokens").iterdir()
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert len(whole) == 5
    for content in (flipped(whole["train.npy"], 500), whole["train.npy"][:-50], None):
        if content is None:
            (folder / "meta.json").unlink()  # as if the process that wrote it was killed
            (folder / "val.npy").write_bytes(whole["val.npy"][:300])
        else:
            (folder / "train.npy").write_bytes(content)
        open_dataset(config)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole
    tokens = open_dataset(config)
    text = b"".join(bytes(tokens.tokens(split).tolist()) for split in ("train", "val", "test"))
    assert hashlib.sha256(text).hexdigest() == tokens.sha256  # bytes are their own tokens
