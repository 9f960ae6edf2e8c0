"""Run a sweep: `python -m harness.sweep experiments/dropout.yaml`.

Imports little: `--help` and a mistake in a spec are answered before Optuna, MLflow or torch are imported, and every
worker process imports this module again, as the main module of its parent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.console.cli import Command, Settings, Threads, Tracking, Workers, fail, number, whole
from harness.core.errors import SpecError
from harness.core.gc_pause import importing
from harness.runner.datasets import Datasets

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _seeds(text: str) -> int:
    """A number of seeds; `harness.config.spec`, which knows how many may be, is imported only where it is asked."""
    from harness.config.spec import MAX_SEEDS

    return whole(2, MAX_SEEDS)(text)


@app.command(cls=Command)
def main(
    spec_file: Annotated[Path, typer.Argument(metavar="SPEC", help="The experiment, a YAML file.")],
    settings: Settings = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would run and what it costs; train nothing.")] = False,
    noise_floor: Annotated[
        int | None,
        typer.Option(
            parser=_seeds,
            metavar="N",
            help="Train the baseline alone on N seeds: what a difference has to beat.",
        ),
    ] = None,
    workers: Workers = None,
    threads: Threads = 1,
    tracking: Tracking = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="Optuna storage. Default: mlruns/optuna.db.")
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            parser=number(1), metavar="SECONDS", help="A worker that gets no further for so long is given up."
        ),
    ] = 600.0,
    status: Annotated[
        bool, typer.Option("--status", help="Say what is done, running, failed and left; change nothing.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew; what was done is set aside, and nothing is deleted.")
    ] = False,
    reports: Annotated[Path, typer.Option(metavar="DIR", help="Where the report goes.")] = Path("reports"),
    plain: Annotated[bool, typer.Option("--plain", help="Lines in place of a live table, as for a file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only failures while it runs, and the answer.")] = False,
) -> None:
    """Answer the question of a spec: search every arm, confirm its best on fresh seeds, write the report.

    Running it again finishes what is missing and adds nothing.
    """
    datasets = Datasets()
    try:
        spec = datasets.load_spec(spec_file, settings or [])
    except SpecError as error:
        fail(error)
    if noise_floor is not None:
        spec = spec.noise_floor(noise_floor)
    if plan:
        from harness.core.hardware import default_workers
        from harness.cost.preview import show_plan

        show_plan(spec, datasets.splits(spec), datasets.identity(spec), workers or default_workers(), threads)
        return
    with importing():
        from harness.runner import session

    options = session.Options(tracking, storage, reports, workers, threads, patience, fresh, plain, quiet)
    if status:
        session.status(spec, datasets, options)
    else:
        session.run(spec, datasets, options)


if __name__ == "__main__":
    app()
