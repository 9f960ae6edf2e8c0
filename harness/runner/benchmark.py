"""The measurements of `harness.bench`: the speed of a spec's models on this machine, and what tracking a run costs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness.console.cli import err
from harness.core.hardware import count_gpus
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase
from harness.core.paths import sqlite_uri
from harness.core.text import plural
from harness.cost.calibration import Calibration, ModelSpeed, Workload, measure_in_processes
from harness.cost.estimate import expected_rate, points_of, train_and_eval_seconds
from harness.runner.datasets import Datasets, data_facts, split_sizes
from harness.runner.describe import sweep_info
from harness.tracking import Outbox, Tracker, TrialInfo

if TYPE_CHECKING:
    from harness.config.run import RunConfig
    from harness.config.spec import SweepSpec
    from harness.data import Dataset

EVAL_TOKENS: Final = 2048  # of the validation split and of the training sample, to time an evaluation
STATE_SHARE: Final = 0.02  # largest share of the training time that saving states takes, see `harness.training.resume`

_BATCH_METRICS: Final = (
    "train/batch_loss",
    "optim/learning_rate",
    "optim/grad_norm",
    "perf/tokens_per_second",
    "epochs",
)
_EVALUATION_METRICS: Final = ("train/loss", "train/perplexity", "val/loss", "val/perplexity", "val/bits_per_byte")


@dataclass(frozen=True)
class ArmSpeed:
    """Measurements of one arm.

    Attributes:
        name: of the arm.
        config: of its runs, with the tuned values as written in the spec.
        alone: `harness.cost.probe.ProbeResult` of one worker that has the machine to itself, as a dictionary.
        peak: FLOP/s of matrix products, the highest that was measured for any arm.
        together: tokens per second of all workers at once; None: there is only one.
        training, evaluation, states, tracking: seconds of one run: in steps, in evaluations, in saving states, and CPU
            seconds of the sweep's process for the run's record.
    """

    name: str
    config: RunConfig
    alone: Mapping[str, Any]
    peak: float
    together: float | None
    training: float
    evaluation: float
    states: float
    tracking: float

    @property
    def tokens_per_second(self) -> float:
        """Of one worker alone."""
        return float(self.config.tokens_per_step / self.alone["step_seconds"])

    @property
    def mfu(self) -> float:
        """FLOP/s of training as a share of the peak."""
        return self.tokens_per_second * self.config.flops_per_token / self.peak

    @property
    def seconds(self) -> float:
        """Of one run."""
        return self.training + self.evaluation + self.states


def measure(spec: SweepSpec, datasets: Datasets, workers: int, threads: int, seconds: float) -> list[ArmSpeed]:
    """Measure every arm of a spec; arms of the same shape are measured once.

    Args:
        spec: the sweep.
        datasets: its corpora.
        workers: that train at once.
        threads: CPU threads of each.
        seconds: approximate training time per model.

    Raises:
        MeasurementError: a measuring process failed.
    """
    rate = expected_rate(threads)
    configs = {arm.name: spec.run_config(arm.values) for arm in spec.arms()}
    key = Calibration(workers, threads).key
    models = {key(config): config for config in configs.values()}
    workloads = []
    for config in models.values():
        steps = int(seconds * rate / (config.tokens_per_step * config.flops_per_token))
        workloads.append(Workload(config, steps, EVAL_TOKENS))
    err.print(f"training {plural(len(models), 'model')} for some seconds, alone …")
    patience = 600.0 + 60 * len(models)
    (results,) = measure_in_processes(workloads, threads=threads, full=True, patience=patience)
    alone = dict(zip(models, results, strict=True))
    together: dict[str, float] = {}
    if workers > 1 and not count_gpus():
        err.print(f"then in {workers} workers at once …")
        copies = measure_in_processes(workloads, copies=workers, threads=threads, patience=patience)
        for place, (name, config) in enumerate(models.items()):
            together[name] = sum(config.tokens_per_step / copy[place]["step_seconds"] for copy in copies)
    peak = max(result["peak_flops"] for result in results)
    arms = []
    for name, config in configs.items():
        data = datasets[config.data]
        result = alone[key(config)]
        speed = ModelSpeed(
            *(result[field] for field in ("step_seconds", "eval_seconds", "eval_tokens", "sample_seconds"))
        )
        training, evaluation = train_and_eval_seconds(config, split_sizes(data), speed, rate)
        every = config.train.checkpoint_every
        states = training * min(STATE_SHARE, result["state_seconds"] / every) if every and training > every else 0.0
        points = points_of(config, len(data.train), training / speed.step_seconds)
        tracking = tracking_seconds(spec, config, data, *points)
        spent = (training, evaluation, states, tracking)
        arms.append(ArmSpeed(name, config, result, peak, together.get(key(config)), *spent))
    return arms


def tracking_seconds(spec: SweepSpec, config: RunConfig, data: Dataset, points: int, evaluations: int) -> float:
    """CPU seconds of the sweep's process for the record of one run: on disk, then in MLflow's SQLite.

    Args:
        spec: the sweep.
        config: of the run.
        data: its corpus.
        points: of the run.
        evaluations: how many of them are evaluated.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tracker = Tracker(spec.name, sqlite_uri(folder / "mlflow.db"))
        outbox = Outbox(tracker, tracker.open_sweep(sweep_info(spec, "0" * 64, data)), folder / "work")
        spent = []
        for number in range(3):  # the first one includes imports
            info = TrialInfo(f"run {number}", "arm", Phase.EXPLORE, 1, config, "study", number, data_facts(data))
            started = time.process_time()
            run = outbox.start(info)
            for step in range(points):
                evaluated = step % max(1, points // evaluations) == 0
                names = _BATCH_METRICS + (_EVALUATION_METRICS if evaluated else ())
                sample = "text" if evaluated else None
                outbox.log_point(run, Point(step, step, step / points, float(step), dict.fromkeys(names, 1.0), sample))
                if step % 10 == 9:
                    outbox.send()
            outbox.end(run, Outcome.COMPLETE, "")
            outbox.send()
            spent.append(time.process_time() - started)
    return min(spent[1:])
