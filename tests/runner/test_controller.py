"""The controller's event loop, with a scripted pool and a fake tracker."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, cast

import optuna
import pytest

from harness.console.choose import make_screen
from harness.core.outcomes import Outcome
from harness.runner import controller as module
from harness.runner.controller import SweepController
from harness.search.readable import RUN_ID
from harness.search.storage import open_storage
from harness.search.study import ArmStudy
from harness.tracking import Outbox, Tracker, TrialInfo
from harness.workers.messages import Event, Finished
from screens import console
from scripted_pool import ScriptedPool
from specs import GOOD, load
from stored_runs import DATA


class FakeTracker:
    """Creates runs only once `answers` is set; accepts everything else at once."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked = threading.Event()

    def confirm_results(self, _: str) -> list[Any]:
        return []

    def planned_method(self, _: str) -> None:
        return None

    def interrupted_runs(self, _: str) -> dict[Any, Any]:
        return {}

    def start_run(self, _parent: str, info: TrialInfo, key: str, _reopen: bool, _at: int | None) -> str:
        self.asked.set()
        assert self.answers.wait(60)
        return f"id of {key}"

    def __getattr__(self, name: str) -> Any:
        return lambda *_arguments, **_named: None


def controller(
    folder: Path, pool: ScriptedPool, tracker: FakeTracker, runs: str = "trials: 2, seeds: 2"
) -> tuple[SweepController, Outbox]:
    spec = load(folder, GOOD.replace("trials: 4, seeds: 3", f"{runs}, pruner: none"))
    storage = open_storage(f"sqlite:///{folder}/optuna.db")
    studies = {arm.name: ArmStudy(spec, arm, spec.identity(), storage, 1000, 400_000) for arm in spec.arms()}
    outbox = Outbox(cast(Tracker, tracker), "parent", folder / "runs")
    costs = {arm.name: 1.0 for arm in spec.arms()}
    data = {spec.base.data: DATA}
    made = SweepController(spec, studies, cast(Tracker, tracker), outbox, pool, make_screen(console()), costs, data)
    return made, outbox


class BusyTracker(FakeTracker):
    """Stores runs more slowly than they train; `most` is the largest number of submitted runs not stored."""

    def __init__(self, pool: ScriptedPool) -> None:
        super().__init__()
        self.answers.set()
        self.pool, self.stored, self.most = pool, 0, 0

    def end_run(self, *_: object) -> None:
        time.sleep(0.03)
        self.most = max(self.most, sum(what == "submit" for what, _ in self.pool.log) - self.stored)
        self.stored += 1


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{folder}/optuna.db"
    return [
        trial
        for study in optuna.get_all_study_summaries(storage)
        for trial in optuna.load_study(storage=storage, study_name=study.study_name).trials
    ]


def test_every_trial_that_ended_has_its_mlflow_run_id(tmp_path: Path) -> None:
    tracker, pool = FakeTracker(), ScriptedPool(2)
    tracker.answers.set()
    sweep, outbox = controller(tmp_path, pool, tracker)
    with outbox:
        result = sweep.run()
    assert result.outcome is Outcome.COMPLETE
    found = trials(tmp_path)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 4
    assert [trial.user_attrs[RUN_ID] for trial in found] == [f"id of {one.user_attrs['run_key']}" for one in found]


def test_the_states_of_runs_that_have_ended_are_removed_everywhere(tmp_path: Path) -> None:
    tracker, pool = FakeTracker(), ScriptedPool(2)
    tracker.answers.set()
    sweep, outbox = controller(tmp_path, pool, tracker)
    with outbox:
        sweep.run()
    keys = {f"runs/{trial.user_attrs['run_key']}" for trial in trials(tmp_path)}
    assert keys < set(pool.removed) and len(pool.removed) == 8 + 1
    assert pool.removed[-1] == "runs"  # the whole sweep


