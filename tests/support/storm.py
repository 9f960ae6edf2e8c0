"""Kill a sweep again and again until it finishes, then check that nothing is lost, duplicated or wrong.

    python tests/support/storm.py --kills 100
    python tests/support/storm.py --kills 100 --ray
    python tests/support/storm.py --kills 100 --postgres

A sweep of small trials with two workers gets SIGKILL, SIGTERM, Ctrl-C or the SIGHUP of a closed terminal at random
moments, in the parent or a worker, sometimes twice. Another process locks one of its databases for some seconds, also
while it is killed or starts; with --postgres their server also restarts, crashes or ends all connections. When the
parent has ended, the same command is started again. A sweep that finishes before all kills are used gets more seeds. At
the end its stores are compared with those of an undisturbed sweep.

With --ray the sweep trains on a Ray cluster of three nodes on this machine. There a worker or its training process is
killed, a node dies and another one joins, a node freezes for some seconds, and the whole cluster with its head is
replaced. The undisturbed sweep trains on local workers.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import pandas as pd
import psutil
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus

import warm_start
from empty_store import copy_empty_store
from harness.core.paths import ARTIFACTS_VARIABLE, WEIGHTS, sqlite_file, with_driver
from harness.model.weights import load_checkpoint
from harness.tracking import checkpoint_folder, load_curves, load_runs
from locks import lock_for
from postgres import Server, Stores, running
from ray_nodes import Nodes, frozen, training_process
from sandbox import exact_curves, workers_of

Process = subprocess.Popen[Any] | warm_start.WarmProcess

TRIALS = 2
SPEC = """\
name: storm
question: Is anything lost?
data: {corpus: sotu-1820, tokenizer: byte}
model: {context_length: 32, emb_dim: 32, n_heads: 2, n_layers: 1}
train:
  budget: {tokens: 20_480}
  batch_tokens: 256
  eval_every: {tokens: 5_120}
  train_eval_tokens: 512
  checkpoint_every: 0.3
  sample: {max_new_tokens: 8}
compare:
  model.drop_rate: [0.0, 0.2]
tune:
  train.learning_rate: {log_uniform: [1e-3, 1e-2]}
  train.weight_decay: {uniform: [0, 0.2]}
