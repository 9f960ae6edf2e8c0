"""Decides what a sweep trains next: missing trials of each arm, then rounds of confirm runs of the arms' best values.

The scheduler asks the studies for trials and tells them the results; intermediate losses are reported by
`harness.runner.controller`. Runs of earlier processes count.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from harness.config.fields import arm_name
from harness.config.messages import first_mistake
from harness.config.spec import Arm, SweepSpec
from harness.console.screen import Screen
from harness.console.state import ArmTally
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase, Retry
from harness.runner.adaptive_seeds import AdaptiveSeeds
from harness.runner.tasks import Running, Task, objective_value
from harness.search.study import ArmStudy
from harness.tracking import ConfirmResult, UnfinishedRun

MAX_REPLACEMENTS: Final = 2  # of failed trials, for each arm and command


class Scheduler:
    """The queue of runs to train; it grows when trials fail or comparisons are undecided.

    Args:
        spec: the sweep.
        studies: arm name → its study.
        confirmed: confirm runs that earlier processes finished.
        supersede: called with the MLflow run id of each confirm run whose values are no longer its arm's best.
        screen: shows what is added.
        run_costs: arm name → a number proportional to the time of one run.
        method: of the sweep's analysis plan; None: the newest.

    Attributes:
        failed: runs that failed, each with its reason.
    """

    def __init__(
        self,
        spec: SweepSpec,
        studies: Mapping[str, ArmStudy],
        confirmed: Sequence[ConfirmResult],
        supersede: Callable[[str], None],
        screen: Screen,
        run_costs: Mapping[str, float],
        method: str | None = None,
    ) -> None:
        self.spec, self.studies, self.supersede, self.screen = spec, studies, supersede, screen
        self.run_costs = run_costs
        self.arms = spec.arms()
        self.failed: list[str] = []
        self._trials_left = {arm.name: studies[arm.name].missing() for arm in self.arms}
        self._replacements_left = {arm.name: MAX_REPLACEMENTS for arm in self.arms}
        self._confirm_queue: list[Task] = []
        self._best: dict[str, Mapping[str, Any] | None] = {}  # by arm whose search is over; see `_best_values`
        self._rounds = AdaptiveSeeds(spec, method)
        self._confirmed: dict[str, list[ConfirmResult]] = {arm.name: [] for arm in self.arms}
        for run in confirmed:
            self._confirmed.setdefault(run.arm, []).append(run)

    def remaining(self) -> tuple[int, float]:
        """Number and total cost of the runs to train, as far as known before searches and rounds are over."""
        trials, confirms = sum(self._trials_left.values()), self._confirms_missing()
        cost = sum(self.run_costs[arm] * count for arm, count in self._trials_left.items())
        mean_cost = sum(self.run_costs[arm.name] for arm in self.arms) / len(self.arms)
        return trials + confirms, cost + mean_cost * confirms

    def tallies(self) -> list[ArmTally]:
        """What earlier processes did, arm by arm."""
        return [self._tally(arm) for arm in self.arms]

    def next(self, running: Collection[Running]) -> Task | None:
        """The next run to train, or None.

        An explore trial of the arm that is furthest behind, else a confirm run of an arm whose search is over.

        Args:
            running: runs that train now. While there are any, None may be followed by a task once one has ended.
        """
        while any(self._trials_left.values()):
            if task := self._next_trial():
                return task
        self._queue_confirms_of_finished_searches(running)
        while not self._confirm_queue and not running and (arms := self._rounds.next_round()):
            self._queue_confirms(arms)
            self._announce_round(arms)
        return self._confirm_queue.pop(0) if self._confirm_queue else None

    def ended(self, running: Running, outcome: Outcome, reason: str) -> None:
        """Handle the end of a run: tell its study or record its result, and replace it if it failed."""
        task = running.task
        if task.trial is not None:
            value = objective_value(running.points, outcome, self.spec.objective.metric)
            self.studies[task.arm.name].tell(task.trial.number, outcome, value, reason)
        elif outcome.is_result:
            measured = running.evaluated[-1].metrics if running.evaluated else {}
            initial = objective_value(running.points, Outcome.DIVERGED, metrics.VAL_LOSS)
            self._rounds.record(task.arm.name, task.seed, task.config, outcome, measured, running.key, initial)
        if outcome.is_failure:
            failure = f"{running.name}: {reason.splitlines()[0]}"
            if task.trial is not None and outcome.retry is Retry.NEW_TRIAL:
                self._replace(task.arm, failure)
            else:
                self.failed.append(failure)

    def is_superseded(self, run: UnfinishedRun) -> bool:
        """Whether an interrupted confirm run has values that are no longer its arm's best."""
        info = run.info
        values = self._best.get(info.arm)
        if info.phase is not Phase.CONFIRM or values is None:
            return False
        arm = next(arm for arm in self.arms if arm.name == info.arm)
        return self.spec.arm_config(arm, values, info.seed).digest() != info.config.digest()

    # search --------------------------------------------------------------------------------------------------

    def _next_trial(self) -> Task | None:
        """Ask the study of the arm that is furthest behind; None if its values make no valid configuration."""
        arm = max(self.arms, key=lambda arm: self._trials_left[arm.name])
        study = self.studies[arm.name]
        self._trials_left[arm.name] -= 1
        trial, values = study.ask()
        seed = self.spec.base.train.seed
        try:
            config = self.spec.arm_config(arm, values, seed)
        except ValueError as error:  # each value is in its range, but together they make no GPT
            message = first_mistake(error)
            self._replace(arm, f"{self._label(arm)} with {arm_name(values)}: {message}")
            study.tell(trial.number, Outcome.FAILED, None, message)
            return None
        return Task(arm, Phase.EXPLORE, values, seed, config, study.name, trial)

    def _replace(self, arm: Arm, failure: str) -> None:
        """Plan another trial in place of a failed one, so that arms are searched equally.

        Only a few times for each arm: an arm in which everything fails must end too.
        """
        self.failed.append(failure)
        if self._replacements_left[arm.name]:
            self._replacements_left[arm.name] -= 1
            self._trials_left[arm.name] += 1
            self.screen.runs_added(1, self.run_costs[arm.name])

    # confirm runs --------------------------------------------------------------------------------------------

    def _queue_confirms_of_finished_searches(self, running: Collection[Running]) -> None:
        searching = {run.task.arm.name for run in running if run.task.trial is not None}
        arms = [arm for arm in self.arms if arm.name not in searching and arm.name not in self._best]
        for arm in arms:
            self._best[arm.name] = self._best_values(arm)
        if arms:
            self._queue_confirms(arms)

    def _queue_confirms(self, arms: Sequence[Arm]) -> None:
        """Queue confirm runs of the arms, so that all arms get the first seed before any gets the second."""
        self._confirm_queue += [task for arm in arms for task in self._confirm_tasks(arm)]
        self._confirm_queue.sort(key=lambda task: task.seed)

    def _confirm_tasks(self, arm: Arm) -> list[Task]:
        """The arm's best values on every seed of this round that has no result yet."""
        values = self._best[arm.name]
        if values is None:
            return []
        return [
            Task(arm, Phase.CONFIRM, values, seed, self.spec.arm_config(arm, values, seed))
            for seed in self._rounds.seeds
            if not self._rounds.has(arm.name, seed)
        ]

    def _best_values(self, arm: Arm) -> Mapping[str, Any] | None:
        """The best values of an arm's finished search; None if no trial finished.

        Earlier confirm runs of these values are counted, those of others (the best of fewer trials) are superseded. Of
        several with one seed, only the first was planned.
        """
        values: Mapping[str, Any] = {}
        if self.spec.tune:
            best = self.studies[arm.name].best()
            if best is None:
                self.failed.append(f"{self._label(arm)}: no trial finished, so there is nothing to confirm")
                self.screen.message(self.failed[-1])
                return None
            values = best.values
        for run in self._confirmed[arm.name]:
            try:
                config = self.spec.arm_config(arm, values, run.seed)
            except ValueError:  # somebody added a run whose seed is none
                continue
            if run.digest != config.digest():
                self.supersede(run.run_id)
            elif run.seed in self.spec.seeds and not self._rounds.has(arm.name, run.seed):  # else it is not planned
                found = (config, run.outcome, run.validation, run.run_id, run.initial_loss)
                self._rounds.record(arm.name, run.seed, *found)
        return values

    def _announce_round(self, arms: Sequence[Arm]) -> None:
        """Say which arms get more seeds, unless earlier processes trained them all."""
        if self._confirm_queue:
            cost = sum(self.run_costs[task.arm.name] for task in self._confirm_queue)
            self.screen.runs_added(len(self._confirm_queue), cost, {arm.name: self._rounds.after for arm in arms})
            baseline = self.spec.baseline_arm
            names = ", ".join(self._label(arm) for arm in arms if arm != baseline)
            self.screen.message(
                f"undecided after {self._rounds.before} seeds: {names}; up to {self._rounds.after} seeds"
            )

    def _label(self, arm: Arm) -> str:
        return self.spec.labels.of[arm.name]

    # progress ------------------------------------------------------------------------------------------------

    def _confirms_missing(self) -> int:
        """Confirm runs of this round to train, if the search changes no arm's best values."""
        seeds = set(self._rounds.seeds)
        done = {(run.arm, run.seed) for runs in self._confirmed.values() for run in runs if run.seed in seeds}
        return len(self.arms) * len(seeds) - len(done)

    def _tally(self, arm: Arm) -> ArmTally:
        best = self.studies[arm.name].best()
        explored = self.spec.trials - self._trials_left[arm.name]
        tally = ArmTally(arm.name, self.spec.trials, self._rounds.after, explored)
        tally.label, tally.code = self._label(arm), self.spec.labels.codes[arm.name]
        tally.best = best.value if best else None
        for run in self._confirmed[arm.name]:
            tally.add(Phase.CONFIRM, run.outcome, run.validation.get(self.spec.objective.metric))
        return tally
