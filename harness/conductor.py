"""The sweep itself: gives tasks to workers, listens to them, and writes down what happens.

This process alone talks to Optuna and MLflow; workers only train. Order of events for a run: a trial is asked for
(or a confirm run planned), its MLflow run is opened, a worker trains and streams points, each evaluated point is
reported to the pruner, and the end is told to Optuna, to MLflow and to the screen, in this order.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from harness import metrics
from harness.config import RunConfig
from harness.metrics import Outcome, Phase, Point
from harness.plan import plan_arms
from harness.progress import Screen
from harness.rounds import Rounds
from harness.schema import first_mistake
from harness.spec import Arm, SweepSpec, arm_name, format_value, short_name
from harness.study import RUN_ID, ArmStudy
from harness.tracking import Tracker, TrialInfo
from harness.workers import Event, Finished, Job, Pool, Progress, Started

MAX_RESTARTS = 3  # times that a run whose worker died is given to another
MAX_REPLACEMENTS = 2  # trials per arm and command that are asked for in place of failed ones
GRACE_SECONDS = 10.0  # what running trials get to stop by themselves


@dataclass(frozen=True)
class Task:
    """One run that is to be trained: an explore trial of an arm's study, or a confirm run of its best values."""

    arm: Arm
    phase: Phase
    values: Mapping[str, Any]
    seed: int  # that arms share; the configuration of an A/A sweep's copies has another
    config: RunConfig
    trial: Trial | None = None

    @property
    def name(self) -> str:
        """`drop_rate=0.1 · learning_rate=1.2e-03 · seed 1`: what the run is called everywhere."""
        tuned = [f"{short_name(path)}={_brief(value)}" for path, value in self.values.items()]
        arm = [self.arm.name] if self.arm.values else []
        return " · ".join([*arm, *tuned, f"seed {self.seed}"])


@dataclass
class _Running:
    task: Task
    run_id: str
    checkpoint: Path | None
    points: list[Point] = field(default_factory=list)
    pruned: bool = False
    restarts: int = 0

    @property
    def evaluated(self) -> list[Point]:
        return [point for point in self.points if point.evaluated]

    @property
    def loss(self) -> float | None:
        """Validation loss at the last evaluation."""
        return self.evaluated[-1].metrics[metrics.VAL_LOSS] if self.evaluated else None

    @property
    def initial_loss(self) -> float | None:
        """Validation loss before the first step."""
        return self.evaluated[0].metrics[metrics.VAL_LOSS] if self.evaluated else None


@dataclass(frozen=True)
class Ended:
    """How a sweep ended: by which signal it was stopped (0: none), and which runs did not do their work."""

    signal: int
    failed: Sequence[str]

    @property
    def outcome(self) -> Outcome:
        """The parent run's outcome."""
        if self.signal:
            return Outcome.INTERRUPTED
        return Outcome.FAILED if self.failed else Outcome.COMPLETE


