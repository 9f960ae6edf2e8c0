"""How far a sweep is, counted from stores that a test has filled by hand."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import psutil

from harness.core.metrics import VAL_LOSS, Point
from harness.core.outcomes import Outcome, Phase
from harness.runner.status import read_status
from harness.runner.status_table import arm_cells, status_lines
from harness.runner.tasks import Task
from specs import load
from stored_runs import DATA
from torn_sweep import SPEC, Torn, measure


def status_of(torn: Torn, now: float | None = None) -> tuple[list[tuple[str, ...]], list[str]]:
    found = read_status(
        torn.spec,
        torn.spec.identity(),
        f"sqlite:///{torn.folder}/mlflow.db",
        f"sqlite:///{torn.folder}/optuna.db",
        torn.folder / "work" / "runs",
        now,
    )
    return [arm_cells(arm) for arm in found.arms], status_lines(found)


def test_a_sweep_that_has_not_begun_is_said_to_be_so_and_nothing_is_made(tmp_path: Path) -> None:
    torn = Torn(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    cells, lines = status_of(torn)
    assert cells == [("all", "0/6", "0/2", "0", "0", "0", "8", "–")]
    assert lines == ["not started"]
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_done_running_failed_and_left_is_counted(tmp_path: Path) -> None:
    torn = Torn(tmp_path)
    study, tracker, outbox = torn.open()
    for outcome, losses in [
        (Outcome.COMPLETE, (5.0, 4.0)),
        (Outcome.COMPLETE, (5.0, 3.0)),
        (Outcome.PRUNED, (5.0, 6.0)),
        (Outcome.FAILED, (5.0,)),
    ]:
        key, task = torn.begin(study, outbox, *losses)
        assert task.trial is not None
        outbox.end(key, outcome, "why")
        study.tell(task.trial.number, outcome, losses[-1])
    torn.begin(study, outbox, 5.0, 4.5)  # is being trained
    outbox.send()
    unsent = outbox.start(Task(torn.arm, Phase.CONFIRM, task.values, 2, task.config).info(DATA))
    measure(outbox, unsent, task.config, 5.0, 3.5)
    outbox.end(unsent, Outcome.COMPLETE, "")  # MLflow does not know

    # This very process holds the sweep, so to itself nobody does: what is open was interrupted.
    cells, lines = status_of(torn)
    assert cells == [("all", "3/6", "1/2", "0", "1", "1", "3", "3.0000")]
    assert lines[0] == "not running: its process ended without closing it; the same command resumes it"
    assert lines[1].endswith(" 25%  640 tokens  val loss 4.5000")
    assert lines[1].startswith("  learning_rate=")
    assert lines[2:] == ["1 finished run not completely stored in MLflow yet"]

    parent = psutil.Process(os.getppid())
    name = f"{socket.gethostname()}:{parent.pid}:{parent.create_time()}"
    tracker.tag(outbox.parent, process=name, opened=str(int(time.time() * 1000) - 65_000))
    cells, lines = status_of(torn, time.time())
    assert cells == [("all", "3/6", "1/2", "1", "0", "1", "3", "3.0000")]
    assert lines[0] in (f"running for 1:05, by process {name}", f"running for 1:06, by process {name}")

    tracker.close_sweep(outbox.parent, Outcome.INTERRUPTED)
    assert status_of(torn)[1][0] == "not running: interrupted; the same command resumes it"
    tracker.close_sweep(outbox.parent, Outcome.COMPLETE)
    assert status_of(torn)[1][0] == "complete, with fewer runs than the spec asks for now"


def test_a_sweep_of_another_spec_has_a_status_of_its_own(tmp_path: Path) -> None:
    torn = Torn(tmp_path)
    study, _, outbox = torn.open()
    torn.begin(study, outbox, 5.0)
    outbox.send()
    torn.spec = load(tmp_path, SPEC.replace("steps: 40", "steps: 41"))
    assert status_of(torn)[1] == ["not started"]


def test_points_without_an_evaluation_have_no_loss_to_show(tmp_path: Path) -> None:
    torn = Torn(tmp_path)
    study, _, outbox = torn.open()
    key, _ = torn.begin(study, outbox)
    outbox.send()
    assert status_of(torn)[1][1].endswith("no measurements yet")
    outbox.log_point(key, Point(5, 320, 0.125, 1.0, {"train/batch_loss": 4.0}))
    assert VAL_LOSS not in kept_metrics(torn)
    assert status_of(torn)[1][1].endswith(" 12%  320 tokens")


def kept_metrics(torn: Torn) -> set[str]:
    """Names of all metrics in the record on disk."""
    from harness.tracking import unfinished_runs

    return {
        name for run in unfinished_runs(torn.folder / "work" / "runs") for one in run.points for name in one.metrics
    }
