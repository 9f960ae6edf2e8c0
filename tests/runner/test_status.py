"""The status of a sweep, read from stores that the test fills."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import psutil
import pytest

from crashed_sweep import SPEC, CrashedSweep, measure
from harness.core.metrics import VAL_LOSS, Point
from harness.core.outcomes import Outcome, Phase
from harness.runner.status import read_status
from harness.runner.status_table import arm_cells, status_lines
from harness.runner.tasks import Task
from specs import load
from stored_runs import DATA

pytestmark = pytest.mark.slow


def status_of(crashed: CrashedSweep, now: float | None = None) -> tuple[list[tuple[str, ...]], list[str]]:
    found = read_status(
        crashed.spec,
        crashed.spec.identity(),
        f"sqlite:///{crashed.folder}/mlflow.db",
        f"sqlite:///{crashed.folder}/optuna.db",
        crashed.folder / "work" / "runs",
        now,
    )
    return [arm_cells(arm) for arm in found.arms], status_lines(found)


def test_a_sweep_that_has_not_started_and_no_file_is_made(tmp_path: Path) -> None:
    crashed = CrashedSweep(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    cells, lines = status_of(crashed)
    assert cells == [("all", "0/6", "0/2", "0", "0", "0", "8", "–")]
    assert lines == ["not started"]
    assert sorted(tmp_path.rglob("*")) == before


def test_finished_running_failed_and_missing_runs_are_counted(tmp_path: Path) -> None:
    crashed = CrashedSweep(tmp_path)
    study, tracker, outbox = crashed.open()
    for outcome, losses in [
        (Outcome.COMPLETE, (5.0, 4.0)),
        (Outcome.COMPLETE, (5.0, 3.0)),
        (Outcome.PRUNED, (5.0, 6.0)),
        (Outcome.FAILED, (5.0,)),
    ]:
        key, task = crashed.start_trial(study, outbox, *losses)
        assert task.trial is not None
        outbox.end(key, outcome, "why")
        study.tell(task.trial.number, outcome, losses[-1])
    crashed.start_trial(study, outbox, 5.0, 4.5)  # trains now
    outbox.send()
    unsent = outbox.start(Task(crashed.arm, Phase.CONFIRM, task.values, 2, task.config).info(DATA))
    measure(outbox, unsent, task.config, 5.0, 3.5)
    outbox.end(unsent, Outcome.COMPLETE, "")  # not sent to MLflow

    # This process owns the sweep and does not run it, so open runs count as interrupted.
    cells, lines = status_of(crashed)
    assert cells == [("all", "3/6", "1/2", "0", "1", "1", "3", "3.0000")]
    assert lines[0] == "not running: its process ended without closing it; the same command resumes it"
    assert lines[1].endswith(" 25%  640 tokens  val loss 4.5000")
    assert lines[1].startswith("  learning_rate=")
    assert lines[2:] == ["1 finished run not completely stored in MLflow yet"]

    parent = psutil.Process(os.getppid())
    name = f"{socket.gethostname()}:{parent.pid}:{parent.create_time()}"
    tracker.tag(outbox.parent, process=name, opened=str(int(time.time() * 1000) - 65_000))
    cells, lines = status_of(crashed, time.time())
    assert cells == [("all", "3/6", "1/2", "1", "0", "1", "3", "3.0000")]
    assert lines[0] in (f"running for 1:05, by process {name}", f"running for 1:06, by process {name}")

    tracker.close_sweep(outbox.parent, Outcome.INTERRUPTED)
    assert status_of(crashed)[1][0] == "not running: interrupted; the same command resumes it"
    tracker.close_sweep(outbox.parent, Outcome.COMPLETE)
    assert status_of(crashed)[1][0] == "complete, with fewer runs than the spec asks for now"


def test_a_sweep_of_an_edited_spec_has_its_own_status(tmp_path: Path) -> None:
    crashed = CrashedSweep(tmp_path)
    study, _, outbox = crashed.open()
    crashed.start_trial(study, outbox, 5.0)
    outbox.send()
    crashed.spec = load(tmp_path, SPEC.replace("steps: 40", "steps: 41"))
    assert status_of(crashed)[1] == ["not started"]


def test_points_without_an_evaluation_have_no_loss_to_show(tmp_path: Path) -> None:
    crashed = CrashedSweep(tmp_path)
    study, _, outbox = crashed.open()
    key, _ = crashed.start_trial(study, outbox)
    outbox.send()
    assert status_of(crashed)[1][1].endswith("no measurements yet")
    outbox.log_point(key, Point(5, 320, 0.125, 1.0, {"train/batch_loss": 4.0}))
    assert VAL_LOSS not in kept_metrics(crashed)
    assert status_of(crashed)[1][1].endswith(" 12%  320 tokens")


def kept_metrics(crashed: CrashedSweep) -> set[str]:
    """Names of all metrics in the record on disk."""
    from harness.tracking import unfinished_runs

    return {
        name for run in unfinished_runs(crashed.folder / "work" / "runs") for one in run.points for name in one.metrics
    }
