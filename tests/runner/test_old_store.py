"""A sweep that an older version stored: every command still reads it; the same command starts a new sweep and says why.

The store was made by the last version before the package was divided into packages. `printed/` holds what that version
printed; artifact addresses in the database begin with `/made/here`.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from typer import Typer
from typer.testing import CliRunner

import harness.generate
import harness.report.__main__
import harness.sweep
import warm_start
from harness.compare import app as compare_command
from harness.runner.datasets import Datasets
from harness.tracking import load_runs
from paths import ROOT

pytestmark = pytest.mark.slow

STORE = ROOT / "tests" / "data" / "old_store.zip"
MADE_IN = "/made/here"
SWEEP = "0bbf1cdab02349bea042f5b9501719ed"
IDENTITY = "0499077e9a45c0db9c5018e02a44d596204bf5584ca4b855baa596befb076173"
RUN_A, RUN_B = "aacd891733d9", "075d2c870939"
IS_NEW = "changed since the last sweep of this name: this is a new sweep, and the earlier runs are kept"
NEW_CODE = f"the training code {IS_NEW}"
DEFAULT = ["--set", "train.sample.temperature=0.0"]  # of that version
LAST = r"not started\nthe last sweep of this name \(complete, started 20[-0-9: ]+ UTC\) is another one: "


def unpack(folder: Path) -> Path:
    zipfile.ZipFile(STORE).extractall(folder)
    return folder


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("old"))


@pytest.fixture
def store(unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(unpacked)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return unpacked


def said(app: Typer, *arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    return done.output


def numbers(text: str) -> list[str]:
    return re.findall(r"\d[\d.,]*", text)


def printed(store: Path, command: str) -> str:
    return (store / "printed" / f"{command}.txt").read_text("utf-8")


def test_its_report_has_the_same_numbers(store: Path) -> None:
    now, then = said(harness.report.__main__.app, "old"), printed(store, "report")
    answer, answer_then = (" ".join(text[text.index("Arm ") :].split("warning:")[0].split()) for text in (now, then))
    answer = re.sub(r"Next: .* worker\. ", "", answer)  # later versions say what to do next, and order arms by loss
    assert sorted(numbers(answer)) == sorted(numbers(answer_then))
    assert "undecided" in answer
    stored = pd.read_csv(store / "mlruns" / "artifacts" / SWEEP / "artifacts" / "report" / "comparison.csv")
    written = pd.read_csv(store / "reports" / "old" / "comparison.csv")
    assert (stored.pop("seconds") < 0).all()  # by the times at which MLflow got the runs
    assert (written.pop("seconds") > 0).all()
    pd.testing.assert_frame_equal(written[list(stored)], stored, check_exact=True)  # later versions add columns


def test_two_of_its_runs_are_compared(store: Path) -> None:
    assert numbers(said(compare_command, RUN_A, RUN_B)) == numbers(printed(store, "compare"))


def test_a_checkpoint_of_it_continues_a_text(store: Path) -> None:
    options = ["--prompt", "the states", "--max-new-tokens", "20"]
    assert said(harness.generate.app, RUN_A, *options).split() == printed(store, "generate").split()


def test_its_status_is_read_by_its_identity(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = ["old.yaml", "--status"]
    assert re.search(rf"{LAST}the spec \(train.sample.temperature\) changed since", said(harness.sweep.app, *status))
    assert re.search(f"{LAST}the training code changed since", said(harness.sweep.app, *status, *DEFAULT))
    monkeypatch.setattr(Datasets, "identity", lambda *_: IDENTITY)
    now = said(harness.sweep.app, "old.yaml", "--status")
    assert numbers(now) == numbers(printed(store, "status"))
    assert "complete" in now


def test_an_edited_text_or_spec_is_named(store: Path) -> None:
    status = ["old.yaml", *DEFAULT, "--status", "--set"]
    edited = said(harness.sweep.app, *status, "train.beta1=0.8", "--set", "train.grad_clip=null")
    assert re.search(rf"{LAST}the spec \(train.beta1, train.grad_clip\) changed since", edited)
    (store / "other.txt").write_text("Another text. " * 100, "utf-8")
    text = said(harness.sweep.app, *status, "data.path=other.txt")
    assert re.search(rf"{LAST}the spec \(data.path\) changed since", text)
    kept = (store / "text.txt").read_text("utf-8")
    (store / "text.txt").write_text("Another text. " * 100, "utf-8")
    assert re.search(f"{LAST}the text changed since", said(harness.sweep.app, *status[:-1]))
    (store / "text.txt").write_text(kept, "utf-8")


@pytest.mark.slow
def test_the_same_command_says_why_it_starts_a_new_sweep_and_changes_nothing_stored(tmp_path: Path) -> None:
    uri = f"sqlite:///{unpack(tmp_path)}/mlruns/mlflow.db"
    before = load_runs("old", uri, SWEEP)
    command = ["-m", "harness.sweep", "old.yaml", "--workers", "1", *DEFAULT]
    fewer = ["--set", "study.trials=1", "--set", "study.seeds=1"]
    done = warm_start.run([*command, *fewer], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert NEW_CODE in done.stdout
    assert f"this store was made in {MADE_IN}/mlruns and is now in {tmp_path}/mlruns" in done.stdout
    pd.testing.assert_frame_equal(load_runs("old", uri, SWEEP), before)
    assert len(load_runs("old", uri)) == 4
