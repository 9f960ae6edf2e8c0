"""Measure this machine: `python -m harness.bench experiments/dropout.yaml`, or without a spec for a small GPT.

Each distinct model of the spec trains for some seconds as a worker would: alone, next to a measurement of matrix
products, and then as many at once as a sweep has workers. The time for evaluations, states and tracking follows from
the spec's own run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.console.cli import Command, Settings, Threads, Workers, fail, number, out
from harness.console.tables import show_arms
from harness.core.errors import SpecError
from harness.core.hardware import count_gpus, default_workers
from harness.core.outcomes import Exit
from harness.runner.datasets import Datasets

if TYPE_CHECKING:
    from harness.config.spec import SweepSpec
    from harness.runner.benchmark import ArmSpeed

COLUMNS = (
    "Arm",
    "Parameters",
    "s/step",
    "Tokens/s",
    "MFU",
    "All workers",
    "Memory",
    "Evaluation",
    "States",
    "Tracking",
)

NOTES = (
    "",
    "s/step, Tokens/s, MFU, Memory: one worker alone. MFU: its FLOP/s as a share of the matrix products' above.",
    "All workers: tokens/s of all of them at once. Evaluation, States: shares of a run's time.",
    "Tracking: CPU time of the sweep's process to record a run, on disk and in MLflow, as a share of the run's time.",
)

# Measured if there is no spec: on a CPU a model as in the shipped experiments, on a GPU nanoGPT's.
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


_EPILOG = """
Examples:
  python -m harness.bench
  python -m harness.bench experiments/dropout.yaml --seconds 2
"""


@app.command(cls=Command, epilog=_EPILOG)
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
    datasets = Datasets()
    try:
        spec = _load_spec(datasets, spec_file, settings or [])
    except SpecError as error:
        fail(error)
    from harness.cost.calibration import MeasurementError
    from harness.runner.benchmark import measure

    workers = workers or default_workers()
    try:
        arms = measure(spec, datasets, workers, threads, seconds)
    except MeasurementError as error:
        fail(f"the measurement failed: {error}", Exit.FAILED)
    show(spec, arms, workers)


def _load_spec(datasets: Datasets, spec_file: Path | None, settings: Sequence[str]) -> SweepSpec:
    if spec_file is not None:
        return datasets.load_spec(spec_file, settings, trains_here=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "bench.yaml")
        file.write_text(LARGE if count_gpus() else SMALL, "utf-8")
        return datasets.load_spec(file, settings, trains_here=True)


def show(spec: SweepSpec, arms: Sequence[ArmSpeed], workers: int) -> None:
    """Print the measurements."""
    from harness.cost.calibration import machine

    first, here = arms[0].alone, machine()
    out.print(f"{here['cpu']}, {here['cores']} cores, torch {here['torch']}, {workers} workers")
    where = first["device"] if first["device"] != "cpu" else f"one worker, {first['threads']} CPU thread(s)"
    out.print(f"matrix products: {_flops(arms[0].peak)} ({where})")
    if not count_gpus():
        out.print("no GPU was found")
    out.print()
    show_arms([list(COLUMNS), *map(cells, arms)], spec.labels)
    for line in NOTES:
        out.print(line)
    if spec.tune:
        out.print("Tuned values: as written in the spec.")


def cells(arm: ArmSpeed) -> list[str]:
    """A row of the table, in the order of `COLUMNS`."""
    return [
        arm.name,
        f"{arm.config.parameters:,}",
        f"{arm.alone['step_seconds']:.3g}",
        f"{arm.tokens_per_second:,.0f}",
        f"{arm.mfu:.0%}",
        "–" if arm.together is None else f"{arm.together:,.0f}",
        f"{arm.alone['memory'] / 1e9:.2f} GB",
        f"{arm.evaluation / arm.seconds:.1%}",
        f"{arm.states / arm.seconds:.1%}",
        f"{arm.tracking / arm.seconds:.1%}",
    ]


def _flops(rate: float) -> str:
    for size, unit in ((1e12, "TFLOP/s"), (1e9, "GFLOP/s")):
        if rate >= size:
            return f"{rate / size:.3g} {unit}"
    return f"{rate / 1e6:.3g} MFLOP/s"


if __name__ == "__main__":
    app(prog_name="python -m harness.bench")
