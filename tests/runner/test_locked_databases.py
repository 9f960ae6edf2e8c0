"""A sweep while another process locks one of its databases."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core import waiting
from harness.runner import signals
from harness.search.study import ArmStudy
from harness.tracking import Tracker
from in_process import call
from locks import lock_for
from sandbox import SPEC, Sandbox

pytestmark = pytest.mark.slow

SMALL = SPEC.replace("6_144", "2_048").replace("trials: 2", "trials: 1")
SECONDS = 1.0


def lock_at_first_call(
    monkeypatch: pytest.MonkeyPatch,
    place: type,
    function: str,
    file: Path,
    kind: str,
    seconds: float,
    then: Callable[[], None] = lambda: None,
) -> list[subprocess.Popen[str]]:
    """Lock a database when a method is called first; returns a list that will have the process with the lock."""
    original = getattr(place, function)
    holders: list[subprocess.Popen[str]] = []

    def with_lock(*arguments: Any, **options: Any) -> Any:
        if not holders:
            holders.append(lock_for(file, kind, seconds))
            assert holders[0].stdout is not None and holders[0].stdout.readline() == "locked\n"
            then()
        return original(*arguments, **options)

    monkeypatch.setattr(place, function, with_lock)
    monkeypatch.setattr(waiting, "_BUSY_SECONDS", 0.2)
    return holders


@pytest.mark.parametrize(
    ("name", "place", "function"),
    [
        ("optuna.db", ArmStudy, "ask"),  # between two runs
        ("mlflow.db", Tracker, "begin_sweep"),
        ("mlflow.db", Tracker, "store_report"),
    ],
)
def test_a_sweep_waits_for_a_locked_database(
    name: str, place: type, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = Sandbox(tmp_path, SMALL)
    holders = lock_at_first_call(monkeypatch, place, function, tmp_path / "mlruns" / name, "exclusive", SECONDS)
    monkeypatch.setattr(waiting, "NOTE_SECONDS", 0.3)
    done = call(sandbox, "tiny.yaml", "--workers", "1")
    holders[0].communicate()
    assert done.returncode == 0, done.stderr
    assert f"waiting for mlruns/{name}: another process has locked it (at most 300 s)" in done.stdout
    assert f"mlruns/{name} can be used again, after " in done.stdout
    assert "waiting for mlruns/" in (tmp_path / "mlruns" / "tiny.log").read_text("utf-8")
    assert {run.info.status for runs in sandbox.runs() for run in runs} == {"FINISHED"}
    assert sandbox.trials() == {"COMPLETE": 2}


def test_a_lock_that_stays_ends_the_sweep_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox(tmp_path, SMALL)
    file = tmp_path / "mlruns" / "optuna.db"
    holders = lock_at_first_call(monkeypatch, ArmStudy, "ask", file, "immediate", 600.0)
    monkeypatch.setattr(waiting, "LOCK_SECONDS", 1.0)
    try:
        done = call(sandbox, "tiny.yaml", "--workers", "1")
    finally:
        holders[0].kill()
        holders[0].communicate()
    assert done.returncode == 1
    assert "Optuna: (sqlite3.OperationalError) database is locked; the same command resumes it" in done.stderr
    assert "Traceback" not in done.stderr
    again = call(sandbox, "tiny.yaml", "--workers", "1")
    assert again.returncode == 0, again.stderr
    assert sandbox.trials() == {"COMPLETE": 2}


def test_a_sweep_that_is_stopped_while_a_database_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox(tmp_path, SMALL)
    file = tmp_path / "mlruns" / "optuna.db"
    holders = lock_at_first_call(
        monkeypatch, ArmStudy, "ask", file, "immediate", 600.0, lambda: os.kill(os.getpid(), signal.SIGTERM)
    )
    monkeypatch.setattr(signals, "SECONDS_AFTER_SIGNAL", 1.0)
    try:
        done = call(sandbox, "tiny.yaml", "--workers", "1")
    finally:
        holders[0].kill()
        holders[0].communicate()
    assert done.returncode == 143
    assert "Optuna: (sqlite3.OperationalError) database is locked; the same command resumes it" in done.stderr