def test_the_end_of_a_trial_waits_for_its_run_id_while_the_loop_handles_other_runs(tmp_path: Path) -> None:
    """MLflow creates no run at first: another trial's events are handled, but no study is asked for more trials."""
    tracker, pool = FakeTracker(), ScriptedPool(2, points={2: 3})
    sweep, outbox = controller(tmp_path, pool, tracker)
    seen: list[tuple[str, int]] = []

    def answer_later() -> None:
        until = time.monotonic() + 60
        while ("finished", 2) not in pool.log and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)
        seen.extend(pool.log)
        tracker.answers.set()

    helper = threading.Thread(target=answer_later)
    with outbox:
        helper.start()
        result = sweep.run()
        helper.join()
    assert result.outcome is Outcome.COMPLETE
    assert seen[:2] == [("submit", 1), ("submit", 2)]
    assert {("finished", 1), ("progress", 2), ("finished", 2)} <= {*seen}
    assert ("submit", 3) not in seen
    assert all(RUN_ID in trial.user_attrs for trial in trials(tmp_path))


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_events_are_handled_between_trials_that_take_long_to_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Six workers are free at once, and the first has points while the others wait for trials."""
    assert module.BUSY_SECONDS < 10  # the longest that a point waits is not much longer than this
    monkeypatch.setattr(module, "BUSY_SECONDS", seconds)
    tracker, pool = FakeTracker(), ScriptedPool(6, points={1: 3})
    tracker.answers.set()
    sweep, outbox = controller(tmp_path, pool, tracker, "trials: 3, seeds: 0")
    with outbox:
        assert sweep.run().outcome is Outcome.COMPLETE
    submits = [place for place, (what, _) in enumerate(pool.log) if what == "submit"]
    first_point = pool.log.index(("progress", 1))
    if seconds:
        assert submits == list(range(6)) and first_point > 5
    else:
        assert pool.log[:3] == [("submit", 1), ("started", 1), ("submit", 2)] and first_point < submits[2]


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_events_are_handled_between_ends_that_take_long_to_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Three runs end at once while a fourth has points."""
    pool = ScriptedPool(4, points={4: 8})
    sweep, outbox = controller(tmp_path, pool, FakeTracker(), "trials: 2, seeds: 0")
    outbox._sender.error = "the server is down"  # no end waits for a run id
    events, tell = pool.events, ArmStudy.tell

    def slow_from_the_first_end(timeout: float) -> list[Event]:
        found = events(timeout)
        if any(isinstance(event, Finished) for event in found):
            monkeypatch.setattr(module, "BUSY_SECONDS", seconds)
        return found

    def told(study: ArmStudy, *arguments: Any) -> None:
        pool.log.append(("told", 0))
        tell(study, *arguments)

    monkeypatch.setattr(module, "BUSY_SECONDS", 60.0)  # all start at once
    monkeypatch.setattr(pool, "events", slow_from_the_first_end)
    monkeypatch.setattr(ArmStudy, "tell", told)
    assert sweep.run().outcome is Outcome.COMPLETE
    first = pool.log.index(("told", 0))
    assert pool.log[first - 4 : first] == [*(("finished", job) for job in (1, 2, 3)), ("progress", 4)]
    tells, point = [("told", 0)] * 3, ("progress", 4)
    assert pool.log[first : first + 5] == (
        [*tells, point, point] if seconds else [tells[0], point, tells[0], point, tells[0]]
    )


@pytest.mark.slow
@pytest.mark.parametrize("runs", ["trials: 12, seeds: 0", "trials: 1, seeds: 12"])
def test_no_run_starts_while_mlflow_stores_more_slowly_than_runs_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: str
) -> None:
    monkeypatch.setattr("harness.tracking.outbox.sender._MAX_BACKLOG", 3)
    pool = ScriptedPool(2)
    tracker = BusyTracker(pool)
    sweep, outbox = controller(tmp_path, pool, tracker, runs)
    with outbox:
        assert sweep.run().outcome is Outcome.COMPLETE
        assert outbox.drain(30)
    assert tracker.stored == 24 + 2 * ("seeds: 12" in runs)
    assert tracker.most <= 3 + 1 + 2  # one more than allowed, and two that train
    assert tracker.most > 3 or "seeds: 0" in runs  # the end of a trial waits for its run id, which is enough here


@pytest.mark.parametrize("why", ["time", "error"])
def test_the_end_of_a_trial_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    tracker, pool = FakeTracker(), ScriptedPool(1)
    sweep, outbox = controller(tmp_path, pool, tracker)
    if why == "time":
        monkeypatch.setattr(module, "RUN_ID_SECONDS", 0.0)
    else:
        outbox._sender.error = "the server is down"
    result = sweep.run()  # the outbox's thread does not run, so no run is ever created
    assert result.outcome is Outcome.COMPLETE
    found = trials(tmp_path)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 4
    assert not any(RUN_ID in trial.user_attrs for trial in found)


def test_the_end_of_a_trial_that_still_waits_is_recorded_when_the_loop_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ScriptedPool(1)
    sweep, _ = controller(tmp_path, pool, FakeTracker())
    events = pool.events

    def interrupted(timeout: float) -> list[Event]:
        if sweep._ends:
            raise KeyboardInterrupt
        return events(timeout)

    monkeypatch.setattr(pool, "events", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep.run()
    assert [trial.state.name for trial in trials(tmp_path)] == ["COMPLETE"]
