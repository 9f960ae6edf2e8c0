from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.report import ReportFiles, TrackingError, write_report
from harness.report.__main__ import app
from harness.report.watch import watch
from harness.tracking import Tracker, read_activity
from paths import SUPPORT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]

# Another process runs the sweep, a step for every line that it is sent: it is not to be this one, which watches.
SWEEP = """
import sys
from dataclasses import replace
sys.path.insert(0, sys.argv[2])
from stored_runs import point, sweep_info, trial_info
from harness.core.outcomes import Outcome
from harness.tracking import Tracker
tracker = Tracker("watched", sys.argv[1])
steps = sys.stdin
def wait():
    print("ready", flush=True)
    if not steps.readline():
        sys.exit(1)
study = {"sampler": "random", "pruner": "none", "trials": 2, "seeds": 2, "looks": [2], "delta": 0.02}
parent = tracker.open_sweep(replace(sweep_info("watched"), study=study, plan={}))
wait()
run = tracker.start_run(parent, trial_info())
wait()
tracker.log_point(run, point(0, val__loss=5.5, train__loss=5.5))
tracker.log_point(run, point(20, val__loss=4.5, train__loss=4.5))
tracker.flush()
wait()
tracker.end_run(run, Outcome.COMPLETE)
tracker.close_sweep(parent, Outcome.COMPLETE)
wait()
"""


class Sweep:
    def __init__(self, uri: str) -> None:
        command = [sys.executable, "-c", SWEEP, uri, str(SUPPORT)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def step(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.ready()


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def sweep(uri: str) -> Iterator[Sweep]:
    found = Sweep(uri)
    found.ready()
    yield found
    found.process.kill()
    found.process.wait()


def test_the_report_follows_a_sweep_until_it_ends(uri: str, sweep: Sweep, tmp_path: Path) -> None:
    def write() -> ReportFiles:
        return write_report("watched", uri, tmp_path / "reports")

    written = watch(["watched"], write, uri, every=0.05)
    first = next(written)
    assert (first.files, first.ended, first.running, first.preliminary) == (None, 0, (), True)
    sweep.step()
    begun = next(written)
    assert (begun.files, begun.ended, begun.running, begun.preliminary) == (None, 0, ("a trial · seed 7",), True)
    sweep.step()
    on_its_way = next(written)
    assert on_its_way.files is not None
    assert "preliminary: 1 run still training" in on_its_way.files.markdown.read_text("utf-8")
    assert any("had not ended" in warning for warning in on_its_way.files.warnings)
    sweep.step()
    last = next(written)
    assert (last.ended, last.running, last.preliminary) == (1, (), False)
    assert last.files is not None
    assert not any("had not ended" in warning for warning in last.files.warnings)
    assert list(written) == []


def test_a_sweep_that_ended_without_a_loss_has_no_report(uri: str, sweep: Sweep, tmp_path: Path) -> None:
    sweep.step()
    sweep.process.kill()
    sweep.process.wait()
    done = CliRunner().invoke(app, ["watched", "--watch", "--tracking", uri, "--out", str(tmp_path / "here")])
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert "has no run with a loss yet" in done.stderr


def test_a_sweep_whose_process_died_is_reported_once(uri: str, sweep: Sweep, tmp_path: Path) -> None:
    sweep.step()
    sweep.step()
    sweep.process.kill()
    sweep.process.wait()
    assert not read_activity("watched", uri).active
    done = CliRunner().invoke(app, ["watched", "--watch", "--tracking", uri, "--out", str(tmp_path / "here")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "here" / "watched" / "report.html").exists()
    line = done.stdout.splitlines()[0]
    assert line.endswith("report.html  0 runs ended, 1 running")


def test_a_missing_sweep_is_an_immediate_error(uri: str) -> None:
    Tracker("watched", uri)
    with pytest.raises(TrackingError, match="found no experiment 'nobody'"):
        next(watch(["nobody"], lambda: pytest.fail("nothing to write"), uri))
    done = CliRunner().invoke(app, ["nobody", "--watch", "--tracking", uri])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
