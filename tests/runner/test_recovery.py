"""Recovery brings Optuna, MLflow and the disk into agreement, even if it is killed at any of its writes."""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from crashed_sweep import CrashedSweep, measure
from fuzzing import MORE
from harness.core import metrics
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase
from harness.core.paths import ARTIFACTS_VARIABLE
from harness.runner.recovery import RESTORED, set_aside
from harness.runner.tasks import Task, objective_value
from harness.search.readable import RUN_KEY
from harness.tracking import load_runs, unfinished_runs
from postgres import postgres
from stored_runs import DATA

__all__ = ["postgres"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def crashed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashedSweep]:
    """The stores that a killed process left behind: one case of each.

    Trial 0 is complete everywhere. Trial 1 finished, and neither Optuna nor MLflow knows. Trial 2 was training, and
    MLflow has only its first point. Trial 3 was training, and its folder is gone. Trial 4 had just been asked for. A
    confirm run was training.
    """
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    folder = tmp_path_factory.mktemp("crashed")
    crashed = CrashedSweep(folder, server=server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ARTIFACTS_VARIABLE, str(folder / "artifacts"))
        crash(crashed)
        yield crashed


def crash(crashed: CrashedSweep) -> None:
    """Leave every store in another state."""
    study, _, outbox = crashed.open()
    key, task = crashed.start_trial(study, outbox, 5.0, 4.0, 3.0)
    outbox.end(key, Outcome.COMPLETE, "")
    assert task.trial is not None
    study.tell(task.trial.number, Outcome.COMPLETE, 3.0)
    outbox.send()
    ended, _ = crashed.start_trial(study, outbox, 5.0, 9.0)
    running, task = crashed.start_trial(study, outbox, 5.0)
    bare, _ = crashed.start_trial(study, outbox, 5.0, 4.5)
    outbox.send()
    outbox.end(ended, Outcome.DIVERGED, "NaN")
    measure(outbox, running, task.config, 4.2, 4.1, first=1)
    shutil.rmtree(outbox.folder_of(bare))
    study.ask()
    confirm = outbox.start(Task(crashed.arm, Phase.CONFIRM, task.values, 2, task.config).info(DATA))
    measure(outbox, confirm, task.config, 5.0)


@pytest.fixture
def copied(crashed: CrashedSweep, tmp_path: Path) -> Callable[[], CrashedSweep]:
    """Copies the stores of the crashed sweep."""
    numbers = itertools.count()

    return lambda: crashed.copy(tmp_path / f"copy{next(numbers)}")


def test_the_stores_agree_afterwards(copied: Callable[[], CrashedSweep]) -> None:
    crashed = copied()
    kept = {run.info.number: run.key for run in unfinished_runs(crashed.folder / "work" / "runs")}
    said = crashed.reconcile()
    assert said == (
        "2 interrupted runs to resume; 1 finished run that MLflow had not recorded yet; "
        "1 run without a folder, to train again"
    )
    trials, _, folders = crashed.stores()
    assert [(number, state, value, outcome) for _, number, state, value, _, _, outcome in trials] == [
        (0, "COMPLETE", 3.0, "complete"),
        (1, "COMPLETE", 5.0, "diverged"),  # with the loss at initialisation
        (2, "WAITING", None, None),
        (3, "WAITING", None, None),
        (4, "WAITING", None, None),
    ]
    assert folders == sorted([kept[2], kept[None]])  # runs to resume
    statuses = {}
    for run in crashed.client.search_runs(["1"], "tags.`harness.role` = 'trial'"):
        losses = [point.value for point in crashed.client.get_metric_history(run.info.run_id, metrics.VAL_LOSS)]
        number = run.data.tags.get("harness.trial_number")
        statuses[number] = (run.info.status, run.data.tags["harness.outcome"], losses)
    assert statuses == {
        "0": ("FINISHED", "complete", [5.0, 4.0, 3.0]),
        "1": ("FAILED", "diverged", [5.0, 9.0]),
        "2": ("KILLED", "interrupted", [5.0, 4.2, 4.1]),
        "3": ("KILLED", "interrupted", [5.0, 4.5]),
        None: ("KILLED", "interrupted", [5.0]),
    }
    study, *_ = crashed.open()
    before = {number: params for _, number, _, _, params, *_ in trials}
    for expected in (2, 3, 4):  # the next trials that the study gives out, with their values
        trial, values = study.ask()
        assert trial.number == expected
        assert values == before[expected]