study: {sampler: random, trials: 2, seeds: 2}
"""
# Before the command installs its handlers, and after it has finished, Python itself handles signals.
ENDS = (0, 129, 130, 143, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
# What Python prints if a signal arrives during a callback of its own (the command ends a little later), and what a
# starting worker prints whose parent has been killed.
_LOST = re.compile(r"Exception ignored in.*\nTraceback \(most recent call last\):\n(?:(?:  .*)?\n)+\S*Interrupt.*\n")
_UNBORN = re.compile(r"Traceback \(most recent call last\):\n(?:  .*\n)+EOFError: .*\n")
# Printed before the command ends with 1, or by Ray itself, which ends any process a minute after the head has gone.
_NO_HEAD = ("the head of the Ray cluster has not answered", "Failed to connect to GCS")
LONGEST_FREEZE = 10.0  # seconds
LONGEST_LOCK = 6.0  # seconds; a command that is stopped waits ten
GIVE_UP = 300.0  # seconds to wait for the end of a stopped process, or of the undisturbed sweep


@dataclasses.dataclass
class Storm:
    """The kills and locks of a storm, and the errors found afterwards."""

    kills: Counter[str] = dataclasses.field(default_factory=Counter)
    locks: list[subprocess.Popen[str]] = dataclasses.field(default_factory=list)
    commands: int = 0
    seeds: int = 2
    seconds: float = 0.0
    runs: int = 0
    points: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        return (
            f"{sum(self.kills.values())} kills ({kinds}), {self.commands} commands, {self.seconds:.0f} s; "
            f"{self.runs} runs with {self.points} points; "
            + ("nothing lost, duplicated or wrong" if not self.errors else "\n".join(["ERRORS:", *self.errors]))
        )


def command(seeds: int, ray: str = "") -> list[str]:
    """The arguments of Python; only the number of seeds and the address of the cluster change."""
    place = ["--ray", ray] if ray else []
    sweep = ["-m", "harness.sweep", "storm.yaml", "--workers", "2"]
    return [*sweep, *place, "--set", f"study.seeds={seeds}"]


def storm(
    folder: Path,
    kills: int,
    seed: int,
    longest: float = 12.0,
    nodes: Nodes | None = None,
    server: Server | None = None,
    undisturbed: Callable[[int], Path] | None = None,
    told: Callable[[Storm], object] = lambda _: None,
    warm: bool = False,
) -> Storm:
    """Run the storm in `folder`.

    Args:
        folder: empty.
        kills: how many.
        seed: of the random moments and processes; the exact moments depend on the machine.
        longest: greatest number of seconds between two kills.
        nodes: the Ray cluster that trains; None: local workers.
        server: a PostgreSQL server for the stores of the stormy sweep; None: SQLite files.
        undisturbed: returns the folder with the undisturbed sweep of this many seeds; None: one is run at the end.
        told: called after each kill or lock.
        warm: whether commands have their imports already and SQLite files their tables, which halves the time.
    """
    chance, found = random.Random(seed), Storm()
    stormy = _folder(folder / "stormy")
    stores = server.stores() if server else files_of(stormy)
    environment = {**os.environ, **(stores.environment if server else {})}
    if warm and not server:
        copy_empty_store(stormy / "mlruns" / "mlflow.db")
    began = time.monotonic()
    while True:
        process = _start(stormy, found, nodes, environment, warm)
        while process.poll() is None and sum(found.kills.values()) < kills:
            if not _wait(process, chance.uniform(0.2, longest)):
                found.kills[_hit(process, found, stores, chance, nodes, server)] += 1
                told(found)
        code = process.wait(GIVE_UP)
        output = (stormy / "output.txt").read_text("utf-8")
        if code == -signal.SIGINT:  # with a traceback of Python's own
            output = ""
        without_head = code == 1 and any(words in output for words in _NO_HEAD)
        if "Traceback" in _LOST.sub("", _UNBORN.sub("", output)) or not (code in ENDS or without_head):
            found.errors.append(f"the command ended with {code} and printed:\n{output}")
        if code == 0 and sum(found.kills.values()) < kills:
            found.seeds += 2  # it has finished: give it more to do
        elif code == 0 or found.errors:
            break
    found.seconds = time.monotonic() - began
    for holder in found.locks:
        holder.communicate()
    try:
        calm = undisturbed(found.seeds) if undisturbed else _undisturbed(folder, found.seeds)
    except subprocess.CalledProcessError as error:
        found.errors.append(f"the undisturbed sweep failed: {error.stderr}")
    else:
        _compare(stormy, calm, found, stores)
    return found


def _folder(path: Path) -> Path:
    path.mkdir()
    (path / "storm.yaml").write_text(SPEC, "utf-8")
    return path


def _undisturbed(folder: Path, seeds: int) -> Path:
    calm = _folder(folder / "calm")
    subprocess.run(
        [sys.executable, *command(seeds)], cwd=calm, capture_output=True, text=True, timeout=3600, check=True
    )
    return calm


def files_of(folder: Path) -> Stores:
    """The SQLite files of a sweep in a folder."""
    return Stores(*(f"sqlite:///{folder}/mlruns/{name}.db" for name in ("mlflow", "optuna")))


def _start(folder: Path, found: Storm, nodes: Nodes | None, environment: dict[str, str], warm: bool) -> Process:
    found.commands += 1
    words = command(found.seeds, nodes.address if nodes else "")
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        if warm:
            return warm_start.start(words, folder, output, output, environment, figures=False)
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(process: Process, seconds: float) -> bool:
    """Wait; whether the process ended by itself."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _hit(
    process: Process,
    found: Storm,
    stores: Stores,
    chance: random.Random,
    nodes: Nodes | None,
    server: Server | None,
) -> str:
    """Lock a database, or harm its server, the parent, a worker or a node; wait for the parent to end if it should."""
    if server and chance.random() < 0.3:
        return server.disturb(stores, chance)
    file = sqlite_file(chance.choice([stores.tracking, stores.storage]))
    if file and file.exists() and chance.random() < 0.2:
        kind, seconds = chance.choice(["exclusive", "immediate"]), chance.uniform(0.1, LONGEST_LOCK)
        found.locks.append(lock_for(file, kind, seconds))
        return f"{kind} lock of {file.name}"
    if nodes is not None and chance.random() < 0.6:
        return _hit_cluster(process, chance, nodes)
    workers = workers_of(process.pid)
    if workers and chance.random() < 0.5:
        number = chance.choice([signal.SIGKILL, signal.SIGTERM])
        _send(chance.choice(workers).pid, number)
        return f"worker {number.name}"
    number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    again = number is not signal.SIGKILL and chance.random() < 0.25
    for _ in range(2 if again else 1):
        if number in (signal.SIGINT, signal.SIGHUP):
            os.killpg(process.pid, number)  # as a terminal does for Ctrl-C and when it is closed
        else:
            _send(process.pid, number)
        time.sleep(0.2 if again else 0)
    process.wait(GIVE_UP)
    return f"parent {number.name}{' twice' if again else ''}"


