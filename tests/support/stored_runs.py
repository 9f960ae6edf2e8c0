"""Sweeps and runs in a real MLflow store, as small as they can be."""

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

from harness.config.run import RunConfig
from harness.core.metrics import Point
from harness.core.outcomes import Phase
from harness.tracking import (
    ArmInfo,
    SweepInfo,
    TrialInfo,
)
from paths import ROOT

DATA = {
    "name": "tiny",
    "source": "1 file: tiny.txt",
    "sha256": "a1" * 32,
    "fingerprint": "b2" * 32,
    "tokenizer": "byte",
    "tokens": {"train": 800, "val": 100, "test": 100},
    "bytes": {"train": 800, "val": 100, "test": 100},
}

PLAN = {"method": "2", "baseline": "drop_rate=0.1", "seeds": 2, "looks": [2], "delta": 0.02, "question": "ü?"}


def config(**train: Any) -> RunConfig:
    fields_of_train = {"budget": {"steps": 40}, "batch_tokens": 64, "learning_rate": 1e-05, **train}
    model = {"context_length": 16, "emb_dim": 8, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0}
    return RunConfig.model_validate(
        {"data": {"corpus": "tiny", "tokenizer": "byte"}, "model": model, "train": fields_of_train}
    )


def sweep_info(name: str, identity: str = "1" * 64) -> SweepInfo:
    return SweepInfo(
        name=name,
        question="Does <b>dropout</b> help? – perhaps",
        identity=identity,
        spec_text="name: x # ü\n",
        arms=(ArmInfo("drop_rate=0.0", {"model.drop_rate": 0.0}), ArmInfo("drop_rate=0.1", {"model.drop_rate": 0.1})),
        baseline="drop_rate=0.1",
        compare=("model.drop_rate",),
        tune={"train.learning_rate": {"log_uniform": [1e-4, 1e-2]}},
        study={"sampler": "tpe", "pruner": "none", "trials": 4, "seeds": [1, 2]},
        command="python -m harness.sweep experiments/x.yaml",
        data=DATA,
        plan=PLAN,
    )


def trial_info(name: str = "a trial · seed 7", phase: Phase = Phase.CONFIRM, seed: int = 7, **train: Any) -> TrialInfo:
    number = 0 if phase is Phase.EXPLORE else None
    study = "x/drop_rate=0.0" if phase is Phase.EXPLORE else None
    return TrialInfo(name, "drop_rate=0.0", phase, seed, config(seed=seed, **train), study, number)


def point(step: int, sample: str | None = None, **metrics: float) -> Point:
    values = {name.replace("__", "/"): value for name, value in metrics.items()}
    return Point(step, step * 64, step / 40, step / 10, values, sample)


@dataclass(frozen=True)
class Store:
    """The shared store; `printed` is what each of its two makers wrote to stderr, `runs` what they left behind."""

    folder: Path
    uri: str
    printed: list[str]
    runs: list[dict[str, str]]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri)


# Run in a process of its own: makes the store at the default place, opens a sweep, starts a trial, and is gone.
ABANDON = """
import os, pickle, socket, sys
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = lambda *_: os._exit(3)
sweep, trial, point = pickle.load(sys.stdin.buffer)
from harness.tracking import Tracker
tracker = Tracker(sweep.name)
parent = tracker.open_sweep(sweep)
run = tracker.start_trial(parent, trial)
tracker.log_point(run, point)
tracker.flush()
print(parent, run, flush=True)
os._exit(9)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("a störe")
    # Without what this process, or a test run, tells MLflow: the makers are to be quiet by themselves.
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