class Conductor:
    """Runs what is missing of a sweep to its end.

    Args:
        spec: what is asked.
        studies: arm name → its study.
        tracker: where runs are recorded; `parent` is the sweep's run there.
        pool: workers.
        screen: what the person sees.
        work: arm name → a number proportional to the time of one run, for the estimate of time left.
        data: arm name → what its runs record about the corpus.
        folder: for checkpoints and for the states of runs, gigabytes with a large model; emptied and, at the end,
            removed.
    """

    def __init__(
        self,
        spec: SweepSpec,
        studies: Mapping[str, ArmStudy],
        tracker: Tracker,
        parent: str,
        pool: Pool,
        screen: Screen,
        work: Mapping[str, float],
        data: Mapping[str, Mapping[str, Any]],
        folder: Path,
    ) -> None:
        self.spec, self.studies, self.tracker, self.parent = spec, studies, tracker, parent
        self.pool, self.screen, self.work, self.data = pool, screen, work, data
        self.arms = spec.arms()
        self.running: dict[int, _Running] = {}
        self.failed: list[str] = []
        self._signal = 0
        self._jobs = 0
        self._to_ask = {arm.name: studies[arm.name].missing() for arm in self.arms}
        self._replacements = {arm.name: MAX_REPLACEMENTS for arm in self.arms}
        self._to_confirm: list[Task] = []
        self._best: dict[str, Mapping[str, Any] | None] = {}  # by arm whose search is over: what is confirmed
        self._rounds = Rounds(spec)
        self._confirmed = tracker.confirmed(parent)
        self._common_context = spec.common_context
        self._folder = folder

    def run(self) -> Ended:
        """Train everything that is missing; returns when it is done or a signal stopped it."""
        shutil.rmtree(self._folder, ignore_errors=True)  # of a process that was killed
        confirms = self._confirms_missing()
        weight = sum(self.work[arm] * count for arm, count in self._to_ask.items())
        weight += sum(self.work[arm.name] for arm in self.arms) / len(self.arms) * confirms
        self.screen.sweep_began(sum(self._to_ask.values()) + confirms, weight)
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while not self._signal:
                self._fill_workers()
                if not self.running:
                    break
                self._listen(0.5)
            if self._signal:
                self._stop_all()
        finally:
            try:
                self._abandon()
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
                shutil.rmtree(self._folder, ignore_errors=True)
        return Ended(self._signal, tuple(self.failed))

    # what to do next -----------------------------------------------------------------------------------------

    def _fill_workers(self) -> None:
        while self.pool.free:
            task = self._next_task()
            if task is None:
                return
            self._begin(task)

    def _next_task(self) -> Task | None:
        """An explore trial of the arm that is furthest behind, else a confirm run of an arm whose search is over."""
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
                self.studies[arm.name].tell(trial, Outcome.FAILED, None, message)
                return self._next_task()
            return Task(arm, Phase.EXPLORE, values, seed, config, trial)
        searching = {running.task.arm.name for running in self.running.values() if running.task.trial is not None}
        for arm in self.arms:
            if arm.name not in searching and arm.name not in self._best:
                self._best[arm.name] = self._chosen(arm)
                self._to_confirm += self._confirm_tasks(arm)
                self._to_confirm.sort(key=lambda task: task.seed)
        while not self._to_confirm and not self.running and (arms := self._rounds.more()):
            self._to_confirm = sorted((t for arm in arms for t in self._confirm_tasks(arm)), key=lambda task: task.seed)
            self._tell_of_round(arms)
        return self._to_confirm.pop(0) if self._to_confirm else None

    def _tell_of_round(self, arms: Sequence[Arm]) -> None:
        """Say who gets more seeds, where any of them is still to be trained."""
        if self._to_confirm:
            self.screen.sweep_grew(len(self._to_confirm), sum(self.work[task.arm.name] for task in self._to_confirm))
            names = ", ".join(arm.name for arm in arms if arm != self.spec.baseline_arm)
            self.screen.note(f"undecided after {self._rounds.before} seeds: {names}; up to {self._rounds.after} seeds")

    def _replace(self, arm: Arm, failure: str) -> None:
        """Note a trial that brought no result, and ask for another one in its place, a few times per arm.

        Arms are to be searched with equal trials; an arm in which everything fails has to end all the same.
        """
        self.failed.append(failure)
        if self._replacements[arm.name]:
            self._replacements[arm.name] -= 1
            self._to_ask[arm.name] += 1
            self.screen.sweep_grew(1, self.work[arm.name])

    def _chosen(self, arm: Arm) -> Mapping[str, Any] | None:
        """The values that the arm's search ended with, to be confirmed; None where no trial finished.

        Confirm runs of other values, the best when there were fewer trials, are marked as superseded.
        """
        values: Mapping[str, Any] = {}
        if self.spec.tune:
            best = self.studies[arm.name].best()
            if best is None:
                self.failed.append(f"{arm.name}: no trial finished, so there is nothing to confirm")
                self.screen.note(self.failed[-1])
                return None
            values = best.values
        for run in self._confirmed:
            if run.arm != arm.name:
                continue
            config = self.spec.arm_config(arm, values, run.seed)
            if run.digest == config.digest():
                self._rounds.record(arm.name, run.seed, config, run.outcome, run.validation, run.run_id)
            else:
                self.tracker.tag(run.run_id, phase=Phase.SUPERSEDED)
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

    # one run -------------------------------------------------------------------------------------------------

    def _begin(self, task: Task) -> None:
        study = self.studies[task.arm.name] if task.trial is not None else None
        info = TrialInfo(
            name=task.name,
            arm=task.arm.name,
            phase=task.phase,
            seed=task.seed,
            config=task.config,
            study=study.name if study else None,
            number=task.trial.number if task.trial else None,
            data=self.data[task.arm.name],
        )
        run_id = self.tracker.start_trial(self.parent, info)
        if task.trial is not None:
            task.trial.set_user_attr(RUN_ID, run_id)
        checkpoint = self._folder / run_id / "checkpoint" if task.phase is Phase.CONFIRM else None
        self._submit(_Running(task, run_id, checkpoint))

    def _submit(self, running: _Running) -> None:
        """Give a run to a worker; one that has begun goes on from its last state, with the points not yet seen."""
        task, confirm = running.task, running.task.phase is Phase.CONFIRM
        self._jobs += 1
        self.running[self._jobs] = running
        self.screen.run_began(self._jobs, task.name, self.work[task.arm.name])
        job = Job(
            id=self._jobs,
            config=task.config,
            read_test=confirm,
            common_context=self._common_context if confirm else None,
            checkpoint=running.checkpoint,
            state=self._folder / running.run_id / "state",
            after=running.points[-1].step if running.points else -1,
        )
        self.pool.submit(job)

    def _listen(self, timeout: float) -> None:
        for event in self.pool.events(timeout):
            self._on_event(event)
        self.tracker.flush_if_due()
        self.screen.refresh()

    def _on_event(self, event: Event) -> None:
        running = self.running[event.job]
        if isinstance(event, Started):
            self.tracker.tag(running.run_id, device=event.device)
            if event.note:
                self.screen.note(f"{running.task.name}: {event.note}")
        elif isinstance(event, Progress):
            self._on_point(event.job, running, event.point)
        else:
            self._on_end(running, event)

    def _on_point(self, job: int, running: _Running, point: Point) -> None:
        running.points.append(point)
        self.tracker.log_point(running.run_id, point)
        self.screen.run_point(job, point)
        trial = running.task.trial
        if trial is None or not point.evaluated or point.step == 0 or running.pruned:
            return
        prune = self.studies[running.task.arm.name].report(trial, point.tokens, point.metrics[metrics.VAL_LOSS])
        if prune and point.progress < 1:
            running.pruned = True
            self.pool.stop(job)

    def _on_end(self, running: _Running, event: Finished) -> None:
        del self.running[event.job]
        outcome, reason = event.outcome, event.reason
        if event.lost and not (self._signal or running.pruned) and running.restarts < MAX_RESTARTS:
            running.restarts += 1
            self.screen.note(f"{running.task.name}: {reason}; another takes it up")
            self.screen.run_left(event.job)
            self._submit(running)
            return
        if running.pruned and (outcome is Outcome.INTERRUPTED or event.lost):
            outcome, reason = Outcome.PRUNED, f"stopped by the pruner after {running.points[-1].tokens:,} tokens"
        task = running.task
        if task.trial is not None:
            loss = running.initial_loss if outcome is Outcome.DIVERGED else running.loss
            self.studies[task.arm.name].tell(task.trial, outcome, loss, reason)
        elif outcome in (Outcome.COMPLETE, Outcome.DIVERGED):
            measured = running.evaluated[-1].metrics if running.evaluated else {}
            self._rounds.record(task.arm.name, task.seed, task.config, outcome, measured, running.run_id)
        if outcome in (Outcome.FAILED, Outcome.OOM):
            failure = f"{task.name}: {reason.splitlines()[0]}"
            if task.trial is not None:
                self._replace(task.arm, failure)
            else:
                self.failed.append(failure)
        self._record(running, outcome, reason)
        shutil.rmtree(self._folder / running.run_id, ignore_errors=True)
        self.screen.run_ended(event.job, outcome, reason)

    def _record(self, running: _Running, outcome: Outcome, reason: str) -> None:
        if len(running.evaluated) > 1:
            from harness.report import loss_curve  # matplotlib takes a second to import: not before it is needed

            picture = self._folder / running.run_id / "loss_curve.svg"
            picture.parent.mkdir(parents=True, exist_ok=True)
            loss_curve(running.points, picture)
            self.tracker.log_artifact(running.run_id, picture)
        if running.checkpoint is not None and outcome is Outcome.COMPLETE:
            self.tracker.log_artifact(running.run_id, running.checkpoint, "checkpoint")
        self.tracker.end_trial(running.run_id, outcome, reason)

    # stopping ------------------------------------------------------------------------------------------------

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._signal:  # the second time: at once
            raise KeyboardInterrupt
        self._signal = number

    def _stop_all(self) -> None:
        """Ask every worker to stop at its next point, and give slow ones ten seconds."""
        self.screen.note(f"stopping {len(self.running)} running trials (again to stop at once) …")
        for job in list(self.running):
            self.pool.stop(job)
        deadline = time.monotonic() + GRACE_SECONDS
        while self.running and time.monotonic() < deadline:
            self._listen(0.5)

    def _abandon(self) -> None:
        """Whatever ended this loop, no run is left RUNNING."""
        errors = []
        for job, running in list(self.running.items()):
            try:
                self._on_end(running, Finished(job, Outcome.INTERRUPTED, "the sweep ended while this run was training"))
            except Exception as error:  # the others are to be closed all the same
                errors.append(error)
        if errors:
            raise errors[0]


def work_per_run(spec: SweepSpec, train_tokens: Mapping[str, int]) -> dict[str, float]:
    """Arm name → FLOPs of one run (seconds, for budgets in seconds): what the time left is estimated from."""
    costs = {arm.name: arm.cost for arm in plan_arms(spec, train_tokens)}
    return {name: cost.flops or cost.seconds or 1.0 for name, cost in costs.items()}


def _brief(value: Any) -> str:
    if isinstance(value, float) and value and not 0.01 <= abs(value) < 10_000:
        return f"{value:.1e}"
    return f"{value:.3g}" if isinstance(value, float) else format_value(value)
