"""The progress of a sweep as text: a table of its arms, and lines about the sweep and its unfinished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from harness.config.labels import ArmLabels, labelled
from harness.config.objective import curve_value
from harness.console.cli import out
from harness.console.tables import show_arms
from harness.console.text import clock
from harness.core.outcomes import Outcome
from harness.core.text import SAME_COMMAND, plural
from harness.runner.status import ArmStatus, Status

HEADINGS: Final = ("Arm", "Explored", "Confirmed", "Running", "Interrupted", "Failed", "Left")


def show_status(title: str, status: Status, labels: ArmLabels, lines: Sequence[str]) -> None:
    """Print a sweep's status under its title: the table of arms, and the lines below it."""
    out.print(title, style="bold", soft_wrap=True)
    if status.sweep is not None:
        show_arms([(*HEADINGS, f"Best val {status.objective.unit}"), *map(arm_cells, status.arms)], labels)
    for line in lines:
        out.print(line, soft_wrap=True)


def arm_cells(arm: ArmStatus) -> tuple[str, ...]:
    """One row of the table, in the order of `HEADINGS`, and its best value."""
    finished = (f"{arm.explored}/{arm.trials}", f"{arm.confirmed}/{arm.seeds}")
    counts = (arm.running, arm.interrupted, arm.failed, arm.left)
    return (arm.arm, *finished, *map(str, counts), "–" if arm.best is None else f"{arm.best:.4f}")


def status_lines(status: Status, labels: Mapping[str, str] | None = None) -> list[str]:
    """The lines below the table; `labels`: arm → its label, if it has another than its name."""
    labels = labels or {}
    if status.sweep is None:
        return ["not started", *status.left_out]
    lines = [_state(status)]
    for run in status.open_runs:
        name = labelled(run.info.name, run.info.arm, labels.get(run.info.arm, run.info.arm))
        if not run.points:
            lines.append(f"  {name}  no measurements yet")
            continue
        last = run.points[-1]
        values = [curve_value(point, status.objective.metric) for point in run.points]
        known = [value for value in values if value is not None]
        newest = f"  val {status.objective.unit} {known[-1]:.4f}" if known else ""
        lines.append(f"  {name}  {last.progress:4.0%}  {last.tokens:,} tokens{newest}")
    if status.unsent:
        lines.append(f"{plural(status.unsent, 'finished run')} not completely stored in MLflow yet")
    return [*lines, *status.left_out]


def _state(status: Status) -> str:
    sweep = status.sweep
    assert sweep is not None
    if sweep.owner:
        return f"running for {clock(status.now - sweep.opened / 1000)}, by process {sweep.owner}"
    if sweep.status == "RUNNING":
        return f"not running: its process ended without closing it; {SAME_COMMAND}"
    if sweep.outcome != Outcome.COMPLETE:
        return f"not running: {sweep.outcome}; {SAME_COMMAND}"
    left = any(arm.left for arm in status.arms)  # with `--set study.seeds`, say
    return "complete, with fewer runs than the spec asks for now" if left else "complete"
