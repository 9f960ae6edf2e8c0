"""Runs of a real sweep are trained again, equal to what MLflow holds or not."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from harness.core import metrics
from harness.core.outcomes import Outcome
from harness.data import open_dataset
from harness.runner.replay import ReplayError, check, exact, replay, saved_state
from harness.tracking.reading.stored_run import StoredRun, load_stored_run
from harness.training.trainer import train
from helpers import small_config
from in_process import call
from sandbox import SPEC, Sandbox

SWEEP = SPEC.replace("model.drop_rate: [0.0, 0.2]", "model.context_length: [16, 32]").replace(
    "baseline: {model.drop_rate: 0.0}\n", ""
)
SWEEP = SWEEP.replace("trials: 2, seeds: 2", "trials: 1, seeds: 1").replace(
    "n_layers: 1", "n_layers: 1, drop_rate: 0.1"
)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    sandbox = Sandbox(tmp_path_factory.mktemp("sweep"), SWEEP)
    assert call(sandbox, "tiny.yaml", "--workers", "1").returncode == 0
    return sandbox


def run_id(sandbox: Sandbox, phase: str, context: str = "32") -> str:
    [found] = [
        run.info.run_id
        for run in sandbox.runs()[1]
        if run.data.tags["harness.phase"] == phase and run.data.params["model.context_length"] == context
    ]
    return found


@pytest.mark.slow
def test_a_confirm_run_is_bit_equal_with_its_texts_and_weights(sweep: Sandbox) -> None:
    done = call(sweep, run_id(sweep, "confirm"), module="harness.replay")
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "Bit-equal: " in said and "8 generated texts and the final weights." in said
    stored = load_stored_run(run_id(sweep, "confirm"), sweep.uri)
    values = sum(len(exact(point)) for point in stored.points.values())
    assert f"{values} values at {len(stored.points)} points, steps 0 to 24" in said
    last = stored.points[24]
    assert {metrics.VAL_COMMON_LOSS, metrics.TEST_LOSS} <= last.keys() and stored.common_context == 16
    assert "Different from when it was trained" not in done.stdout


@pytest.mark.slow
def test_a_value_that_is_not_equal_is_named_with_its_step(sweep: Sandbox, tmp_path: Path) -> None:
    copy = Sandbox(tmp_path / "copy", SWEEP, store=False)
    shutil.copytree(sweep.folder / "mlruns", copy.folder / "mlruns")
    run = run_id(copy, "explore", "16")
    with sqlite3.connect(copy.folder / "mlruns" / "mlflow.db") as database:
        changed = "update metrics set value = value + 1e-9 where run_uuid = ? and key = 'optim/grad_norm' and step = ?"
        assert database.execute(changed, (run, 10)).rowcount == 1
    done = call(copy, run, "--steps", "8:12", "--threads", "1", module="harness.replay")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Not bit-equal: equal up to step 9, different from step 10 on (1 difference among" in done.stdout
    assert "steps 8 to 12" in done.stdout
    assert [line.split()[:2] for line in done.stdout.splitlines() if "grad_norm" in line] == [["10", "optim/grad_norm"]]
    assert call(copy, run, "--steps", "8:9", module="harness.replay").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["nothing-of-that-name"], "found no run 'nothing-of-that-name'"),
        (["RUN", "--steps", "9:8"], "--steps: found '9:8'; allowed: A:B, A: or :B"),
        (["RUN", "--steps", "100:"], "--steps: found 100 as the first step; allowed: at most 24"),
        (["PARENT"], "which no sweep trained; allowed: a run of a sweep"),
    ],
)
def test_a_wrong_argument_is_one_sentence(given: list[str], words: str, sweep: Sandbox) -> None:
    ids = {"RUN": run_id(sweep, "explore"), "PARENT": sweep.runs()[0][0].info.run_id}
    done = call(sweep, *(ids.get(word, word) for word in given), module="harness.replay")
    assert done.returncode == 2
    assert words in done.stderr and len(done.stderr.splitlines()) == 1


def stored_run(outcome: Outcome = Outcome.FAILED, **train_fields: Any) -> StoredRun:
    """A run whose points are those of a training in this process."""
    config = small_config(**train_fields)
    found = {}
    for point in train(config):
        found[point.step] = {**point.metrics, metrics.TOKENS: float(point.tokens)}
    empty: dict[str, str] = dict.fromkeys(("name", "experiment", "arm", "phase", "device", "commit", "host"), "x")
    return StoredRun(
        **empty,
        run_id="0" * 32,
        outcome=outcome,
        config=config,
        key="key",
        identity="1" * 64,
        fingerprint="",
        common_context=None,
        ranks=1,
        threads=1,
        versions={},
        dirty=False,
        seconds=1.0,
        points=found,
    )


def test_an_interrupted_run_goes_on_from_its_saved_state(tmp_path: Path) -> None:
    run = stored_run(Outcome.INTERRUPTED)
    state = tmp_path / "x.work" / ("1" * 12) / "key" / "state"
    points = train(run.config, state=state)
    middle = next(point.step for point in points if point.step >= max(run.points) // 2)
    points.close()  # saves a state
    before = {path.name: path.read_bytes() for path in state.glob("state-*")}
    assert saved_state(run, tmp_path) == state
    assert saved_state(dataclasses.replace(run, outcome=Outcome.COMPLETE), tmp_path) is None
    found = replay(run, open_dataset(run.config.data), first=1, state=state)
    assert (found.start, found.differences) == (middle, [])
    assert found.steps == [step for step in sorted(run.points) if step >= middle]
    assert {path.name: path.read_bytes() for path in state.glob("state-*")} == before


def test_a_point_that_is_not_made_again_is_a_difference() -> None:
    run = stored_run(budget={"steps": 200})  # a point at every second step
    other = {3: {metrics.TRAIN_LOSS: 1.0}, 900: {metrics.TRAIN_LOSS: 1.0}}
    found = replay(dataclasses.replace(run, points={**run.points, **other}), open_dataset(run.config.data))
    assert [(one.step, one.name, one.now) for one in found.differences] == [
        (3, "point", "none"),
        (900, "point", "none"),
    ]


def test_a_budget_in_seconds_is_refused() -> None:
    run = stored_run()
    timed = small_config(budget={"seconds": 5.0})
    with pytest.raises(ReplayError, match=r"^train.budget: found seconds; allowed: "):
        check(dataclasses.replace(run, config=timed))
    with pytest.raises(ReplayError, match="found no points of the run"):
        check(dataclasses.replace(run, points={}))
