"""A sweep whose stores a test fills as a killed process would have left them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import optuna
from mlflow import MlflowClient

from harness.config.run import RunConfig
from harness.config.spec import SweepSpec
from harness.core import metrics
from harness.core.metrics import Point
from harness.core.outcomes import Phase
from harness.core.paths import with_driver
from harness.runner.recovery import reconcile
from harness.runner.tasks import Task
from harness.search.readable import RUN_KEY
from harness.search.storage import open_storage
from harness.search.study import ArmStudy
from harness.tracking import ArmInfo, Outbox, SweepInfo, Tracker
from postgres import Server, Stores
from specs import load
from stored_runs import DATA

SPEC = """\
name: crashed
question: Is anything lost?
data: {corpus: sotu-1820, tokenizer: byte}
model: {context_length: 16, emb_dim: 8, n_heads: 2, n_layers: 1}
train: {budget: {steps: 40}, batch_tokens: 64}
tune:
  train.learning_rate: {log_uniform: [1e-4, 1e-2]}
  train.weight_decay: {uniform: [0, 0.2]}
study: {sampler: random, trials: 6, seeds: 2}
"""


class CrashedSweep:
    """The stores of a sweep of one arm; `open` opens them as a new process does.

    Args:
        folder: of the unfinished runs and of SQLite files.
        settings: of the spec.
        server: a server with the databases, in place of SQLite files.
        stores: the addresses of these; None: new ones.
    """

    def __init__(
        self, folder: Path, *settings: str, server: Server | None = None, stores: Stores | None = None
    ) -> None:
        self.folder, self.settings, self.server = folder, settings, server
        files = Stores(f"sqlite:///{folder}/mlflow.db", f"sqlite:///{folder}/optuna.db")
        self.addresses = stores or (server.stores() if server else files)
        folder.mkdir(exist_ok=True)
        self.spec: SweepSpec = load(folder, SPEC, *settings)
        [self.arm] = self.spec.arms()

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(with_driver(self.addresses.tracking))

    def open(self) -> tuple[ArmStudy, Tracker, Outbox]:
        storage = open_storage(self.addresses.storage)
        study = ArmStudy(self.spec, self.arm, self.spec.identity(), storage, 640, 2560)
        tracker = Tracker("crashed", self.addresses.tracking)
        info = SweepInfo(
            name="crashed",
            question="",
            identity=self.spec.identity(),
            spec_text="",
            arms=(ArmInfo(self.arm.name, {}),),
            baseline=self.arm.name,
            compare=(),
            tune={},
            study={},
            command="",
            data=DATA,
        )
        return study, tracker, Outbox(tracker, tracker.open_sweep(info), self.folder / "work" / "runs")

    def reconcile(self) -> str:
        study, tracker, outbox = self.open()
        return reconcile(self.spec, {self.arm.name: study}, tracker, outbox, {self.spec.base.data: DATA})

    def start_trial(self, study: ArmStudy, outbox: Outbox, *losses: float) -> tuple[str, Task]:
        """Ask for a trial and record its losses; returns its run key and its task."""
        trial, values = study.ask()
        config = self.spec.arm_config(self.arm, values, 1)
        task = Task(self.arm, Phase.EXPLORE, values, 1, config, study.name, trial)
        key = outbox.start(task.info(DATA))
        trial.set_user_attr(RUN_KEY, key)
        measure(outbox, key, config, *losses)
        for number, loss in enumerate(losses[1:], 1):
            study.report(trial, 640 * number, loss)
        return key, task

    def copy(self, target: Path, lost: str = "") -> CrashedSweep:
        """A copy, in which `mlflow.db` or `optuna.db` may be lost."""
        shutil.copytree(self.folder, target, ignore=shutil.ignore_patterns(lost))
        if self.server is None:
            return CrashedSweep(target, *self.settings)
        copies, new = self.server.copy(self.addresses), self.server.stores()
        tracking = new.tracking if lost == "mlflow.db" else copies.tracking
        storage = new.storage if lost == "optuna.db" else copies.storage
        return CrashedSweep(target, *self.settings, server=self.server, stores=Stores(tracking, storage))

    def without(self, lost: str) -> CrashedSweep:
        """A copy without one database. (A process that has a file open could still use it.)"""
        return self.copy(self.folder.with_name(f"{self.folder.name}-without-{lost}"), lost)

    def stores(self) -> tuple[Any, ...]:
        """Everything in Optuna, in MLflow and on disk, except times and random ids."""
        storage = with_driver(self.addresses.storage)
        trials = [
            (name, t.number, t.state.name, t.value, t.params, t.intermediate_values, t.user_attrs.get("outcome"))
            for name in sorted(optuna.get_all_study_names(storage))
            for t in optuna.load_study(study_name=name, storage=storage).trials
        ]
        runs = []
        experiment = self.client.get_experiment_by_name("crashed")
        assert experiment is not None
        for run in self.client.search_runs([experiment.experiment_id]):
            tags = {name: run.data.tags.get(f"harness.{name}") for name in ("key", "role", "outcome", "reason")}
            points = [
                (name, point.step, point.value)
                for name in sorted(run.data.metrics)
                for point in self.client.get_metric_history(run.info.run_id, name)
            ]
            runs.append((sorted(map(str, tags.items())), run.info.status, points, sorted(run.data.params.items())))
        folders = sorted(path.name for path in (self.folder / "work" / "runs").glob("*"))
        return trials, sorted(runs), folders


def measure(outbox: Outbox, key: str, config: RunConfig, *losses: float, first: int = 0) -> None:
    """Record points ten steps apart, the first at step 10 · `first`."""
    for number, loss in enumerate(losses, first):
        step = 10 * number
        measured = {metrics.VAL_LOSS: loss, metrics.TRAIN_LOSS: loss - 0.5}
        outbox.log_point(key, Point(step, step * config.tokens_per_step, step / 40, float(step), measured))
