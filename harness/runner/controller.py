"""The sweep itself: gives tasks to workers, listens to them, and writes down what happens.

This process alone talks to Optuna and MLflow; workers only train. Order of events for a run: a trial is asked for
(or a confirm run planned) by `harness.runner.scheduler`, its record is opened, a worker trains and streams points,
each evaluated
point is reported to the pruner, and the end is written to the record, told to Optuna and shown, in this order. The
record is on disk before anything else knows of it, so whatever ends this process, the next one goes on from there.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config.spec import SweepSpec
from harness.console.screen import Screen
from harness.core.metrics import Point
from harness.core.outcomes import Again, Outcome, Phase
from harness.runner.scheduler import Scheduler
from harness.runner.tasks import Running, Task
from harness.search.study import RUN_ID, RUN_KEY, ArmStudy
from harness.tracking import ARTIFACTS, Outbox, SweepBusy, Tracker, UnfinishedRun
from harness.workers.messages import Event, Finished, Job, Progress, Started
from harness.workers.protocol import WorkerPool

MAX_FAULTS = 3  # times in a row, without a point in between, that a run whose worker died is given to another
RUN_ID_SECONDS = 10.0  # how long the end of a trial is held back until MLflow has created its run
HELD_TIMEOUT = 0.05  # seconds to wait for workers while an end is held back
GRACE_SECONDS = 10.0  # what running trials get to stop by themselves


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended: by which signal it was stopped (0: none), and which runs did not do their work."""

    signal: int
    failed: Sequence[str]

    @property
    def outcome(self) -> Outcome:
        """The parent run's outcome."""
        if self.signal:
            return Outcome.INTERRUPTED
        return Outcome.FAILED if self.failed else Outcome.COMPLETE


