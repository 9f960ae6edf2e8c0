"""Small sweeps and runs in a real MLflow store."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Experiment

from harness.config.run import RunConfig
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase
from harness.tracking import ArmInfo, SweepInfo, Tracker, TrialInfo
from paths import ROOT

DATA: dict[str, Any] = {
    "name": "tiny",
    "source": "1 file: tiny.txt",
    "sha256": "a1" * 32,
    "fingerprint": "b2" * 32,
    "tokenizer": "byte",
    "tokens": {"train": 800, "val": 100, "test": 100},
    "bytes": {"train": 800, "val": 100, "test": 100},
}

PLAN: dict[str, Any] = {
    "method": "2",
    "baseline": "drop_rate=0.1",
    "seeds": 2,
    "looks": [2],
    "delta": 0.02,
    "question": "ü?",
}


def config(**train: Any) -> RunConfig:
    """The configuration of a tiny run; `train` overrides fields of its section `train`."""
    fields_of_train = {"budget": {"steps": 40}, "batch_tokens": 64, "learning_rate": 1e-05, **train}
    model = {"context_length": 16, "emb_dim": 8, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0}
    return RunConfig.model_validate(
        {"data": {"corpus": "tiny", "tokenizer": "byte"}, "model": model, "train": fields_of_train}
    )


def sweep_info(name: str, identity: str = "1" * 64) -> SweepInfo:
    """A sweep of two arms."""
    return SweepInfo(
        name=name,
        question="Does <b>dropout</b> help? – perhaps",
        identity=identity,
        spec_text="name: x # ü\n",
        arms=(ArmInfo("drop_rate=0.0", {"model.drop_rate": 0.0}), ArmInfo("drop_rate=0.1", {"model.drop_rate": 0.1})),
        baseline="drop_rate=0.1",
        compare=("model.drop_rate",),
        tune={"train.learning_rate": {"log_uniform": [1e-4, 1e-2]}},
        study={"sampler": "tpe", "pruner": "none", "trials": 4, "seeds": 2},
        command="python -m harness.sweep experiments/x.yaml",
        data=DATA,
        plan=PLAN,
    )


def trial_info(name: str = "a trial · seed 7", phase: Phase = Phase.CONFIRM, seed: int = 7, **train: Any) -> TrialInfo:
    """A run of that sweep; `train` as for `config`."""
    number = 0 if phase is Phase.EXPLORE else None
    study = "x/drop_rate=0.0" if phase is Phase.EXPLORE else None
    return TrialInfo(name, "drop_rate=0.0", phase, seed, config(seed=seed, **train), study, number)


def point(step: int, sample: str | None = None, **metrics: float) -> Point:
    """A point with 64 tokens and 0.1 s per step; metrics by name, with two underscores for a slash."""
    values = {name.replace("__", "/"): value for name, value in metrics.items()}
    return Point(step, step * 64, step / 40, step / 10, values, sample)


@dataclass(frozen=True)
class Store:
    """A store that two processes created at the same moment.

    Attributes:
        folder: the current folder of both.
        uri: the store's tracking address.
        printed: what each of them wrote to stderr.
        runs: ids of the parent run and of the trial that each of them left open.
    """

    folder: Path
    uri: str
    printed: list[str]
    runs: list[dict[str, str]]

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client."""
        return MlflowClient(tracking_uri=self.uri)


# The program of each process: creates the store at the default place, opens a sweep, starts a trial and dies.
ABANDON = """
import os, pickle, socket, sys
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = lambda *_: os._exit(3)
sweep, trial, point = pickle.load(sys.stdin.buffer)
from harness.tracking import Tracker
tracker = Tracker(sweep.name)
parent = tracker.open_sweep(sweep)
run = tracker.start_run(parent, trial)
tracker.log_point(run, point)
tracker.flush()
print(parent, run, flush=True)
os._exit(9)
"""


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store that all tests of the tracking package share; each uses experiments of its own name."""
    folder = tmp_path_factory.mktemp("a störe")
    # Without the variables that silence MLflow in this process or in CI: the processes must be silent by themselves.
    ours = ("MLFLOW", "DO_NOT_TRACK", "PYTEST", "CI", "GITHUB_ACTIONS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment["PYTHONPATH"] = str(ROOT)
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    makers = []
    for name in ("first", "second"):
        maker = subprocess.Popen([sys.executable, "-c", ABANDON], cwd=folder, env=environment, **streams)
        assert maker.stdin is not None
        maker.stdin.write(pickle.dumps((sweep_info(name), trial_info(), point(3, val__loss=2.5))))
        maker.stdin.flush()
        makers.append(maker)
    streams_of = [tuple(stream.decode() for stream in maker.communicate(timeout=120)) for maker in makers]
    assert [maker.returncode for maker in makers] == [9, 9], streams_of
    runs = [dict(zip(("parent", "run"), out.split(), strict=True)) for out, _ in streams_of]
    return Store(folder, f"sqlite:///{folder}/mlruns/mlflow.db", [error for _, error in streams_of], runs)


def experiment_of(client: MlflowClient, name: str) -> Experiment:
    """The experiment of this name, which must exist."""
    found = client.get_experiment_by_name(name)
    assert found is not None
    return found


def ended(store: Store, experiment: str, info: TrialInfo, *points: Point, outcome: Outcome = Outcome.COMPLETE) -> str:
    """Write a whole run in the sweep of this experiment; returns its id."""
    tracker = Tracker(experiment, store.uri)
    run_id = tracker.start_run(tracker.open_sweep(sweep_info(experiment)), info)
    for one in points:
        tracker.log_point(run_id, one)
    tracker.end_run(run_id, outcome)
    return run_id
