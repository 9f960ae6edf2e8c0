"""Kill a sweep again and again until it ends, then look for anything that was lost, doubled or untrue.

    python tests/support/storm.py --kills 100

A sweep of small trials with two workers is hit at random moments: the parent or a worker, by SIGKILL, SIGTERM or
Ctrl-C, sometimes twice. Whenever the parent is gone, the same command is given again. A sweep that ends before all
kills are spent is asked for more seeds. At the end its stores are compared with those of the same sweep undisturbed.
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
from pathlib import Path

import optuna
import pandas as pd
from mlflow import MlflowClient

from harness.tracking import load_curves, load_runs
from sandbox import exact_curves, workers_of

TRIALS = 2
SPEC = """\
name: storm
question: Is anything lost?
data: {corpus: sotu-1820, tokenizer: byte}
model: {context_length: 32, emb_dim: 32, n_heads: 2, n_layers: 1}
train:
  budget: {tokens: 40_960}
  batch_tokens: 256
  eval_every: {tokens: 10_240}
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
# A signal that comes before the command can take it, or after it has done everything, is taken by Python itself.
ENDS = (0, 130, 143, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
# What Python itself says of a signal that meets a callback of its own: the command ends a little later. And in the
# start of a worker whose parent is killed before it has said what to do.
_LOST = re.compile(r"Exception ignored in.*\nTraceback \(most recent call last\):\n(?:  .*\n)+\n*\S*Interrupt.*\n")
_UNBORN = re.compile(r"Traceback \(most recent call last\):\n(?:  .*\n)+EOFError: .*\n")
GIVE_UP = 300.0  # seconds without the end of a process that was told to end, or of a sweep that nothing disturbs


@dataclasses.dataclass
class Storm:
    """What a storm did, and what was found afterwards."""

    kills: Counter[str] = dataclasses.field(default_factory=Counter)
    commands: int = 0
    seeds: int = 2
    seconds: float = 0.0
    runs: int = 0
    points: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        return (
            f"{sum(self.kills.values())} kills ({kinds}), {self.commands} commands, {self.seconds:.0f} s; "
            f"{self.runs} runs with {self.points} points; "
            + ("nothing lost, doubled or untrue" if not self.faults else "\n".join(["FAULTS:", *self.faults]))
        )


def command(seeds: int) -> list[str]:
    """The same every time, but for the number of seeds."""
    return [sys.executable, "-m", "harness.sweep", "storm.yaml", "--workers", "2", "--set", f"study.seeds={seeds}"]


def storm(folder: Path, kills: int, seed: int, longest: float = 12.0) -> Storm:
    """Run the storm in `folder`.

    Args:
        folder: empty.
        kills: how many.
        seed: of the random moments and victims; when exactly they hit depends on the machine.
        longest: seconds between two kills at most.
    """
    chance, found = random.Random(seed), Storm()
    stormy, calm = folder / "stormy", folder / "calm"
    for place in (stormy, calm):
        place.mkdir()
        (place / "storm.yaml").write_text(SPEC, "utf-8")
    began = time.monotonic()
    while True:
        process = _start(stormy, found)
        while process.poll() is None and sum(found.kills.values()) < kills:
            if not _wait(process, chance.uniform(0.2, longest)):
                found.kills[_hit(process, chance)] += 1
        code = process.wait(GIVE_UP)
        output = (stormy / "output.txt").read_text("utf-8")
        if code == -signal.SIGINT:  # Python says so in its own way
            output = ""
        if "Traceback" in _LOST.sub("", _UNBORN.sub("", output)) or code not in ENDS:
            found.faults.append(f"the command ended with {code} and said:\n{output}")
        if code == 0 and sum(found.kills.values()) < kills:
            found.seeds += 2  # it came through: there has to be more to do
        elif code == 0 or found.faults:
            break
    found.seconds = time.monotonic() - began
    done = subprocess.run(command(found.seeds), cwd=calm, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        found.faults.append(f"the undisturbed sweep failed: {done.stderr}")
    _compare(stormy, calm, found)
    return found


def _start(folder: Path, found: Storm) -> subprocess.Popen[str]:
    found.commands += 1
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        return subprocess.Popen(
            command(found.seeds), cwd=folder, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )


def _wait(process: subprocess.Popen[str], seconds: float) -> bool:
    """Whether it ended by itself within so many seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _hit(process: subprocess.Popen[str], chance: random.Random) -> str:
    """Send one signal, to the parent or a worker, and wait for the parent's end where it should end."""
    workers = workers_of(process.pid)
    if workers and chance.random() < 0.5:
        number = chance.choice([signal.SIGKILL, signal.SIGTERM])
        _send(chance.choice(workers).pid, number)
        return f"worker {number.name}"
    number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    again = number is not signal.SIGKILL and chance.random() < 0.25
    for _ in range(2 if again else 1):
        if number is signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            _send(process.pid, number)
        time.sleep(0.2 if again else 0)
    process.wait(GIVE_UP)
    return f"parent {number.name}{' twice' if again else ''}"


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it was quicker
        os.kill(pid, number)


def _compare(stormy: Path, calm: Path, found: Storm) -> None:
    """Add to the faults what is wrong in the stores of the stormy sweep."""
    faults = found.faults
    uri = f"sqlite:///{stormy}/mlruns/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("storm")
    assert experiment is not None
    states = Counter(run.info.status for run in client.search_runs([experiment.experiment_id], max_results=1000))
    planned = 2 * (TRIALS + found.seeds)
    if states != {"FINISHED": planned + 1}:
        faults.append(f"MLflow has runs {dict(states)}, planned were {planned} and their parent")
    storage = f"sqlite:///{stormy}/mlruns/optuna.db"
    for name in optuna.get_all_study_names(storage):
        trials = Counter(trial.state.name for trial in optuna.load_study(study_name=name, storage=storage).trials)
        if trials != {"COMPLETE": TRIALS}:
            faults.append(f"Optuna has trials {dict(trials)} in {name}, planned were {TRIALS}")
    where = [f"sqlite:///{place}/mlruns/mlflow.db" for place in (stormy, calm)]
    runs, curves = load_runs("storm", uri), load_curves("storm", uri)
    found.runs, found.points = len(runs), len(curves.drop_duplicates(["run_id", "step"]))
    for run in runs["run_id"]:
        for metric in client.get_run(run).data.metrics:
            steps = [point.step for point in client.get_metric_history(run, metric)]
            if len(steps) != len(set(steps)):
                faults.append(f"run {run} has {metric} more than once at a step")
            if steps != sorted(steps):
                faults.append(f"run {run} has {metric} out of order")
    try:
        pd.testing.assert_frame_equal(*(exact_curves(one, "storm") for one in where), check_exact=True)
    except AssertionError as error:
        faults.append(f"its curves are not those of the undisturbed sweep: {error}")
    if left := [path.name for path in (stormy / "mlruns").glob("*.work")]:
        faults.append(f"left on disk: {left}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=12.0, help="seconds between two kills at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = storm(Path(folder), options.kills, options.seed, options.longest)
    print(found)
    sys.exit(bool(found.faults))


if __name__ == "__main__":
    main()
