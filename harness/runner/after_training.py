"""What a sweep does once its runs have ended: MLflow stores the rest, the report is written, the next plan learns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from harness.config.spec import SweepSpec
from harness.console.cli import out
from harness.console.tables import show_answer
from harness.core.disk import disk_error
from harness.core.metrics import Point
from harness.core.text import TRIES_AGAIN, plural
from harness.cost.overheads import OverheadHistory, measured_overheads
from harness.cost.preview import runs_at_most
from harness.runner.next_steps import command_line, next_steps
from harness.tracking import ArmResult, NothingToReport, Outbox, Tracker, TrackingError, page_address, ui_command
from harness.tracking.outbox.sending_time import SendingTime
from harness.tracking.schema import CURVE_FILE

# Seconds to wait for MLflow at the end of a sweep.
DRAIN_PATIENCE: Final = 300.0  # without progress
DRAIN_SECONDS_STOPPED: Final = 10.0  # in all, after a signal


def wait_for_store(outbox: Outbox, stopped: bool) -> bool:
    """Wait until MLflow has stored everything: as long as it makes progress, but only seconds after a signal.

    Returns:
        whether it has.
    """
    try:
        if outbox.drain(DRAIN_SECONDS_STOPPED, DRAIN_SECONDS_STOPPED):
            return True
        if stopped:
            return False
        waits = f"waiting for MLflow to store {plural(outbox.waiting, 'run')} ({outbox.error or 'it is slow'})"
        out.print(f"{waits}; Ctrl-C to leave it for later", soft_wrap=True)
        return outbox.drain(DRAIN_PATIENCE)
    except KeyboardInterrupt:
        if not outbox.error:  # else runs that have ended would stay RUNNING until the next command
            outbox.drain(DRAIN_SECONDS_STOPPED, DRAIN_SECONDS_STOPPED)
        raise


def not_stored(outbox: Outbox) -> str:
    """What to say if MLflow has not stored everything: where the results are, and the command that sends them."""
    return (
        f"the results are safe in {outbox.folder}, but MLflow has not stored them ({outbox.error or 'too slow'}); "
        f"the same command sends them: {command_line()}"
    )


def draw_run(points: Sequence[Point], folder: Path) -> None:
    """Draw a finished run's loss curve into its folder of artifacts, if it has two evaluations and is not drawn yet."""
    path = folder / CURVE_FILE
    if sum(point.evaluated for point in points) > 1 and not path.exists():
        from harness.report import loss_curve  # matplotlib takes a second to import

        loss_curve(points, path)


def write_and_show_report(
    spec: SweepSpec, tracker: Tracker, parent: str, tracking: str | None, reports: Path
) -> list[str]:
    """Write the report and store it with the parent run; print the answer, the addresses and the next steps.

    Returns:
        why the report was not stored; empty if it was.
    """
    from harness.report import write_report
    from harness.report.folder import written_files

    try:
        files = write_report(spec.name, tracking, reports, parent)
    except NothingToReport as error:  # the sweep was stopped before its first run
        out.print(str(error), soft_wrap=True)
        return []
    except TrackingError as error:
        return [f"the results are stored, but the report cannot be written: {error}"]
    out.print()
    show_answer(files.headline, files.lines, files.answer, files.warnings, files.key)
    out.print(f"report:     {files.html}", soft_wrap=True)
    results = [
        ArmResult(
            row["arm"],
            row["label"],
            row["metric"],
            row["mean"],
            row["difference"],
            row["verdict"] if isinstance(row["verdict"], str) else "",
        )
        for row in files.comparison.to_dict("records")
    ]
    failed = []
    try:
        tracker.store_report(
            parent, f"{files.headline} {files.answer}".strip(), files.folder, written_files(files.folder), results
        )
        out.print(f"MLflow UI:  {ui_command(tracking)}", soft_wrap=True)
        out.print(f"its page:   {page_address(parent, tracking)}", soft_wrap=True)
    except (TrackingError, OSError) as error:
        why = disk_error(error) if isinstance(error, OSError) else error
        advice = f"{TRIES_AGAIN}: {command_line()}"
        failed = [f"the report is in {files.folder}, but MLflow has not stored it ({why}); {advice}"]
    for step in next_steps(files.comparison, sys.argv[1:], len(spec.looks) > 1):
        out.print(f"next:       {step}", soft_wrap=True)
    return failed


def store_overheads(
    spec: SweepSpec, sending: SendingTime, turnarounds: Sequence[float], starting: float, reporting: float
) -> None:
    """Store what this sweep took besides training, for the next plan on this machine.

    Args:
        spec: the sweep.
        sending: what was sent to MLflow.
        turnarounds: seconds of a worker besides steps and evaluations, run by run.
        starting, reporting: seconds until the first run trained, and of the report.
    """
    found = measured_overheads(
        start=starting,
        run_seconds=sending.run_seconds,
        runs=sending.runs,
        point_seconds=max(0.0, sending.seconds - sending.run_seconds),
        points=sending.points,
        turnarounds=turnarounds,
        report=reporting,
        arms=len(spec.arms()),
        reported_runs=runs_at_most(spec),
    )
    if found is not None:
        OverheadHistory().add(found)
