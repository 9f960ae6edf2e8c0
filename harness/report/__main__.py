"""The report command: `python -m harness.report dropout` writes a report; `… audit` checks verdicts by simulation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.console.cli import ArtifactsAt, Command, Json, Tracking, err, fail, out
from harness.console.tables import show_answer, show_table
from harness.core.gc_pause import gc_paused_for_imports
from harness.core.outcomes import Exit
from harness.core.text import listed, plural

if TYPE_CHECKING:
    from harness.report import ReportFiles

_NAME = "python -m harness.report"
AUDIT = "audit"  # reserved: a sweep with this name cannot be reported

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
_audit_app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


_EPILOG = """
Examples:
  python -m harness.report dropout
  python -m harness.report dropout qkv_bias --out reports/both
  python -m harness.report dropout --json
  python -m harness.report audit
"""


class _Report(Command):
    """The command; `audit` in place of a sweep's name is a command of its own."""

    def main(self, args: Any = None, *more: Any, **options: Any) -> Any:
        """Run the command; exits."""
        words = list(sys.argv[1:] if args is None else args)
        if words[:1] != [AUDIT]:
            return super().main(words, *more, **options)
        return typer.main.get_command(_audit_app).main(words[1:], **{**options, "prog_name": f"{_NAME} {AUDIT}"})


@app.command(cls=_Report, epilog=_EPILOG)
def main(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME",
            help="Name of a sweep (its MLflow experiment). Several names give one report of all of them. "
            "`audit` checks the verdicts on simulated sweeps.",
        ),
    ],
    uri: Tracking = None,
    artifacts_at: ArtifactsAt = None,
    folder: Annotated[Path, typer.Option("--out", "--reports", metavar="DIR", help="Folder for reports.")] = Path(
        "reports"
    ),
    sweep: Annotated[
        str | None,
        typer.Option(metavar="RUN_ID", help="The parent run of a sweep. Default: the last sweep of that name."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Update the report until the sweep ends.")] = False,
    patch: Annotated[
        bool, typer.Option("--patch", help="Show the uncommitted changes to the code. They may be private.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the report of one sweep, or one report of several, and print the comparison."""
    if sweep and len(names) > 1:
        fail(f"--sweep: found with {len(names)} names; allowed: with one name, since it is the run of one sweep")
    if json and watch:
        fail("--json: found with --watch; allowed: one of them")
    from harness.console.preflight import wrong_reports, wrong_tracking

    with gc_paused_for_imports():
        from harness.report import TrackingError, write_report, write_reports

    if wrong := [*wrong_tracking(uri), *wrong_reports(folder)]:
        fail("\n".join(wrong))

    def write() -> ReportFiles:
        if len(names) > 1:
            return write_reports(names, uri, folder, patch)
        return write_report(names[0], uri, folder, sweep, patch)

    try:
        files = _watched(names, write, uri, sweep) if watch else write()
    except (TrackingError, OSError) as error:
        fail("\n".join([str(error), *(_other_sweeps(names[0], uri) if len(names) == 1 and not sweep else [])]))
    if json:
        from harness.runner.as_json import answer_document, as_text

        typer.echo(as_text(answer_document(files)))
        return
    show_answer(files.headline, files.lines, files.answer, files.warnings, files.key)
    for note in files.notes:
        out.print(note, soft_wrap=True)
    for path in (files.html, files.markdown, files.folder):
        out.print(str(path), soft_wrap=True)


def _other_sweeps(name: str, uri: str | None) -> list[str]:
    """A line that names the other sweeps of a name whose last sweep cannot be reported; empty if there are none."""
    from harness.tracking import TrackingError, sweep_ids

    try:
        others = sweep_ids(name, uri)[1:]
    except TrackingError:
        return []
    return [f"{name} has other sweeps, too: --sweep RUN_ID reads {listed(others[:3])}"] if others else []


def _watched(names: list[str], write: Callable[[], ReportFiles], uri: str | None, sweep: str | None) -> ReportFiles:
    """Keep the report up to date while its sweeps run. Returns the last one."""
    from harness.report.watch import watch

    last: ReportFiles | None = None
    try:
        for written in watch(names, write, uri, sweep):
            last = written.files or last
            where = written.files.html if written.files else "nothing to report yet"
            now = f"{datetime.now():%H:%M:%S}  {where}  {written.ended} runs ended, {len(written.running)} running"
            out.print(f"{now}; preliminary" if written.preliminary else now, soft_wrap=True)
            for name in written.running:
                out.print(f"          {name}", soft_wrap=True)
    except KeyboardInterrupt:
        fail("stopped watching; the sweep continues, the report is no longer updated", Exit.INTERRUPTED)
    assert last is not None  # `watch` raises if a sweep ends without a run
    return last


@_audit_app.command(cls=Command)
def check_verdicts() -> None:
    """Check the verdicts on simulated sweeps whose truth is known: false alarms, power, coverage of the intervals.

    Each line has what was found and its bound. Exits with 1 if a bound is broken.
    """
    from harness.analysis.simulation import SWEEPS, audit, audit_lines

    out.print(f"{SWEEPS:,} simulated sweeps per check: this takes a few minutes.")
    checks = []
    with err.status("simulating") as shown:
        for check in audit():
            checks.append(check)
            shown.update(f"simulating: {plural(len(checks), 'check')} done")
    show_table(audit_lines(checks))
    broken = sum(not check.passed for check in checks)
    if broken:
        fail(f"{broken} of {len(checks)} checks are outside their bounds", Exit.FAILED)


if __name__ == "__main__":
    app(prog_name="python -m harness.report")
