"""Write the report of a sweep: `python -m harness.report dropout`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from harness.cli import fail, out, show_table

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the sweep, which is its MLflow experiment.")],
    uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="MLflow store. Default: $MLFLOW_TRACKING_URI or mlruns/mlflow.db."),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where reports go.")] = Path("reports"),
    sweep: Annotated[
        str | None, typer.Option(metavar="RUN_ID", help="A sweep's parent run. Default: the last one of that name.")
    ] = None,
) -> None:
    """Write the report of a sweep and print its comparison."""
    from harness.report import TrackingError, write_report

    try:
        files = write_report(name, uri, folder, sweep)
    except (TrackingError, OSError) as error:
        fail(error)
    show_table(files.lines)
    out.print(Text(files.answer))
    for path in (files.html, files.markdown, files.folder):
        out.print(str(path), markup=False, soft_wrap=True)


if __name__ == "__main__":
    app(prog_name="python -m harness.report")
