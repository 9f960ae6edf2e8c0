"""Measure this machine: `python -m harness.bench experiments/dropout.yaml`, or without a spec for a small GPT.

Each distinct model of the spec trains for some seconds, as a worker would: alone, where the peak of matrix products is
measured beside it, and then as many at once as a sweep has workers. What a run spends on evaluations, saved states and
its record follows from its own plan.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.console.cli import Command, Settings, Threads, Workers, err, fail, number, out
from harness.console.tables import show_table
from harness.core.errors import SpecError
from harness.core.outcomes import Exit, Outcome
from harness.core.paths import sqlite_uri

if TYPE_CHECKING:
    from harness.config.run import RunConfig
    from harness.config.spec import SweepSpec
    from harness.data import Dataset

EVAL_TOKENS = 2048  # of the validation split and of the training sample, scored for the time of an evaluation
STATE_SHARE = 0.02  # of the training that saved states may take; `harness.training.resume` holds them to it
COLUMNS = ("Arm", "Parameters", "s/step", "Tokens/s", "MFU", "All workers", "Memory", "Evaluation", "States", "Record")

NOTES = (
    "",
    "s/step, Tokens/s, MFU, Memory: one worker alone. MFU: its FLOP/s as a share of the matrix products' above.",
    "All workers: tokens/s of all of them at once. Evaluation, States: shares of a run's time.",
    "Record: the parent's CPU time for a run's record, on the disk and in MLflow, as a share of the run's time.",
)

# What is measured where no spec is given: on a CPU a model as in the shipped experiments, on a GPU the one of nanoGPT.
SMALL = """\
name: bench
data: {corpus: sotu-1801-1822, split: {val: 0.05, test: 0.05}}
model: {context_length: 128, emb_dim: 128, n_heads: 4, n_layers: 4}
train: {budget: {tokens: 200_000}, batch_size: 8, eval_every: {tokens: 50_000}}
"""
LARGE = """\
name: bench
data: {corpus: sotu-1790-1899, split: {val: 0.02, test: 0.02}}
model: {preset: gpt2-124m, context_length: 1024}
train: {budget: {tokens: 20_000_000}, batch_size: 16, eval_every: {tokens: 2_000_000}}
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(cls=Command)
def main(
    spec_file: Annotated[
        Path | None, typer.Argument(metavar="[SPEC]", help="The spec whose models are measured. Default: a small GPT.")
    ] = None,
    settings: Settings = None,
    workers: Workers = None,
    threads: Threads = 1,
    seconds: Annotated[  # named: typer 0.27 ignores an option whose metavar is its own name
        float,
        typer.Option("--seconds", parser=number(0.1), metavar="SECONDS", help="Approximate training time per model."),
    ] = 5.0,
) -> None:
    """Measure this machine: matrix products, tokens per second, MFU, memory, and the cost of evaluations, saved states
    and tracking.

    Other programs on the machine distort the result.
    """
    from harness.config.load import load_spec
    from harness.core.hardware import count_gpus, default_workers
    from harness.cost.calibration import MeasurementError
    from harness.runner.datasets import Datasets

    datasets = Datasets()
    try:
        if spec_file is not None:
            spec = load_spec(spec_file, settings or [], datasets.split_sizes, datasets.codec)
        else:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "bench.yaml")
                file.write_text(LARGE if count_gpus() else SMALL, "utf-8")
                spec = load_spec(file, settings or [], datasets.split_sizes, datasets.codec)
    except SpecError as error:
        fail(error)
    try:
        arms = measure(spec, datasets, workers or default_workers(), threads, seconds)
    except MeasurementError as error:
        fail(f"the measurement failed: {error}", Exit.FAILED)
    show(spec, arms, workers or default_workers())


@dataclass(frozen=True)
class Arm:
    """What was measured of one arm.

    Attributes:
        name: of the arm.
        config: of its runs, with the tuned values as written.
        alone: one worker with the machine to itself, as `harness.cost.probe.ProbeResult` has it.
        peak: FLOP/s of matrix products, the highest that was measured beside any arm.
        together: tokens a second of all workers at once; None where there is only one.
        training, evaluation, states, record: seconds of one run: in steps, in evaluations, in saving states, and of
            the parent's CPU for the run's record.
    """

    name: str
    config: RunConfig
    alone: Mapping[str, Any]
    peak: float
    together: float | None
    training: float
    evaluation: float
    states: float
    record: float

    @property
    def tokens_per_second(self) -> float:
        """Of one worker alone."""
        return float(self.config.tokens_per_step / self.alone["step_seconds"])

    @property
    def mfu(self) -> float:
        """FLOP/s of training as a share of the peak."""
        return self.tokens_per_second * self.config.flops_per_token / self.peak

    @property
    def cells(self) -> list[str]:
        """A row of the table."""
        whole = self.training + self.evaluation + self.states
        return [
            self.name,
            f"{self.config.parameters:,}",
            f"{self.alone['step_seconds']:.3g}",
            f"{self.tokens_per_second:,.0f}",
            f"{self.mfu:.0%}",
            "–" if self.together is None else f"{self.together:,.0f}",
            f"{self.alone['memory'] / 1e9:.2f} GB",
            f"{self.evaluation / whole:.1%}",
            f"{self.states / whole:.1%}",
            f"{self.record / whole:.1%}",
        ]


