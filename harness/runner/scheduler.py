"""What a sweep trains next: the trials that its searches lack, then confirm runs of what they found, round by round.

It is the one that asks Optuna and tells it, apart from the losses on the way, and that knows which runs did not do
their work. What earlier processes of the sweep have done counts.
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
from harness.core.outcomes import Again, Outcome, Phase
from harness.runner.adaptive_seeds import AdaptiveSeeds
from harness.runner.tasks import Running, Task, told_loss
from harness.search.study import ArmStudy
from harness.tracking import ConfirmResult, UnfinishedRun

MAX_REPLACEMENTS: Final = 2  # trials per arm and command that are asked for in place of failed ones


class Scheduler:
    """What is still to be trained, as far as it is known; it grows by what is found out.

    Args:
        spec: what is asked.
        studies: arm name → its study.
        confirmed: the confirm runs that earlier processes have ended.
        supersede: told the MLflow run of each of them whose values are no longer the best of its arm.
        screen: what the person sees.
        work: arm name → a number proportional to the time of one run.

    Attributes:
        failed: runs that did not do their work, each with its reason.
    """

    def __init__(
        self,
        spec: SweepSpec,
        studies: Mapping[str, ArmStudy],
        confirmed: Sequence[ConfirmResult],
        supersede: Callable[[str], None],
        screen: Screen,
        work: Mapping[str, float],
    ) -> None:
        self.spec, self.studies, self.supersede, self.screen, self.work = spec, studies, supersede, screen, work
        self.arms = spec.arms()
        self.failed: list[str] = []
        self._to_ask = {arm.name: studies[arm.name].missing() for arm in self.arms}
        self._replacements = {arm.name: MAX_REPLACEMENTS for arm in self.arms}
        self._to_confirm: list[Task] = []
        self._best: dict[str, Mapping[str, Any] | None] = {}  # by arm whose search is over: what is confirmed
        self._rounds = AdaptiveSeeds(spec)
        self._confirmed = confirmed

    def remaining(self) -> tuple[int, float]:
        """Runs to be trained now, and their work, as far as they can be known before searches and rounds are over."""
        trials, confirms = sum(self._to_ask.values()), self._confirms_missing()
        work = sum(self.work[arm] * count for arm, count in self._to_ask.items())
        return trials + confirms, work + sum(self.work[arm.name] for arm in self.arms) / len(self.arms) * confirms

    def tallies(self) -> list[ArmTally]:
        """What earlier processes have done, arm by arm."""
        return [*map(self._tally, self.arms)]

    def next(self, running: Collection[Running]) -> Task | None:
        """An explore trial of the arm that is furthest behind, else a confirm run of an arm whose search is over.

        Args:
            running: what is being trained; None may come because of it, and another answer when one of them has ended.
        """
        waiting = [arm for arm in self.arms if self._to_ask[arm.name]]
        if waiting:
            arm = max(waiting, key=lambda arm: self._to_ask[arm.name])
            self._to_ask[arm.name] -= 1
            trial, values = self.studies[arm.name].ask()
            seed = self.spec.base.train.seed
            try:
                config = self.spec.arm_config(arm, values, seed)
            except ValueError as error:  # a combination inside the ranges that makes no GPT
                message = first_mistake(error)
                self._replace(arm, f"{arm.name} with {arm_name(values)}: {message}")
                self.studies[arm.name].tell(trial.number, Outcome.FAILED, None, message)
                return self.next(running)
            return Task(arm, Phase.EXPLORE, values, seed, config, self.studies[arm.name].name, trial)
        searching = {one.task.arm.name for one in running if one.task.trial is not None}
        for arm in self.arms:
            if arm.name not in searching and arm.name not in self._best:
                self._best[arm.name] = self._chosen(arm)
                self._to_confirm += self._confirm_tasks(arm)
                self._to_confirm.sort(key=lambda task: task.seed)
        while not self._to_confirm and not running and (arms := self._rounds.more()):
            self._to_confirm = sorted((t for arm in arms for t in self._confirm_tasks(arm)), key=lambda task: task.seed)
            self._tell_of_round(arms)
        return self._to_confirm.pop(0) if self._to_confirm else None

    def ended(self, running: Running, outcome: Outcome, reason: str) -> None:
        """Take what became of a run."""
        task = running.task
        if task.trial is not None:
            loss = told_loss(running.points, outcome)
            self.studies[task.arm.name].tell(task.trial.number, outcome, loss, reason)
        elif outcome.is_result:
            measured = running.evaluated[-1].metrics if running.evaluated else {}
            self._rounds.record(task.arm.name, task.seed, task.config, outcome, measured, running.key)
        if outcome.is_failure:
            failure = f"{running.name}: {reason.splitlines()[0]}"
            if task.trial is not None and outcome.again is Again.ANOTHER:
                self._replace(task.arm, failure)
            else:
                self.failed.append(failure)

    def supersedes(self, kept: UnfinishedRun) -> bool:
        """Whether an interrupted confirm run is of values that are no longer the best of its arm."""
        info = kept.info
        values = self._best.get(info.arm)
        if info.phase is not Phase.CONFIRM or values is None:
            return False
        arm = next(arm for arm in self.arms if arm.name == info.arm)
        return self.spec.arm_config(arm, values, info.seed).digest() != info.config.digest()

    def _tell_of_round(self, arms: Sequence[Arm]) -> None:
        """Say who gets more seeds, where any of them is still to be trained."""
        if self._to_confirm:
            work = sum(self.work[task.arm.name] for task in self._to_confirm)
            self.screen.runs_added(len(self._to_confirm), work, {arm.name: self._rounds.after for arm in arms})
            names = ", ".join(arm.name for arm in arms if arm != self.spec.baseline_arm)
            self.screen.message(
                f"undecided after {self._rounds.before} seeds: {names}; up to {self._rounds.after} seeds"
            )

    def _replace(self, arm: Arm, failure: str) -> None:
        """Note a trial that brought no result, and ask for another one in its place, a few times per arm.

        Arms are to be searched with equal trials; an arm in which everything fails has to end all the same.
        """
        self.failed.append(failure)
        if self._replacements[arm.name]:
            self._replacements[arm.name] -= 1
            self._to_ask[arm.name] += 1
            self.screen.runs_added(1, self.work[arm.name])

    def _chosen(self, arm: Arm) -> Mapping[str, Any] | None:
        """The values that the arm's search ended with, to be confirmed; None where no trial finished.

        Confirm runs of other values, the best when there were fewer trials, are marked as superseded.
        """
        values: Mapping[str, Any] = {}
        if self.spec.tune:
            best = self.studies[arm.name].best()
            if best is None:
                self.failed.append(f"{arm.name}: no trial finished, so there is nothing to confirm")
                self.screen.message(self.failed[-1])
                return None
            values = best.values
        for run in self._confirmed:
            if run.arm != arm.name:
                continue
            config = self.spec.arm_config(arm, values, run.seed)
            if run.digest == config.digest():
                self._rounds.record(arm.name, run.seed, config, run.outcome, run.validation, run.run_id)
            else:
                self.supersede(run.run_id)
        return values

    def _confirm_tasks(self, arm: Arm) -> list[Task]:
        """The arm's best configuration on every seed of this round that has no result yet."""
        values = self._best[arm.name]
        if values is None:
            return []
        return [
            Task(arm, Phase.CONFIRM, values, seed, self.spec.arm_config(arm, values, seed))
            for seed in self._rounds.seeds
            if not self._rounds.has(arm.name, seed)
        ]

    def _confirms_missing(self) -> int:
        """Confirm runs to be trained now, as far as it can be known before the search is over."""
        seeds = set(self._rounds.seeds)
        done = {(run.arm, run.seed) for run in self._confirmed if run.seed in seeds}
        return len(self.arms) * len(seeds) - len(done)

    def _tally(self, arm: Arm) -> ArmTally:
        """What earlier processes have done of an arm."""
        best = self.studies[arm.name].best()
        tally = ArmTally(arm.name, self.spec.trials, self._rounds.after, self.spec.trials - self._to_ask[arm.name])
        tally.best = best.loss if best else None
        for run in self._confirmed:
            if run.arm == arm.name:
                tally.add(Phase.CONFIRM, run.outcome, run.validation.get(metrics.VAL_LOSS))
        return tally