def _hit_cluster(process: Process, chance: random.Random, nodes: Nodes) -> str:
    """Harm a worker, a node or the whole cluster."""
    if chance.random() < 0.04:
        nodes.restart()
        process.wait(GIVE_UP)
        return "cluster replaced"
    workers = nodes.actors()
    if not workers or chance.random() < 0.3:
        nodes.replace_one()
        return "node replaced"
    worker, kind = chance.choice(workers), chance.choice(["killed", "frozen", "training killed", "training SIGTERM"])
    with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
        if kind == "killed":
            worker.kill()
        elif kind == "frozen":
            with frozen(worker):
                time.sleep(chance.uniform(0.5, LONGEST_FREEZE))
        else:
            number = signal.SIGTERM if "SIGTERM" in kind else signal.SIGKILL
            training_process(worker).send_signal(number)
    return f"worker {kind}"


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, number)


def _compare(stormy: Path, calm: Path, found: Storm, stores: Stores) -> None:
    """Check the stores of the killed sweep; adds to the errors."""
    errors = found.errors
    uri, storage = with_driver(stores.tracking), with_driver(stores.storage)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("storm")
    assert experiment is not None
    states = Counter(run.info.status for run in client.search_runs([experiment.experiment_id], max_results=1000))
    planned = 2 * (TRIALS + found.seeds)
    if states != {"FINISHED": planned + 1}:
        errors.append(f"MLflow has runs {dict(states)}, planned were {planned} and their parent")
    for name in optuna.get_all_study_names(storage):
        trials = Counter(trial.state.name for trial in optuna.load_study(study_name=name, storage=storage).trials)
        if trials != {"COMPLETE": TRIALS}:
            errors.append(f"Optuna has trials {dict(trials)} in {name}, planned were {TRIALS}")
    where = [uri, files_of(calm).tracking]
    runs, curves = load_runs("storm", uri), load_curves("storm", uri)
    found.runs, found.points = len(runs), len(curves.drop_duplicates(["run_id", "step"]))
    for run in runs["run_id"]:
        for metric in client.get_run(run).data.metrics:
            steps = [point.step for point in client.get_metric_history(run, metric)]
            if len(steps) != len(set(steps)):
                errors.append(f"run {run} has {metric} more than once at a step")
            if steps != sorted(steps):
                errors.append(f"run {run} has {metric} out of order")
    try:
        pd.testing.assert_frame_equal(*(exact_curves(one, "storm") for one in where), check_exact=True)
    except AssertionError as error:
        errors.append(f"its curves are not those of the undisturbed sweep: {error}")
    # a database of a server does not say where its sweep keeps files
    with mock.patch.dict(os.environ, {ARTIFACTS_VARIABLE: str(stormy / "mlruns" / "artifacts")}):
        ours = _checkpoints(uri, errors)
    if ours != _checkpoints(where[1], errors):
        errors.append(f"its checkpoints are not those of the undisturbed sweep: {sorted(ours)}")
    if left := [path.name for path in (stormy / "mlruns").glob("*.work")]:
        errors.append(f"left on disk: {left}")


def _checkpoints(uri: str, errors: list[str]) -> dict[tuple[str, int], bytes]:
    """Arm and seed → weights of every confirm run, each of which has one model, which is complete."""
    client, found = MlflowClient(uri), {}
    experiment = client.get_experiment_by_name("storm")
    assert experiment is not None
    models = client.search_logged_models([experiment.experiment_id], max_results=1000)
    states = {(model.source_run_id, model.status) for model in models}
    runs = load_runs("storm", uri).query("phase == 'confirm'")
    if len(models) != len(runs) or states != {(run, LoggedModelStatus.READY) for run in runs["run_id"]}:
        errors.append(f"found the models {states} of {len(runs)} confirm runs")
    for run in runs.itertuples():
        folder = checkpoint_folder(str(run.run_id), uri)
        load_checkpoint(folder)  # which checks its SHA-256
        found[str(run.arm), int(str(run.seed))] = (folder / WEIGHTS).read_bytes()
    return found


def _tell(found: Storm) -> None:
    if (count := sum(found.kills.values())) % 10 == 0:
        print(f"{count} kills in {found.commands} commands", file=sys.stderr, flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=12.0, help="seconds between two kills at most")
    parser.add_argument("--ray", action="store_true", help="train on a Ray cluster of three nodes on this machine")
    parser.add_argument("--postgres", action="store_true", help="the stores are databases of a PostgreSQL server")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        nodes = stack.enter_context(contextlib.closing(Nodes())) if options.ray else None
        server = stack.enter_context(running()) if options.postgres else None
        found = storm(Path(folder), options.kills, options.seed, options.longest, nodes, server, told=_tell)
    print(found)
    sys.exit(bool(found.errors))


if __name__ == "__main__":
    main()
