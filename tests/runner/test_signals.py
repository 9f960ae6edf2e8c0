"""Ctrl-C, SIGTERM and a closed terminal, at every stage of a sweep."""

from __future__ import annotations

import fcntl
import importlib
import os
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fuzzing import MORE
from harness.runner.signals import Interrupted, StopRequest, stop_signals
from in_process import call
from sandbox import SPEC, Sandbox, saved
from warm_start import PATIENCE

SMALL = SPEC.replace("6_144", "2_048").replace("tokens: 2_048}\n  train_eval", "tokens: 1_024}\n  train_eval")
LONG = SPEC.replace("6_144", "40_000_000").replace("trials: 2, seeds: 2", "trials: 1, seeds: 1")
LONG = LONG.replace("  sample:", "  checkpoint_every: 0.3\n  sample:")
SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)

# Where a signal arrives: the module, and the function in whose first call it does.
STAGES = {
    "opening Optuna": ("harness.runner.session", "open_storage"),
    "opening the studies": ("harness.runner.session", "_open_studies"),
    "recovering": ("harness.runner.session", "reconcile"),
    "before the first run": ("harness.runner.controller", "SweepController._submit_tasks"),
    "between the phases": ("harness.runner.scheduler", "Scheduler._queue_confirms"),
    "waiting for MLflow": ("harness.tracking.outbox.outbox", "Outbox.drain"),
    "writing the report": ("harness.runner.session", "write_and_show_report"),
}


def interrupted(sandbox: Sandbox, stage: str, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """A sweep in this process, which gets a signal at a stage."""
    module, name = STAGES[stage]
    *owner, function = name.split(".")
    place: Any = importlib.import_module(module)
    for part in owner:
        place = getattr(place, part)
    original = getattr(place, function)
    sent: list[signal.Signals] = []

    def signalled(*arguments: Any, **options: Any) -> Any:
        if not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
        return original(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, function, signalled)
        done = call(sandbox, "tiny.yaml", "--workers", "1")
    assert sent == [number]
    return done


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_signal_at_any_stage(stage: str, tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, SMALL)
    first = list(STAGES).index(stage)  # so that each signal comes at another stage; with FUZZ all do
    for number in [SIGNALS[(first + place) % 3] for place in range(min(3, MORE))]:
        done = interrupted(sandbox, stage, number)
        assert done.returncode == 128 + number, done.stderr
        assert "the same command resumes it" in done.stderr and "Traceback" not in done.stderr
        parents, runs = sandbox.runs()
        assert {run.info.status for run in parents} <= {"KILLED"}
        assert {run.info.status for run in runs} <= {"KILLED", "FINISHED"}
        assert "RUNNING" not in sandbox.trials()
        if stage == "between the phases":
            break  # which is passed only once
    done = call(sandbox, "tiny.yaml", "--workers", "1")
    assert done.returncode == 0, done.stderr
    (parent,), runs = sandbox.runs()
    assert {run.info.status for run in [parent, *runs]} == {"FINISHED"}
    assert len(runs) == 2 * (2 + 2) and sandbox.trials() == {"COMPLETE": 4}


@pytest.fixture
def restored() -> Iterator[None]:
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("first", SIGNALS)
def test_a_closed_terminal_never_counts_as_the_second_signal(first: signal.Signals) -> None:
    """It sends SIGHUP twice, by the kernel and by the shell; systemd sends it after SIGTERM."""
    Interrupted.raise_on_signals()
    with StopRequest() as stop:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGHUP)
        assert stop.signal == first
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGHUP)  # while MLflow stores the rest
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("restored")
def test_a_closed_terminal_interrupts_once() -> None:
    Interrupted.raise_on_signals()
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGHUP)
    assert Interrupted.received == signal.SIGHUP


@pytest.mark.usefixtures("restored")
def test_an_ignored_hangup_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Interrupted.raise_on_signals()
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.signal == 0
    signal.raise_signal(signal.SIGHUP)
    assert Interrupted.received == 0 and signal.SIGHUP not in stop_signals()


class Terminal:
    """A real terminal with a command in it; closing it hangs up.

    Args:
        command: its arguments.
        folder: where it runs.
    """

    def __init__(self, command: list[str], folder: Path) -> None:
        self._ours, theirs = os.openpty()
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._closing, self._wake = threading.Event(), os.pipe()
        self._reader.start()

    def _read(self) -> None:
        """Read what is printed, as a terminal does; else the command waits."""
        while not self._closing.is_set():
            if self._ours in select.select([self._ours, self._wake[0]], [], [])[0]:
                try:
                    os.read(self._ours, 1 << 16)
                except OSError:  # Linux answers so once no process has the terminal open
                    return

    def close(self) -> None:
        """Close the terminal: the kernel sends SIGHUP to all processes in it."""
        self._closing.set()
        os.write(self._wake[1], b"x")
        self._reader.join()
        os.close(self._ours)


@pytest.mark.slow
@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_is_closed(nohup: bool, tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, LONG)
    command = [*(["nohup"] if nohup else []), sys.executable, *sandbox.command("tiny.yaml", "--workers", "2")]
    terminal = Terminal(command, sandbox.folder)
    process = psutil.Process(terminal.process.pid)
    try:
        wait_until(lambda: len(sandbox.under_way(states=1)) == 2, terminal.process)
        terminal.close()
        if nohup:
            steps = [kept.points[-1].step for _, kept in sandbox.under_way()]
            wait_until(lambda: len(sandbox.under_way(max(steps) + 1)) == 2, terminal.process)
            terminal.process.terminate()
        assert terminal.process.wait(PATIENCE) == (143 if nohup else 129)
    finally:
        for one in [*process.children(recursive=True), process] if terminal.process.poll() is None else []:
            one.kill()
    (parent,), runs = sandbox.runs()
    assert {run.info.status for run in [parent, *runs]} == {"KILLED"}
    assert sandbox.trials() == {"WAITING": 2}
    assert all(saved(folder) for folder, _ in sandbox.open_runs())
    log = (sandbox.folder / "mlruns" / "tiny.log").read_text("utf-8")
    assert log.count("finished interrupted") == 2 and "Traceback" not in log


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
