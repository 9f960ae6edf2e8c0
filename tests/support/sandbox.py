"""A folder in which sweeps run as a person runs them: the command in a process of its own, and what it leaves."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from empty_store import copy_empty_store
from harness.tracking import UnfinishedRun, load_curves, load_runs, unfinished_runs

SPEC = """\
name: tiny
question: Does dropout help a tiny GPT?
data: {corpus: sotu-1820, tokenizer: byte}
model: {context_length: 32, emb_dim: 32, n_heads: 2, n_layers: 1}
train:
  budget: {tokens: 6_144}
  batch_tokens: 256
  eval_every: {tokens: 2_048}
  train_eval_tokens: 512
  sample: {max_new_tokens: 8}
compare:
  model.drop_rate: [0.0, 0.2]
baseline: {model.drop_rate: 0.0}
tune:
  train.learning_rate: {log_uniform: [1e-3, 1e-2]}
study: {sampler: random, trials: 2, seeds: 2}
"""
PATIENCE = 300.0  # seconds for anything that is waited for


class Command:
    """A command under way. A test that fails leaves none: leaving the context ends it and its workers.

    Args:
        arguments: the program and its arguments.
        folder: where it runs; what it says goes into the file `output-N.txt` there.
        environment: of the process; by default this one's.
    """

    def __init__(self, arguments: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
        self._file = folder / f"output-{len(list(folder.glob('output-*.txt')))}.txt"
        with self._file.open("w", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                arguments, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            left = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
            for process in left:
                process.kill()
            self.process.wait()

    @property
    def said(self) -> str:
        """Everything so far."""
        return self._file.read_text("utf-8")

    def until(self, condition: Callable[[], Any]) -> Any:
        """What the condition gives once that is true; the command has to be running until then."""
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)
        return found

    def ended(self) -> int:
        """Its exit code; waits for it."""
        return self.process.wait(PATIENCE)

    @property
    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        return workers_of(self.process.pid)


class Sandbox:
    """A folder with a spec in which the command runs.

    Args:
        folder: made where it is missing.
        spec: written to `tiny.yaml`.
        store: whether there is an empty MLflow store, which saves MLflow's migrations.
    """

    def __init__(self, folder: Path, spec: str = SPEC, store: bool = True) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "tiny.yaml").write_text(spec, "utf-8")
        if store:
            copy_empty_store(folder / "mlruns" / "mlflow.db")

    def command(self, *arguments: str, module: str = "harness.sweep") -> list[str]:
        return [sys.executable, "-m", module, *(arguments or ("tiny.yaml",))]

    def run(self, *arguments: str, module: str = "harness.sweep") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments, module=module), cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE
        )

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> Command:
        return Command(self.command(*arguments), self.folder, environment)

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlruns/mlflow.db"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def runs(self) -> tuple[list[Run], list[Run]]:
        """Parents and children."""
        experiment = self.client.get_experiment_by_name("tiny")
        if experiment is None:
            return [], []
        runs = self.client.search_runs([experiment.experiment_id], max_results=1000)
        parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        return parents, [run for run in runs if "mlflow.parentRunId" in run.data.tags]

    def studies(self) -> dict[str, optuna.Study]:
        url = f"sqlite:///{self.folder}/mlruns/optuna.db"
        return {name: optuna.load_study(study_name=name, storage=url) for name in optuna.get_all_study_names(url)}

    def trials(self) -> Counter[str]:
        """Optuna's states, counted."""
        return Counter(trial.state.name for study in self.studies().values() for trial in study.trials)

    def outcomes(self) -> Counter[tuple[str, str, str]]:
        """Phase, outcome and MLflow's status, counted."""
        tags = [(run.data.tags, run.info.status) for run in self.runs()[1]]
        return Counter((t["harness.phase"], t["harness.outcome"], status) for t, status in tags)

    @property
    def work(self) -> Path:
        """Where runs lie until they are done."""
        return self.folder / "mlruns" / "tiny.work"

    def open_runs(self) -> list[tuple[Path, UnfinishedRun]]:
        """The runs on disk that have not ended, with their folders."""
        folders = sorted(self.work.iterdir()) if self.work.is_dir() else []
        found = [(folder / kept.key, kept) for folder in folders for kept in unfinished_runs(folder)]
        return [(folder, kept) for folder, kept in found if kept.outcome is None]

    def under_way(self, steps: int = 1, states: int = 0) -> list[tuple[Path, UnfinishedRun]]:
        """The open runs that have come so far: to a point of that step, and with so many states saved."""
        return [
            (folder, kept)
            for folder, kept in self.open_runs()
            if kept.points and kept.points[-1].step >= steps and len(saved(folder)) >= states
        ]


def workers_of(pid: int) -> list[psutil.Process]:
    """The living worker processes of a sweep's process."""
    try:
        children = [one for one in psutil.Process(pid).children() if one.status() != psutil.STATUS_ZOMBIE]
        return [one for one in children if "multiprocessing.spawn" in " ".join(one.cmdline())]
    except psutil.Error:  # one that has just ended
        return []


def saved(folder: Path) -> list[Path]:
    """The descriptions of the states in a run's folder, oldest first."""
    return sorted((folder / "state").glob("state-*.json"))


def exact_curves(uri: str, experiment: str = "tiny") -> pd.DataFrame:
    """All that two sweeps of one spec must have in common to the last bit: every curve but those of the clock."""
    runs, curves = load_runs(experiment, uri), load_curves(experiment, uri)
    merged = curves.merge(runs[["run_id", "trial_number"]], on="run_id")
    exact = merged[merged["metric"].str.match("val/|train/|test/|optim/|epochs")]
    keys = ["arm", "phase", "seed", "trial_number", "metric", "step"]
    return exact[[*keys, "tokens", "value"]].sort_values(keys, ignore_index=True)