def measure(spec: SweepSpec, datasets: Any, workers: int, threads: int, seconds: float) -> list[Arm]:
    """Measure every arm of a spec; arms of equal shape are measured once.

    Args:
        spec: the sweep.
        datasets: `harness.runner.datasets.Datasets`, the corpora that are open.
        workers: that train at once.
        threads: CPU threads of each.
        seconds: of training of each model, about.

    Raises:
        MeasurementError: a process that measured failed.
    """
    from harness.core.hardware import count_gpus
    from harness.cost.calibration import Calibration, ModelSpeed, Workload, measure_in_processes
    from harness.cost.estimate import expected_rate, train_and_eval_seconds
    from harness.runner.datasets import split_sizes

    rate = expected_rate(threads)
    configs = {arm.name: spec.run_config(arm.values) for arm in spec.arms()}
    key = Calibration(workers, threads).key
    models = {key(config): config for config in configs.values()}
    trials = []
    for config in models.values():
        steps = int(seconds * rate / (config.tokens_per_step * config.flops_per_token))
        trials.append(Workload(config, steps, EVAL_TOKENS))
    err.print(f"training {len(models)} model(s) in short, alone …")
    patience = 600.0 + 60 * len(models)
    (found,) = measure_in_processes(trials, threads=threads, full=True, patience=patience)
    alone = dict(zip(models, found, strict=True))
    together: dict[str, float] = {}
    if workers > 1 and not count_gpus():
        err.print(f"and {workers} at once …")
        said = measure_in_processes(trials, copies=workers, threads=threads, patience=patience)
        for place, (name, config) in enumerate(models.items()):
            together[name] = sum(config.tokens_per_step / one[place]["step_seconds"] for one in said)
    peak = max(one["peak_flops"] for one in found)
    arms = []
    for name, config in configs.items():
        data = datasets[config.data]
        speed = alone[key(config)]
        known = ModelSpeed(
            *(speed[field] for field in ("step_seconds", "eval_seconds", "eval_tokens", "sample_seconds"))
        )
        training, evaluating = train_and_eval_seconds(config, split_sizes(data), known, rate)
        every = config.train.checkpoint_every
        states = training * min(STATE_SHARE, speed["state_seconds"] / every) if every and training > every else 0.0
        record = record_seconds(spec, config, data, *points_of(config, len(data.train), training / known.step_seconds))
        spent = (training, evaluating, states, record)
        arms.append(Arm(name, config, speed, peak, together.get(key(config)), *spent))
    return arms


def points_of(config: RunConfig, train_tokens: int, steps: float) -> tuple[int, int]:
    """Points that a run yields, about, and how many of them are evaluated."""
    windows = (train_tokens - 1) // config.model.context_length
    evaluations = 1 + max(1, round(steps / config.eval_steps(windows)))
    return int(steps / config.log_steps(windows)) + evaluations, evaluations


def record_seconds(spec: SweepSpec, config: RunConfig, data: Dataset, points: int, evaluations: int) -> float:
    """CPU seconds that the parent of a sweep spends on the record of one run: on the disk, then in MLflow's SQLite.

    Args:
        spec: the sweep.
        config: of the run.
        data: its corpus.
        points: of the run.
        evaluations: how many of them are evaluated.
    """
    from harness.core.metrics import Point
    from harness.core.outcomes import Phase
    from harness.runner.datasets import data_facts
    from harness.runner.describe import sweep_info
    from harness.tracking import Outbox, Tracker, TrialInfo

    light = ("train/batch_loss", "optim/learning_rate", "optim/grad_norm", "perf/tokens_per_second", "epochs")
    more = ("train/loss", "train/perplexity", "val/loss", "val/perplexity", "val/bits_per_byte")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tracker = Tracker(spec.name, sqlite_uri(folder / "mlflow.db"))
        outbox = Outbox(tracker, tracker.open_sweep(sweep_info(spec, "0" * 64, data)), folder / "work")
        spent = []
        for number in range(3):  # the first one pays for imports
            info = TrialInfo(f"run {number}", "arm", Phase.EXPLORE, 1, config, "study", number, data_facts(data))
            began = time.process_time()
            run = outbox.start(info)
            for step in range(points):
                evaluated = step % max(1, points // evaluations) == 0
                values = dict.fromkeys(light + more if evaluated else light, 1.0)
                outbox.log_point(
                    run, Point(step, step, step / points, float(step), values, "text" if evaluated else None)
                )
                if step % 10 == 9:
                    outbox.send()
            outbox.end(run, Outcome.COMPLETE, "")
            outbox.send()
            spent.append(time.process_time() - began)
    return min(spent[1:])


def show(spec: SweepSpec, arms: Sequence[Arm], workers: int) -> None:
    """Print what was found."""
    from harness.core.hardware import count_gpus
    from harness.cost.calibration import machine

    first, here = arms[0].alone, machine()
    out.print(f"{here['cpu']}, {here['cores']} cores, torch {here['torch']}, {workers} workers")
    where = first["device"] if first["device"] != "cpu" else f"one worker, {first['threads']} CPU thread(s)"
    out.print(f"matrix products: {_flops(arms[0].peak)} ({where})")
    if not count_gpus():
        out.print("no GPU here, so nothing is known of one")
    out.print()
    show_table([list(COLUMNS), *(arm.cells for arm in arms)])
    for line in NOTES:
        out.print(line)
    if spec.tune:
        out.print("The tuned values are those that are written.")


def _flops(rate: float) -> str:
    for size, unit in ((1e12, "TFLOP/s"), (1e9, "GFLOP/s")):
        if rate >= size:
            return f"{rate / size:.3g} {unit}"
    return f"{rate / 1e6:.3g} MFLOP/s"


if __name__ == "__main__":
    app(prog_name="python -m harness.bench")
