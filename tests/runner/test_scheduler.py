"""What is trained next: trials before confirm runs, arms in turn, and what failed asked for again, not for ever."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.config.spec import SweepSpec
from harness.console.choose import make_screen
from harness.core.metrics import TRAIN_LOSS, VAL_LOSS, Point
from harness.core.outcomes import Outcome, Phase
from harness.runner.scheduler import MAX_REPLACEMENTS, Scheduler
from harness.runner.tasks import Running, Task
from harness.search.study import ArmStudy, open_storage
from harness.tracking import ConfirmResult, TrialInfo, UnfinishedRun
from screens import console, text
from specs import GOOD, load

BASE, OTHER = "drop_rate=0.1", "drop_rate=0.0"


class Sweep:
    """A sweep of real studies in which training is a number that the test makes up."""

    def __init__(self, folder: Path, spec: str = GOOD, confirmed: tuple[ConfirmResult, ...] = ()) -> None:
        self.spec: SweepSpec = load(folder, spec)
        storage = open_storage(f"sqlite:///{folder}/optuna.db")
        arms = self.spec.arms()
        studies = {arm.name: ArmStudy(self.spec, arm, self.spec.identity(), storage, 1000, 10_000) for arm in arms}
        self.superseded: list[str] = []
        self.console = console()
        self.screen = make_screen(self.console)
        work = {OTHER: 1.0, BASE: 2.0}
        self.scheduler = Scheduler(self.spec, studies, confirmed, self.superseded.append, self.screen, work)
        self.screen.sweep_started(*self.scheduler.remaining(), self.scheduler.tallies())

    def end(self, task: Task, loss: float, outcome: Outcome = Outcome.COMPLETE) -> Task:
        point = Point(10, 1280, 1.0, 1.0, {VAL_LOSS: loss, TRAIN_LOSS: loss})
        self.scheduler.ended(Running(task, "key", [point]), outcome, "made up: it failed")
        return task

    def search(self) -> list[Task]:
        """Let every trial end; of each arm the second is the best."""
        tasks = []
        while (task := self.scheduler.next([])).phase is Phase.EXPLORE:
            tasks.append(self.end(task, 4.0 if task.trial.number == 1 else 5.0))
        return [*tasks, task]


def test_trials_come_first_and_arms_take_turns(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    assert sweep.scheduler.remaining() == (8 + 6, 4 * 3.0 + 3 * 3.0)
    *trials, first = sweep.search()
    assert [task.arm.name for task in trials] == [OTHER, BASE] * 4
    assert {task.seed for task in trials} == {1}
    assert all(task.config.train.learning_rate == task.values["train.learning_rate"] for task in trials)
    confirms = [first, *(sweep.scheduler.next([]) for _ in range(5))]
    assert sweep.scheduler.next([]) is None and sweep.scheduler.failed == []
    assert [(task.seed, task.arm.name) for task in confirms] == [(s, arm) for s in (2, 3, 4) for arm in (OTHER, BASE)]
    best = {task.arm.name: task.values for task in trials if task.trial.number == 1}
    assert all(task.values == best[task.arm.name] and task.trial is None for task in confirms)


def test_an_arm_is_confirmed_once_its_own_search_is_over(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    trials = [sweep.scheduler.next([]) for _ in range(8)]
    running = [Running(task, "key") for task in trials]
    assert sweep.scheduler.next(running) is None
    for task in trials[0::2]:
        sweep.end(task, 5.0)
    assert {sweep.scheduler.next(running[1::2]).arm.name for _ in range(3)} == {OTHER}
    assert sweep.scheduler.next(running[1::2]) is None


def test_failed_trials_are_replaced_a_few_times_and_a_search_without_result_confirms_nothing(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    trials = 0
    while (task := sweep.scheduler.next([])) is not None and task.phase is Phase.EXPLORE:
        trials += task.arm.name == OTHER
        sweep.end(task, 5.0, Outcome.FAILED if task.arm.name == OTHER else Outcome.COMPLETE)
    assert trials == 4 + MAX_REPLACEMENTS
    assert task is not None and task.arm.name == BASE
    assert len(sweep.scheduler.failed) == trials + 1
    assert sweep.scheduler.failed[-1] == f"{OTHER}: no trial finished, so there is nothing to confirm"
    assert all(failure.endswith("made up: it failed") for failure in sweep.scheduler.failed[:-1])
    sweep.end(task, 5.0, Outcome.FAILED)  # a confirm run has its seed, and so no other in its place
    assert len(sweep.scheduler.failed) == trials + 2
    assert [sweep.scheduler.next([]).seed for _ in range(2)] == [3, 4] and sweep.scheduler.next([]) is None


def test_an_interrupted_trial_is_no_failure_and_comes_again(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    task = sweep.end(sweep.scheduler.next([]), 5.0, Outcome.INTERRUPTED)
    assert sweep.scheduler.failed == []
    again = Sweep(tmp_path)
    assert again.scheduler.remaining() == (14, 21.0)
    found = again.scheduler.next([])
    assert (found.trial.number, found.values) == (task.trial.number, task.values)


def test_a_combination_that_makes_no_gpt_is_told_and_replaced(tmp_path: Path) -> None:
    wide = "model.emb_dim: {int_uniform: [16, 9008]}"  # too many to be all tried when the spec is read
    sweep = Sweep(tmp_path, GOOD.replace("train.learning_rate: {log_uniform: [3e-4, 3e-3]}", wide))
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
def test_what_earlier_processes_confirmed_counts_if_it_is_of_the_best_values(tmp_path: Path, same: bool) -> None:
    *trials, _ = Sweep(tmp_path).search()
    spec = Sweep(tmp_path).spec
    best = next(task for task in trials if task.arm.name == OTHER and task.trial.number == 1)
    values = best.values if same else {"train.learning_rate": 1e-3}
    config = spec.arm_config(best.arm, values, 3)
    known = ConfirmResult(OTHER, 3, config.digest(), "run 7", Outcome.COMPLETE, {VAL_LOSS: 4.25})
    sweep = Sweep(tmp_path, confirmed=(known,))
    assert sweep.scheduler.remaining() == (5, 5 * 1.5)
    tally = next(tally for tally in sweep.scheduler.tallies() if tally.name == OTHER)
    assert (tally.trials, tally.explored, tally.best, tally.seeds) == (4, 4, 4.0, 3)
    assert (tally.confirmed, tally.confirmed_loss) == (1, 4.25)
    tasks = []
    while (task := sweep.scheduler.next([])) is not None:
        tasks.append((task.seed, task.arm.name))
    assert tasks == [(s, arm) for s in (2, 3, 4) for arm in (OTHER, BASE) if not (same and (s, arm) == (3, OTHER))]
    assert sweep.superseded == ([] if same else ["run 7"])

    info = TrialInfo("x", OTHER, Phase.CONFIRM, 3, config)
    assert sweep.scheduler.is_superseded(UnfinishedRun("key", info, (), None, "")) is not same
    assert not sweep.scheduler.is_superseded(
        UnfinishedRun("key", TrialInfo("x", OTHER, Phase.EXPLORE, 3, config), (), None, "")
    )
    assert not sweep.scheduler.is_superseded(
        UnfinishedRun("key", TrialInfo("x", "gone", Phase.CONFIRM, 3, config), (), None, "")
    )


def test_what_is_undecided_gets_more_seeds_once_nothing_runs(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, GOOD.replace("seeds: 3", "seeds: {min: 3, max: 6}"))
    *_, task = sweep.search()
    losses = {BASE: [5.0, 5.1, 4.9], OTHER: [5.0, 5.2, 4.85]}
    last: Task = task
    while task is not None:
        last = sweep.end(task, losses[task.arm.name][task.seed - 2])
        task = sweep.scheduler.next([Running(last, "key")])
    more = [sweep.scheduler.next([]) for _ in range(6)]
    assert [(task.seed, task.arm.name) for task in more] == [(s, arm) for s in (5, 6, 7) for arm in (OTHER, BASE)]
    assert f"undecided after 3 seeds: {OTHER}; up to 6 seeds" in text(sweep.console)
