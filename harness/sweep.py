"""Run a sweep: `python -m harness.sweep experiments/dropout.yaml`.

Imports little: `--help` and a mistake in a spec are answered before Optuna, MLflow or torch are imported, and every
worker process imports this module again, as the main module of its parent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.console.cli import (
    OUTPUT,
    PLACE,
    SHOW,
    STORES,
    SWEEP,
    ArtifactsAt,
    Command,
    CpusPerRun,
    GpusPerRun,
    Json,
    RanksPerRun,
    Ray,
    Settings,
    Shared,
    Threads,
    Tracking,
    Workers,
    fail,
    number,
    whole,
)
from harness.core.errors import SpecError
from harness.core.gc_pause import gc_paused_for_imports
from harness.core.secrets import STORAGE_VARIABLE
from harness.runner.datasets import Datasets

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _seeds(text: str) -> int:
    """Parse a number of seeds; imports `harness.config.study` for its limit only if the option is used."""
    from harness.config.study import MAX_SEEDS

    return whole(2, MAX_SEEDS)(text)


def _check_gpus(wanted: float) -> None:
    """Exit if a run cannot have this many GPUs of this machine."""
    from harness.core.hardware import count_gpus

    found = count_gpus()
    if wanted < 1:
        fail(f"--gpus-per-run: found {wanted:g}; allowed without --ray: a whole number of at least 1")
    if wanted > found:
        instead = "" if found else "; on CPUs, --ranks-per-run does the same"
        fail(f"--gpus-per-run: found {wanted:g}; allowed: at most the {found} of this machine{instead}")


_EPILOG = """
Examples:
  python -m harness.sweep experiments/dropout.yaml --plan
  python -m harness.sweep experiments/dropout.yaml --set study.seeds=8

Environment:
  MLFLOW_TRACKING_URI  MLflow store
  GPT_HARNESS_STORAGE  Optuna storage
  GPT_HARNESS_CACHE    folder for encoded texts, downloads, measured speeds
"""


@app.command(cls=Command, epilog=_EPILOG)
def main(
    spec_file: Annotated[Path, typer.Argument(metavar="SPEC", help="The spec of the experiment, a YAML file.")],
    settings: Settings = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Show what would run and what it would cost, without training.", rich_help_panel=SHOW
        ),
    ] = False,
    noise_floor: Annotated[
        int | None,
        typer.Option(
            parser=_seeds,
            metavar="N",
            help="Train only the baseline, on N seeds, to measure the noise between seeds.",
            rich_help_panel=SWEEP,
        ),
    ] = None,
    workers: Workers = None,
    ray: Ray = None,
    cpus_per_run: CpusPerRun = None,
    gpus_per_run: GpusPerRun = None,
    ranks_per_run: RanksPerRun = None,
    shared: Shared = None,
    threads: Threads = 1,
    tracking: Tracking = None,
    artifacts_at: ArtifactsAt = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar=STORAGE_VARIABLE,
            show_envvar=False,
            help="Optuna storage. Default: $GPT_HARNESS_STORAGE or mlruns/optuna.db.",
            rich_help_panel=STORES,
        ),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            parser=number(1),
            metavar="SECONDS",
            help="Replace a worker that makes no progress for this long.",
            rich_help_panel=PLACE,
        ),
    ] = 600.0,
    status: Annotated[
        bool,
        typer.Option(
            "--status",
            help="Show what is done, running, failed and left, without changing anything.",
            rich_help_panel=SHOW,
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Start again from nothing; earlier results are set aside, not deleted.",
            rich_help_panel=SWEEP,
        ),
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="Take the sweep from a process on another machine that no longer runs.",
            rich_help_panel=SWEEP,
        ),
    ] = False,
    reports: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the report.", rich_help_panel=STORES)] = Path(
        "reports"
    ),
    plain: Annotated[
        bool, typer.Option("--plain", help="Print lines instead of a live table.", rich_help_panel=OUTPUT)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print failures and the answer only.", rich_help_panel=OUTPUT)
    ] = False,
    json: Json = False,
) -> None:
    """Run the sweep of a spec: tune every arm, train its best configuration on fresh seeds, write the report.

    The same command resumes an interrupted sweep, and trains only what is missing.
    """
    if json and not (plan or status):
        fail(
            "--json: found without --plan or --status; allowed: with one of them. The answer as JSON: "
            "python -m harness.report NAME --json"
        )
    for option, value in (("--cpus-per-run", cpus_per_run), ("--shared", shared)):
        if value is not None and ray is None:
            fail(f"{option}: only with --ray")
    if gpus_per_run is not None and ray is None:
        _check_gpus(gpus_per_run)
    ranks = max(1, int(gpus_per_run or ranks_per_run or 1))
    if ranks_per_run not in (None, ranks):
        fail(f"--ranks-per-run: found {ranks_per_run} with --gpus-per-run {gpus_per_run:g}; allowed: {ranks}")
    datasets = Datasets(tracking)
    try:
        spec = datasets.load_spec(spec_file, settings or [], trains_here=not (plan or status))
    except SpecError as error:
        fail(error)
    if noise_floor is not None:
        spec = spec.noise_floor(noise_floor)
    if plan:
        from harness.core.hardware import default_workers
        from harness.cost.preview import read_plan, show_plan
        from harness.runner.done import runs_left

        splits, identity = datasets.splits(spec), datasets.identity(spec)
        here = (workers if ray is None else None) or default_workers(ranks)  # speeds are measured on this machine
        left = runs_left(spec, identity, tracking, storage)
        planned = read_plan(spec, splits, identity, here, threads, datasets.messages, ranks, left)
        if json:
            from harness.runner.as_json import as_text, plan_document

            typer.echo(as_text(plan_document(planned)))
        else:
            show_plan(planned)
        return
    with gc_paused_for_imports():
        from harness.runner import session

    options = session.Options(
        tracking,
        storage,
        reports,
        workers,
        threads,
        patience,
        fresh,
        plain,
        quiet,
        take_over,
        ray,
        cpus_per_run,
        gpus_per_run,
        ranks,
        shared,
    )
    if status:
        session.status(spec, datasets, options, json)
    else:
        session.run(spec, datasets, options)


if __name__ == "__main__":
    app()