class SweepController:
    """Runs what is missing of a sweep to its end.

    Args:
        spec: what is asked.
        studies: arm name → its study.
        tracker: what was confirmed before is read from it, here and now only.
        outbox: where runs are recorded; entered by the caller.
        pool: workers.
        screen: what the person sees.
        work: arm name → a number proportional to the time of one run, for the estimate of time left.
        data: arm name → what its runs record about the corpus.
    """

    def __init__(
        self,
        spec: SweepSpec,
        studies: Mapping[str, ArmStudy],
        tracker: Tracker,
        outbox: Outbox,
        pool: WorkerPool,
        screen: Screen,
        work: Mapping[str, float],
        data: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.spec, self.studies, self.outbox = spec, studies, outbox
        self.pool, self.screen, self.work, self.data = pool, screen, work, data
        self.scheduler = Scheduler(spec, studies, tracker.confirm_results(outbox.parent), self._supersede, screen, work)
        self.running: dict[int, Running] = {}
        self._held: dict[int, tuple[Finished, float]] = {}  # job → its end, and until when it is held back
        self._signal = 0
        self._jobs = 0
        self._interrupted = tracker.interrupted_runs(outbox.parent)
        self._kept = {_same(kept): kept for kept in outbox.unfinished_runs() if kept.outcome is None}
        self._common_context = spec.common_context
        self._trouble = ""

    def run(self) -> SweepResult:
        """Train everything that is missing; returns when it is done or a signal stopped it.

        Raises:
            SweepBusy: another process has taken the sweep over.
        """
        self.screen.sweep_started(*self.scheduler.remaining(), self.scheduler.tallies())
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while not self._signal:
                self._fill_workers()
                if not self.running:
                    break
                self._listen(0.5)
            if self._signal:
                self._stop_all()
            else:
                for kept in filter(self.scheduler.supersedes, self._kept.values()):
                    self.outbox.discard(kept)
        finally:
            try:
                self._abandon()
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        return SweepResult(self._signal, tuple(self.scheduler.failed))

    def _fill_workers(self) -> None:
        while self.pool.free and not self._held:  # a sampler is to know every trial that has ended
            task = self.scheduler.next(self.running.values())
            if task is None:
                return
            self._begin(task)

    def _supersede(self, run_id: str) -> None:
        self.outbox.tag_stored(run_id, phase=Phase.SUPERSEDED)

    # one run -------------------------------------------------------------------------------------------------

    def _begin(self, task: Task) -> None:
        info = task.info(self.data[task.arm.name])
        kept = self._kept.pop(_same(task), None)
        timed = task.config.train.budget.seconds is not None  # how far such a run comes is no function of its seed
        if kept is not None and timed and not self._state(kept.key).is_dir():
            self.outbox.discard(kept)
            kept = None
        if kept is not None:
            self.outbox.resume(kept)
            running = Running(task, kept.key, list(kept.points))
        else:  # one that MLflow has and whose folder is lost: trained anew, it gives the same points
            running = Running(task, self.outbox.start(info, "" if timed else self._key_in_mlflow(task)))
        if task.trial is not None:
            task.trial.set_user_attr(RUN_KEY, running.key)
            for point in running.evaluated[1:]:  # what the killed process could not report any more
                assert point.curve_loss is not None
                self.studies[task.arm.name].report(task.trial, point.tokens, point.curve_loss)
        self._submit(running)

    def _key_in_mlflow(self, task: Task) -> str:
        if task.trial is not None:
            return str(task.trial.user_attrs.get(RUN_KEY, ""))
        return self._interrupted.get((task.config.digest(), task.phase), "")

    def _state(self, key: str) -> Path:
        return self.outbox.folder_of(key) / "state"

    def _submit(self, running: Running) -> None:
        """Give a run to a worker; one that has begun goes on from its last state, with the points not yet seen."""
        task, confirm = running.task, running.task.phase is Phase.CONFIRM
        self._jobs += 1
        self.running[self._jobs] = running
        self.screen.run_started(self._jobs, running.name, self.work[task.arm.name], task.arm.name, task.phase)
        job = Job(
            id=self._jobs,
            config=task.config,
            read_test=confirm,
            common_context=self._common_context if confirm else None,
            checkpoint=self.outbox.folder_of(running.key) / ARTIFACTS / "checkpoint" if confirm else None,
            state=self._state(running.key),
            after=running.points[-1].step if running.points else -1,
        )
        self.pool.submit(job)

    def _listen(self, timeout: float) -> None:
        for event in self.pool.events(HELD_TIMEOUT if self._held else timeout):
            self._on_event(event)
        self._store_run_ids()
        if self.outbox.new_owner:
            raise SweepBusy(f"{self.spec.name} was taken over by process {self.outbox.new_owner}, and goes on there")
        if bool(self.outbox.error) is not bool(self._trouble):
            self._trouble = self.outbox.error
            self.screen.message(
                f"what is measured waits on disk, as MLflow cannot take it: {self._trouble}"
                if self._trouble
                else "MLflow takes what is measured again"
            )
        self.screen.refresh()

    def _on_event(self, event: Event) -> None:
        running = self.running[event.job]
        if isinstance(event, Started):
            self._on_start(running, event)
        elif isinstance(event, Progress):
            self._on_point(event.job, running, event.point)
        elif self._lacks_run_id(running):
            self._held[event.job] = event, time.monotonic() + RUN_ID_SECONDS
        else:
            self._on_end(running, event)

    def _lacks_run_id(self, running: Running) -> bool:
        """Whether Optuna should get a trial's MLflow run id before its end: a finished trial takes no attributes."""
        return running.task.trial is not None and running.run_id is None and not self.outbox.error

    def _store_run_ids(self) -> None:
        """Give Optuna the run ids that MLflow has given, and record the ends that were held back for them."""
        by_key = {running.key: running for running in self.running.values()}
        for key, run_id in self.outbox.new_run_ids():
            running = by_key.get(key)
            if running is not None and running.task.trial is not None:
                running.run_id = run_id
                running.task.trial.set_user_attr(RUN_ID, run_id)
        for job, (event, until) in list(self._held.items()):
            if not self._lacks_run_id(self.running[job]) or time.monotonic() > until:
                del self._held[job]
                self._on_end(self.running[job], event)

    def _on_start(self, running: Running, event: Started) -> None:
        self.outbox.tag(running.key, device=event.device)
        if event.resumed_from or event.warning:
            said = "; ".join(filter(None, (f"goes on from step {event.resumed_from}", event.warning)))
            self.outbox.tag(running.key, resumed=said)
            self.screen.message(f"{running.name}: {said}")

    def _on_point(self, job: int, running: Running, point: Point) -> None:
        running.points.append(point)
        running.faults = 0
        self.outbox.log_point(running.key, point)
        self.screen.run_point(job, point)
        trial = running.task.trial
        if trial is None or point.curve_loss is None or point.step == 0 or running.pruned:
            return
        prune = self.studies[running.task.arm.name].report(trial, point.tokens, point.curve_loss)
        if prune and point.progress < 1:
            running.pruned = True
            self.pool.stop(job)

    def _on_end(self, running: Running, event: Finished) -> None:
        del self.running[event.job]
        outcome, reason = event.outcome, event.reason
        if running.pruned and (outcome is Outcome.INTERRUPTED or event.lost):
            outcome, reason = Outcome.PRUNED, f"stopped by the pruner after {running.points[-1].tokens:,} tokens"
        elif event.lost and self._signal:
            outcome = Outcome.INTERRUPTED
        elif event.lost and running.faults < MAX_FAULTS:
            running.faults += 1
            self.screen.message(f"{running.name}: {reason}; another takes it up")
            self.screen.run_lost(event.job)
            self._submit(running)
            return
        if outcome.again is Again.GOES_ON:
            self.outbox.interrupt(running.key, reason)
        else:
            self._record_end(running, outcome, reason)
        self.scheduler.ended(running, outcome, reason)
        self.screen.run_finished(event.job, outcome, reason)

    def _record_end(self, running: Running, outcome: Outcome, reason: str) -> None:
        """Write down a run's end; of its checkpoint nothing stays unless it is that of a whole run."""
        if outcome is not Outcome.COMPLETE:
            shutil.rmtree(self.outbox.folder_of(running.key) / ARTIFACTS / "checkpoint", ignore_errors=True)
        self.outbox.end(running.key, outcome, reason)

    # stopping ------------------------------------------------------------------------------------------------

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._signal:  # the second time: at once
            raise KeyboardInterrupt
        self._signal = number

    def _stop_all(self) -> None:
        """Ask every worker to stop at its next point, and give slow ones ten seconds."""
        self.screen.message(f"stopping {len(self.running)} running trials (again to stop at once) …")
        for job in list(self.running):
            self.pool.stop(job)
        deadline = time.monotonic() + GRACE_SECONDS
        while self.running and time.monotonic() < deadline:
            self._listen(0.5)

    def _abandon(self) -> None:
        """Whatever ended this loop, every run that it leaves is one to be gone on with."""
        errors = []
        for job, running in list(self.running.items()):
            stopped = Finished(job, Outcome.INTERRUPTED, "the sweep ended while this run was training")
            event, _ = self._held.pop(job, (stopped, 0.0))
            try:
                self._on_end(running, event)
            except Exception as error:  # the others are to be closed all the same
                errors.append(error)
        if errors:
            raise errors[0]


def _same(run: Task | UnfinishedRun) -> tuple[object, ...]:
    """What tells whether a task and a record are of the same run."""
    if isinstance(run, Task):
        return (run.study, run.trial.number) if run.trial else (run.arm.name, run.seed, run.config.digest())
    info = run.info
    if info.number is not None:
        return (info.study, info.number)
    return (info.arm, info.seed, info.config.digest())
