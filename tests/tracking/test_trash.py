"""Deleted experiments, sweeps and runs: the printed commands restore or remove them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import Experiment

from empty_store import copy_empty_store
from harness.core.outcomes import Outcome
from harness.tracking import Tracker, TrackingError, load_run, load_runs
from harness.tracking.store import connect
from harness.tracking.trash import refuse_deleted
from stored_runs import sweep_info, trial_info

URI = "sqlite:///mlruns/mlflow.db"


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    copy_empty_store(Path("mlruns", "mlflow.db"))


def run(message: str, command: str) -> None:
    """Run a command that a message gives, in a shell."""
    found = re.search(rf"(MLFLOW_TRACKING_URI=\S+ )?python -m mlflow {command}[^;]*", message)
    assert found, message
    line = found[0].replace("python", shlex.quote(sys.executable), 1)
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def swept() -> tuple[str, str]:
    """Make a sweep of one run; returns the ids of both."""
    tracker = Tracker("binned")
    parent = tracker.open_sweep(sweep_info("binned"))
    child = tracker.start_run(parent, trial_info())
    tracker.end_run(child, Outcome.COMPLETE)
    tracker.close_sweep(parent, Outcome.COMPLETE)
    return parent, child


@pytest.mark.slow
def test_the_printed_commands_restore_an_experiment_and_remove_it(tmp_path: Path) -> None:
    _, child = swept()
    client = connect(URI)
    [number] = [one.experiment_id for one in client.search_experiments() if one.name == "binned"]
    files = set(tmp_path.iterdir())
    client.delete_experiment(number)
    with pytest.raises(TrackingError, match=r"^the experiment 'binned' was deleted") as caught:
        load_run(child)
    run(str(caught.value), "experiments restore")
    assert load_runs("binned")["run_id"].tolist() == [child]
    client.delete_experiment(number)
    with pytest.raises(TrackingError, match=r"^the experiment 'binned' was deleted") as caught:
        Tracker("binned")
    run(str(caught.value), "gc")
    assert not (tmp_path / "mlruns" / "artifacts" / child).exists()
    assert set(tmp_path.iterdir()) == files  # no stray database
    Tracker("binned")


@pytest.mark.slow
def test_the_printed_command_restores_a_run_and_a_sweep() -> None:
    parent, child = swept()
    client = connect(URI)
    client.delete_run(child)
    with pytest.raises(TrackingError, match=f"^the run {child} .* was deleted") as caught:
        load_run(child[:8])
    run(str(caught.value), "runs restore")
    assert load_run(child).run_id == child
    client.delete_run(parent)
    for sweep in (None, parent):
        with pytest.raises(TrackingError, match=f"^the run {parent} .* was deleted") as caught:
            load_runs("binned", sweep=sweep)
    run(str(caught.value), "runs restore")
    assert load_runs("binned", sweep=parent)["run_id"].tolist() == [child]


def test_what_was_never_there_is_not_said_to_be_deleted() -> None:
    _, child = swept()
    connect(URI).delete_run(child)
    with pytest.raises(TrackingError, match=r"^found no run 'ffff'"):
        load_run("ffff")
    with pytest.raises(TrackingError, match=r"^found no sweep 'x' in the experiment 'binned'; allowed: "):
        load_runs("binned", sweep="x")
    Tracker("empty")
    with pytest.raises(TrackingError, match=r"^found no sweep in the experiment 'empty'; run one first"):
        load_runs("empty")


@pytest.mark.parametrize("uri", ["postgresql+psycopg://me:secret@host/runs", "http://me:secret@host:5000"])
def test_no_password_is_printed(uri: str) -> None:
    with pytest.raises(TrackingError) as caught:
        refuse_deleted(Experiment("7", "binned", "s3://x", "deleted"), uri)
    restore = 'MLFLOW_TRACKING_URI="$MLFLOW_TRACKING_URI" python -m mlflow experiments restore'
    assert f"{restore} --experiment-id 7" in str(caught.value)
    assert "secret" not in str(caught.value)
