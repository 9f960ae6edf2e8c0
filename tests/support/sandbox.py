"""A folder in which sweeps run as a user runs them: as a process of their own."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

import warm_start
from empty_store import copy_empty_store
from harness.core.paths import with_driver
from harness.tracking import UnfinishedRun, load_curves, load_runs, unfinished_runs
from warm_start import PATIENCE
from warm_workers import forked_workers

if TYPE_CHECKING:
    from postgres import Stores

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


class Command:
    """A running command. Leaving the `with` block ends it and its workers, also when a test fails.

    Args:
        arguments: of the interpreter, beginning with `-m` and a module, or with `-c` and code.
        folder: where it runs; its output goes into the file `output-N.txt` there.
        environment: of the process; by default that of this process.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, environment: dict[str, str] | None = None) -> None:
        self._file = folder / f"output-{len(list(folder.glob('output-*.txt')))}.txt"
        with self._file.open("w", encoding="utf-8") as output:
            self.process = warm_start.start(arguments, folder, output, output, environment, figures=False)

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
        """Its output so far."""
        return self._file.read_text("utf-8")

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until the condition is true and return its value; the command has to run until then."""
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)
        return found

    def ended(self) -> int:
        """Wait for its end; returns the exit code."""
        return self.process.wait(PATIENCE)

    @property
    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        return workers_of(self.process.pid)


class Sandbox:
    """A folder with a spec in which the command runs.

    Args:
        folder: created if it is missing.
        spec: written to `tiny.yaml`.
        store: whether there is an empty MLflow store, which saves MLflow's migrations.
        stores: databases of a server, which commands use in place of SQLite files.
    """

    def __init__(self, folder: Path, spec: str = SPEC, store: bool = True, stores: Stores | None = None) -> None:
        self.folder = folder
        self.stores = stores
        folder.mkdir(exist_ok=True)
        (folder / "tiny.yaml").write_text(spec, "utf-8")
        if store and stores is None:
            copy_empty_store(folder / "mlruns" / "mlflow.db")

    def command(self, *arguments: str, module: str = "harness.sweep") -> list[str]:
        """The arguments of the interpreter."""
        return ["-m", module, *(arguments or ("tiny.yaml",))]

    def run(
        self, *arguments: str, module: str = "harness.sweep", figures: bool = False
    ) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments, module=module)
        return warm_start.run(command, self.folder, os.environ | self.environment, figures)

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> Command:
        return Command(self.command(*arguments), self.folder, (environment or os.environ) | self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that name the databases of a server to a command."""
        return self.stores.environment if self.stores else {}

    @property
    def uri(self) -> str:
        return self.stores.tracking if self.stores else f"sqlite:///{self.folder}/mlruns/mlflow.db"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(with_driver(self.uri))

    def runs(self) -> tuple[list[Run], list[Run]]:
        """The parent run and its children."""
        experiment = self.client.get_experiment_by_name("tiny")
        if experiment is None:
            return [], []
        runs = self.client.search_runs([experiment.experiment_id], max_results=1000)
        parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        return parents, [run for run in runs if "mlflow.parentRunId" in run.data.tags]

    def studies(self) -> dict[str, optuna.Study]:
        url = with_driver(self.stores.storage) if self.stores else f"sqlite:///{self.folder}/mlruns/optuna.db"
        return {name: optuna.load_study(study_name=name, storage=url) for name in optuna.get_all_study_names(url)}

    def trials(self) -> Counter[str]:
        """Counts of Optuna's trial states."""
        return Counter(trial.state.name for study in self.studies().values() for trial in study.trials)

    def outcomes(self) -> Counter[tuple[str, str, str]]:
        """Counts of phase, outcome and MLflow's status."""
        tags = [(run.data.tags, run.info.status) for run in self.runs()[1]]
        return Counter((t["harness.phase"], t["harness.outcome"], status) for t, status in tags)

    @property
    def work(self) -> Path:
        """The folder of unfinished runs."""
        return self.folder / "mlruns" / "tiny.work"

    def open_runs(self) -> list[tuple[Path, UnfinishedRun]]:
        """The unfinished runs on disk, with their folders."""
        folders = sorted(self.work.iterdir()) if self.work.is_dir() else []
        found = [(folder / kept.key, kept) for folder in folders for kept in unfinished_runs(folder)]
        return [(folder, kept) for folder, kept in found if kept.outcome is None]

    def under_way(self, steps: int = 1, states: int = 0) -> list[tuple[Path, UnfinishedRun]]:
        """The unfinished runs that have reached a step and saved this many states."""
        return [
            (folder, kept)
            for folder, kept in self.open_runs()
            if kept.points and kept.points[-1].step >= steps and len(saved(folder)) >= states
        ]


def workers_of(pid: int) -> list[psutil.Process]:
    """The running worker processes of a sweep's process."""
    try:
        command = psutil.Process(pid)
        children = [one for one in command.children() if one.status() != psutil.STATUS_ZOMBIE]
        spawned = [one for one in children if "multiprocessing.spawn" in " ".join(one.cmdline())]
        return spawned + forked_workers(command)
    except psutil.Error:  # it has just ended
        return []


def saved(folder: Path) -> list[Path]:
    """The descriptions of the states in a run's folder, oldest first."""
    return sorted((folder / "state").glob("state-*.json"))


def exact_curves(uri: str, experiment: str = "tiny") -> pd.DataFrame:
    """What must be bitwise equal in two sweeps of one spec: every curve that does not depend on the clock."""
    runs, curves = load_runs(experiment, uri), load_curves(experiment, uri)
    merged = curves.merge(runs[["run_id", "trial_number"]], on="run_id")
    exact = merged[merged["metric"].str.match("val/|train/|test/|optim/|epochs")]
    keys = ["arm", "phase", "seed", "trial_number", "metric", "step"]
    return exact[[*keys, "tokens", "value"]].sort_values(keys, ignore_index=True)
