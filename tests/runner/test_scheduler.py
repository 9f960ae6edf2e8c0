"""The scheduler's order of runs: trials before confirm runs, arms in turn, failed trials replaced a few times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config.dimensions import Dimension
from harness.config.spec import SweepSpec
from harness.console.choose import make_screen
from harness.core.metrics import TRAIN_LOSS, VAL_LOSS, Point
from harness.core.outcomes import Outcome, Phase
from harness.runner.scheduler import MAX_REPLACEMENTS, Scheduler
from harness.runner.tasks import Running, Task
from harness.search.storage import open_storage
from harness.search.study import ArmStudy
from harness.tracking import ConfirmResult, TrialInfo, UnfinishedRun
from screens import console, text
from specs import GOOD, load

BASE, OTHER = "drop_rate=0.1", "drop_rate=0.0"


class Sweep:
    """A scheduler with real studies; the tests choose the losses."""

    def __init__(
        self,
        folder: Path,
        spec: str = GOOD,
        confirmed: tuple[ConfirmResult, ...] = (),
        tune: Mapping[str, Dimension] | None = None,
    ) -> None:
        self.spec: SweepSpec = load(folder, spec)
        if tune is not None:
            self.spec = replace(self.spec, tune=tune)
        storage = open_storage(f"sqlite:///{folder}/optuna.db")
        arms = self.spec.arms()
        studies = {arm.name: ArmStudy(self.spec, arm, self.spec.identity(), storage, 1000, 10_000) for arm in arms}
        self.superseded: list[str] = []
        self.console = console()
        self.screen = make_screen(self.console)
        costs = {OTHER: 1.0, BASE: 2.0}
        self.scheduler = Scheduler(self.spec, studies, confirmed, self.superseded.append, self.screen, costs)
        self.screen.sweep_started(*self.scheduler.remaining(), self.scheduler.tallies())

    def next(self, *running: Running) -> Task:
        """The next task; there must be one."""
        task = self.scheduler.next(running)
        assert task is not None
        return task

    def rest(self) -> list[Task]:
        """All tasks that are left, if none of them ends."""
        return [*iter(lambda: self.scheduler.next([]), None)]

    def end(self, task: Task, loss: float, outcome: Outcome = Outcome.COMPLETE) -> Task:
        point = Point(10, 1280, 1.0, 1.0, {VAL_LOSS: loss, TRAIN_LOSS: loss})
        self.scheduler.ended(Running(task, "key", [point]), outcome, "made up: it failed")
        return task

    def search(self) -> list[Task]:
        """All trials, with the second of each arm as the best, and the first confirm run."""
        tasks = []
        while (task := self.next()).phase is Phase.EXPLORE:
            tasks.append(self.end(task, 4.0 if number(task) == 1 else 5.0))
        return [*tasks, task]


def number(task: Task) -> int:
    assert task.trial is not None
    return task.trial.number


def test_trials_come_first_and_arms_take_turns(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    assert sweep.scheduler.remaining() == (8 + 6, 4 * 3.0 + 3 * 3.0)
    *trials, first = sweep.search()
    assert [task.arm.name for task in trials] == [OTHER, BASE] * 4
    assert {task.seed for task in trials} == {1}
    assert all(task.config.train.learning_rate == task.values["train.learning_rate"] for task in trials)
    confirms = [first, *sweep.rest()]
    assert sweep.scheduler.failed == []
    assert [(task.seed, task.arm.name) for task in confirms] == [(s, arm) for s in (2, 3, 4) for arm in (OTHER, BASE)]
    best = {task.arm.name: task.values for task in trials if number(task) == 1}
    assert all(task.values == best[task.arm.name] and task.trial is None for task in confirms)


def test_an_arm_is_confirmed_once_its_own_search_is_over(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    trials = [sweep.next() for _ in range(8)]
    running = [Running(task, "key") for task in trials]
    assert sweep.scheduler.next(running) is None
    for task in trials[0::2]:
        sweep.end(task, 5.0)
    assert {sweep.next(*running[1::2]).arm.name for _ in range(3)} == {OTHER}
    assert sweep.scheduler.next(running[1::2]) is None


def test_failed_trials_are_replaced_a_few_times_and_an_arm_without_a_result_is_not_confirmed(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    trials = 0
    while (task := sweep.next()).phase is Phase.EXPLORE:
        trials += task.arm.name == OTHER
        sweep.end(task, 5.0, Outcome.FAILED if task.arm.name == OTHER else Outcome.COMPLETE)
    assert trials == 4 + MAX_REPLACEMENTS
    assert task.arm.name == BASE
    assert len(sweep.scheduler.failed) == trials + 1
    assert (
        sweep.scheduler.failed[-1]
        == f"{sweep.spec.labels.of[OTHER]}: no trial finished, so there is nothing to confirm"
    )
    assert all(failure.endswith("made up: it failed") for failure in sweep.scheduler.failed[:-1])
    sweep.end(task, 5.0, Outcome.FAILED)  # a failed confirm run is not replaced: another would have the same seed
    assert len(sweep.scheduler.failed) == trials + 2
    assert [task.seed for task in sweep.rest()] == [3, 4]


def test_an_interrupted_trial_is_not_a_failure_and_comes_next(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    task = sweep.end(sweep.next(), 5.0, Outcome.INTERRUPTED)
    assert sweep.scheduler.failed == []
    again = Sweep(tmp_path)
    assert again.scheduler.remaining() == (14, 21.0)
    found = again.next()
    assert (number(found), found.values) == (number(task), task.values)


def test_values_that_make_no_gpt_fail_their_trial_which_is_replaced(tmp_path: Path) -> None:
    wide = {"model.emb_dim": Dimension("int_uniform", (16, 9008))}  # a spec with it is refused, so it is put in here
    sweep = Sweep(tmp_path, tune=wide)
    dims = []
    while (task := sweep.scheduler.next([])) is not None:
        if task.phase is Phase.EXPLORE:
            dims.append(task.config.model.emb_dim)
        sweep.end(task, 5.0)
    refused = sweep.scheduler.failed
    assert dims and not any(dim % 2 for dim in dims)
    assert 1 <= len(refused) <= 4 + 2 * MAX_REPLACEMENTS and len(dims) + len(refused) <= 8 + 2 * MAX_REPLACEMENTS
    assert all(
        re.search(r"emb_dim=\d+: .*found \d*[13579] with n_heads 2; allowed: its multiples$", one) for one in refused
    )


@pytest.mark.parametrize("same", [True, False])
def test_earlier_confirm_runs_count_if_they_have_the_best_values(tmp_path: Path, same: bool) -> None:
    *trials, _ = Sweep(tmp_path).search()
    spec = Sweep(tmp_path).spec
    best = next(task for task in trials if task.arm.name == OTHER and number(task) == 1)
    values = best.values if same else {"train.learning_rate": 1e-3}
    config = spec.arm_config(best.arm, values, 3)
    known = ConfirmResult(OTHER, 3, config.digest(), "run 7", Outcome.COMPLETE, {VAL_LOSS: 4.25})
    sweep = Sweep(tmp_path, confirmed=(known,))
    assert sweep.scheduler.remaining() == (5, 5 * 1.5)
    tally = next(tally for tally in sweep.scheduler.tallies() if tally.name == OTHER)
    assert (tally.trials, tally.explored, tally.best, tally.seeds) == (4, 4, 4.0, 3)
    assert (tally.confirmed, tally.mean_result) == (1, 4.25)
    tasks = [(task.seed, task.arm.name) for task in sweep.rest()]
    assert tasks == [(s, arm) for s in (2, 3, 4) for arm in (OTHER, BASE) if not (same and (s, arm) == (3, OTHER))]
    assert sweep.superseded == ([] if same else ["run 7"])

    def superseded(arm: str, phase: Phase) -> bool:
        run = UnfinishedRun("key", TrialInfo("x", arm, phase, 3, config), (), None, "")
        return sweep.scheduler.is_superseded(run)

    assert superseded(OTHER, Phase.CONFIRM) is not same
    assert not superseded(OTHER, Phase.EXPLORE)
    assert not superseded("an arm of another spec", Phase.CONFIRM)


def test_confirm_runs_that_were_not_planned_do_not_count(tmp_path: Path) -> None:
    *trials, _ = Sweep(tmp_path).search()
    spec = Sweep(tmp_path).spec
    best = next(task for task in trials if task.arm.name == OTHER and number(task) == 1)

    def result(seed: int, loss: float) -> ConfirmResult:
        digest = spec.arm_config(best.arm, best.values, seed).digest() if seed >= 0 else "none"
        return ConfirmResult(OTHER, seed, digest, f"run {seed}", Outcome.COMPLETE, {VAL_LOSS: loss})

    sweep = Sweep(tmp_path, confirmed=(result(3, 4.25), result(3, 1.0), result(50, 1.0), result(-1, 1.0)))
    assert (3, OTHER) not in [(task.seed, task.arm.name) for task in sweep.rest()]
    kept = sweep.scheduler._rounds._results
    assert {key: one[VAL_LOSS] for key, one in kept.items()} == {(OTHER, 3): 4.25}
    assert sweep.superseded == []


def test_undecided_arms_get_more_seeds_once_nothing_runs(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, GOOD.replace("seeds: 3", "seeds: {min: 3, max: 6}"))
    *_, first = sweep.search()
    losses = {BASE: [5.0, 5.1, 4.9], OTHER: [5.0, 5.2, 4.85]}
    task: Task | None = first
    while task is not None:
        last = sweep.end(task, losses[task.arm.name][task.seed - 2])
        task = sweep.scheduler.next([Running(last, "key")])
    more = [sweep.next() for _ in range(6)]
    assert [(task.seed, task.arm.name) for task in more] == [(s, arm) for s in (5, 6, 7) for arm in (OTHER, BASE)]
    assert f"undecided after 3 seeds: {sweep.spec.labels.of[OTHER]}; up to 6 seeds" in text(sweep.console)