def test_a_second_recovery_changes_nothing(copied: Callable[[], CrashedSweep]) -> None:
    crashed = copied()
    crashed.reconcile()
    once = crashed.stores()
    assert crashed.reconcile() == "2 interrupted runs to resume"
    assert crashed.stores() == once


class Killed(BaseException):
    """Like SIGKILL, no error handler catches it."""


@pytest.mark.slow
def test_recovery_killed_at_any_write_ends_the_same(
    copied: Callable[[], CrashedSweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = copied()
    whole.reconcile()
    expected = whole.stores()
    writes = [
        *((MlflowClient, name) for name in ("create_run", "log_batch", "log_inputs", "log_artifact", "delete_tag")),
        *((MlflowClient, name) for name in ("update_run", "set_terminated")),
        *((optuna.storages.RDBStorage, name) for name in ("set_trial_state_values", "set_trial_user_attr")),
        (os, "write"),
        (os, "truncate"),
        (shutil, "rmtree"),
    ]
    every = max(1, (15 if whole.server else 5) // MORE)  # one takes a second; with FUZZ at each write
    for kill_at in itertools.count(1, every):
        crashed = copied()
        calls = itertools.count(1)
        with monkeypatch.context() as patch:
            for owner, name in writes:
                original = getattr(owner, name)

                def write(
                    *args: Any, _original: Any = original, _calls: Any = calls, _at: int = kill_at, **kw: Any
                ) -> Any:
                    if next(_calls) == _at:
                        raise Killed
                    return _original(*args, **kw)

                patch.setattr(owner, name, write)
            try:
                crashed.reconcile()
            except Killed:
                pass
            else:
                break
        crashed.reconcile()
        assert crashed.stores() == expected, f"killed at write {kill_at}"
    assert kill_at > 25


def test_lost_studies_are_restored_from_mlflow_and_the_disk(copied: Callable[[], CrashedSweep]) -> None:
    crashed = copied()
    crashed.reconcile()
    before, _, _ = crashed.stores()
    crashed = crashed.without("optuna.db")
    assert "4 trials restored in Optuna from MLflow" in crashed.reconcile()
    after, _, _ = crashed.stores()
    # Trial 4 had no run, so it is lost; the sampler draws it again with the same values.
    assert [trial[:5] + trial[6:] for trial in after] == [trial[:5] + trial[6:] for trial in before[:4]]
    assert [trial[5] for trial in after] == [{640: 4.0, 1280: 3.0}, {640: 9.0}, {640: 4.2, 1280: 4.1}, {640: 4.5}]
    study, *_ = crashed.open()
    for number in (2, 3, 4):
        trial, values = study.ask()
        assert (trial.number, values) == (number, before[number][4])


def test_lost_runs_are_restored_from_optuna(copied: Callable[[], CrashedSweep]) -> None:
    crashed = copied()
    crashed.reconcile()
    crashed = crashed.without("mlflow.db")
    assert "2 runs restored in MLflow from Optuna" in crashed.reconcile()
    runs = crashed.client.search_runs(["1"], "tags.`harness.role` = 'trial'")
    found = {run.data.tags.get("harness.trial_number"): run for run in runs}
    assert found.keys() == {"0", "1", "2", None}  # Optuna knows only the values of trials 3 and 4
    done = found["0"]
    history = crashed.client.get_metric_history(done.info.run_id, metrics.VAL_LOSS)
    assert [(point.step, point.value) for point in history] == [(10, 4.0), (20, 3.0)]
    assert (done.info.status, done.data.tags["harness.note"]) == ("FINISHED", RESTORED)
    assert [float(done.data.params[path]) for path in crashed.spec.tune] == list(crashed.stores()[0][0][4].values())
    trial = crashed.open()[0].known[0]
    assert trial.datetime_start is not None and trial.datetime_complete is not None
    times = [round(when.timestamp() * 1000) for when in (trial.datetime_start, trial.datetime_complete)]
    assert [done.info.start_time, done.info.end_time] == times == [times[0], history[-1].timestamp]
    assert metrics.SECONDS not in done.data.metrics  # nobody knows
    once = crashed.stores()
    crashed.reconcile()
    assert crashed.stores() == once


def test_a_sweep_that_is_set_aside_is_kept_and_another_starts(copied: Callable[[], CrashedSweep]) -> None:
    crashed = copied()
    crashed.reconcile()
    identity, folder = crashed.spec.identity(), crashed.folder / "work" / "runs"
    study, tracker, outbox = crashed.open()
    tracker.close_sweep(outbox.parent, Outcome.INTERRUPTED)
    before, _, folders = crashed.stores()
    said = set_aside(crashed.spec, identity, study.storage, tracker, folder)
    assert study.name in said
    assert outbox.parent in said
    [aside] = folder.parent.iterdir()
    assert str(aside) in said
    assert sorted(path.name for path in aside.iterdir()) == folders
    assert crashed.stores()[0] == before
    other, tracker, fresh = crashed.open()
    assert fresh.parent != outbox.parent
    assert other.name == f"{study.name}@{identity[:8]}"
    assert other.missing() == 6
    assert crashed.reconcile() == ""
    assert set_aside(crashed.spec, "f" * 64, study.storage, tracker, folder) == ""  # no sweep has this identity


def test_sampled_curves_keep_both_losses(tmp_path: Path) -> None:
    """The loss of the sample, used by the pruner, and the loss of the whole split survive the loss of either store."""
    crashed = CrashedSweep(tmp_path / "crashed", "train.eval_tokens=64")
    study, _, outbox = crashed.open()
    for whole, outcome in (([5.0, None, 3.0], Outcome.COMPLETE), ([5.0, None], Outcome.PRUNED)):
        trial, values = study.ask()
        config = crashed.spec.arm_config(crashed.arm, values, 1)
        key = outbox.start(Task(crashed.arm, Phase.EXPLORE, values, 1, config, study.name, trial).info(DATA))
        trial.set_user_attr(RUN_KEY, key)
        points = []
        for number, (loss, sampled) in enumerate(zip(whole, (5.1, 4.1, 3.1), strict=False)):
            measured = {metrics.VAL_SAMPLE_LOSS: sampled} | ({} if loss is None else {metrics.VAL_LOSS: loss})
            points.append(Point(10 * number, 640 * number, number / 4, float(number), measured))
            outbox.log_point(key, points[-1])
            if number:
                study.report(trial, 640 * number, sampled)
        outbox.end(key, outcome, "")
        study.tell(trial.number, outcome, objective_value(points, outcome, metrics.VAL_LOSS))
    outbox.send()
    trials = crashed.stores()[0]
    assert [(state, value, seen) for _, _, state, value, _, seen, _ in trials] == [
        ("COMPLETE", 3.0, {640: 4.1, 1280: 3.1}),
        ("PRUNED", 4.1, {640: 4.1}),
    ]

    lost = crashed.without("optuna.db")
    lost.reconcile()
    assert lost.stores()[0] == trials

    lost = crashed.without("mlflow.db")
    lost.reconcile()
    restored, names = {}, (metrics.VAL_LOSS, metrics.VAL_SAMPLE_LOSS)
    for run in lost.client.search_runs(["1"], "tags.`harness.role` = 'trial'"):
        histories = [lost.client.get_metric_history(run.info.run_id, name) for name in names]
        restored[run.data.tags["harness.outcome"]] = [{one.step: one.value for one in found} for found in histories]
    assert restored == {"complete": [{20: 3.0}, {10: 4.1, 20: 3.1}], "pruned": [{}, {10: 4.1}]}

    frame = load_runs("crashed", f"sqlite:///{crashed.folder}/mlflow.db").set_index("outcome")
    assert frame.loc["complete", [*names, "best_val_loss"]].tolist() == [3.0, 3.1, 3.1]
    assert frame["initial_val_loss"].tolist() == [5.0, 5.0]
    assert math.isnan(frame.loc["pruned", metrics.VAL_LOSS])  # only its first evaluation was of the whole split
    assert frame.loc["pruned", metrics.VAL_SAMPLE_LOSS] == 4.1
