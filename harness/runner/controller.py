"""The event loop of a sweep: submits tasks to workers and passes on what they report.

Only this process talks to Optuna and MLflow; workers only train. The life of a run: `harness.runner.scheduler` asks
for a trial or plans a confirm run, the outbox starts the run's record, a worker trains and sends points, each
evaluated point is reported to the pruner. At the end the outcome goes to the outbox, to Optuna and to the screen, in
this order. The outbox writes to disk first, so the next process can resume whatever ended this one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.config.objective import curve_value
from harness.config.run import DataConfig
from harness.config.spec import SweepSpec
from harness.console.screen import Screen
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase, Retry
from harness.core.text import plural
from harness.runner.run_records import RunRecords
from harness.runner.scheduler import Scheduler
from harness.runner.signals import StopRequest
from harness.runner.tasks import Running
from harness.search.readable import RUN_ID, RUN_KEY
from harness.search.study import ArmStudy
from harness.tracking import Outbox, SweepBusy, Tracker
from harness.tracking.schema import milliseconds
from harness.workers.messages import Event, Finished, Job, Note, Progress, Started
from harness.workers.protocol import WorkerPool

MAX_LOST_WORKERS: Final = 3  # in a row, without a point in between; after the next one the run has failed
EVENT_SECONDS: Final = 0.5  # how long to wait for an event
RUN_ID_SECONDS = 10.0  # how long the end of a trial waits until MLflow has created its run
EVENT_SECONDS_DELAYED: Final = 0.05  # how long to wait for an event meanwhile
BUSY_SECONDS = 1.0  # how long to ask for trials, or to record ends, before events are handled again
GRACE_SECONDS: Final = 10.0  # how long runs may take to stop after a signal


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended.

    Attributes:
        signal: the signal that stopped it; 0: none.
        failed: runs that failed, each with its reason.
    """

    signal: int
    failed: Sequence[str]

    @property
    def outcome(self) -> Outcome:
        """The outcome of the sweep's parent run."""
        if self.signal:
            return Outcome.INTERRUPTED
        return Outcome.FAILED if self.failed else Outcome.COMPLETE


class SweepController:
    """Trains what is missing of a sweep.

    Args:
        spec: the sweep.
        studies: arm name → its study.
        tracker: earlier runs are read from it, by this constructor only.
        outbox: records runs; the caller has entered it.
        pool: trains runs.
        screen: shows them.
        run_costs: arm name → a number proportional to the time of one run, to estimate the time left.
        data: data section → what runs with it record about their corpus.
    """

    def __init__(
        self,
        spec: SweepSpec,
        studies: Mapping[str, ArmStudy],
        tracker: Tracker,
        outbox: Outbox,
        pool: WorkerPool,
        screen: Screen,
        run_costs: Mapping[str, float],
        data: Mapping[DataConfig, Mapping[str, Any]],
    ) -> None:
        self.spec, self.studies, self.outbox = spec, studies, outbox
        self.pool, self.screen, self.run_costs = pool, screen, run_costs
        confirmed = tracker.confirm_results(outbox.parent)
        method = tracker.planned_method(outbox.parent)
        self.scheduler = Scheduler(spec, studies, confirmed, self._mark_superseded, screen, run_costs, method)
        self.running: dict[int, Running] = {}  # by job
        self._by_key: dict[str, Running] = {}  # the same by the key of the run
        self._ends: dict[int, tuple[Finished, float]] = {}  # job → its end, and when it stops waiting for a run id
        self._held_back = self._shown_behind = False  # whether tasks wait for MLflow, and the screen has said so
        self._busy = False  # whether tasks or ends are left only since events were due
        self.training_since: float | None = None  # when the first run started, on `time.monotonic`
        self._stop = StopRequest()
        self._jobs = 0
        self._records = RunRecords(outbox, tracker, data)
        self._common_context = spec.common_context
        self._store_fails = False

    def run(self) -> SweepResult:
        """Train everything that is missing, until it is done or a signal stops it.

        Raises:
            SweepBusy: another process has taken the sweep over.
            Interrupted: there was a second signal.
        """
        self.screen.sweep_started(*self.scheduler.remaining(), self.scheduler.tallies(), self.spec.objective)
        with self._stop:
            try:
                while not self._stop.signal:
                    self._held_back = self._submit_tasks()
                    if not self.running and not self._held_back:
                        break
                    self._handle_events()
                if self._stop.signal:
                    self._stop_runs()
                else:
                    self._drop_superseded()
            finally:
                self._interrupt_runs()
        return SweepResult(self._stop.signal, tuple(self.scheduler.failed))

    # submitting ----------------------------------------------------------------------------------------------

    def _submit_tasks(self) -> bool:
        """Give tasks to free workers; returns whether tasks wait until MLflow has stored more of the ended runs.

        A thousand free workers take a while: points must not wait for all of them.
        """
        until = time.monotonic() + BUSY_SECONDS
        # A sampler must know every trial that has ended. Without a worker, the next task waits in the pool for one.
        while (self.pool.free or not self.running) and not self._ends:
            if self.outbox.is_behind:
                if not self._shown_behind:
                    self.screen.message("runs end faster than MLflow stores them, so new runs wait for it")
                self._shown_behind = True
                return True
            task = self.scheduler.next(self.running.values())
            if task is None:
                return False
            running = self._records.open(task)
            if task.trial is not None:
                task.trial.set_user_attr(RUN_KEY, running.key)
                for point in running.evaluated[1:]:  # an earlier process may not have reported all of them
                    self._report_to_study(running, point)
            self._submit(running)
            if time.monotonic() >= until:
                self._busy = True
                break
        return False

    def _submit(self, running: Running) -> None:
        """Give a run to a worker, which resumes it from its last state and sends the points that are new."""
        task, confirm = running.task, running.task.phase is Phase.CONFIRM
        running.ended = None
        self._jobs += 1
        self.running[self._jobs] = self._by_key[running.key] = running
        self.screen.run_started(self._jobs, running.name, self.run_costs[task.arm.name], task.arm.name, task.phase)
        job = Job(
            id=self._jobs,
            config=task.config,
            read_test=confirm,
            common_context=self._common_context if confirm else None,
            checkpoint=self._records.checkpoint_folder(running.key) if confirm else None,
            state=self._records.state_folder(running.key),
            after=running.points[-1].step if running.points else -1,
            run=self._records.name_of(running.key),
            start=self.spec.start_folder(task.config),
        )
        self.pool.submit(job)

    # events --------------------------------------------------------------------------------------------------

    def _handle_events(self) -> None:
        waits_for_store = self._ends or self._held_back
        patience = 0.0 if self._busy else EVENT_SECONDS_DELAYED if waits_for_store else EVENT_SECONDS
        self._busy = False
        by_job: dict[int, list[Event]] = {}
        for event in self.pool.events(patience):
            by_job.setdefault(event.job, []).append(event)
        for job, events in by_job.items():
            running, points = self.running[job], [event.point for event in events if isinstance(event, Progress)]
            if points:  # first of all they are on disk
                self.outbox.log_points(running.key, points)
            for event in events:
                self._handle(running, event)
        self._store_run_ids()
        self._record_ends()
        self._check_outbox()
        self.screen.refresh()

    def _handle(self, running: Running, event: Event) -> None:
        if isinstance(event, Started):
            self._on_started(running, event)
        elif isinstance(event, Progress):
            self._on_point(event.job, running, event.point)
        elif isinstance(event, Note):
            self.screen.message(f"{running.name}: {event.text}")
        else:
            self._on_finished(running, event)

    def _on_started(self, running: Running, event: Started) -> None:
        self.training_since = self.training_since or time.monotonic()
        node = {"node": event.node} if event.node else {}
        self.outbox.tag(running.key, device=event.device, ranks=str(event.ranks), **node)
        if event.resumed_from or event.warning:
            text = "; ".join(filter(None, (f"resumes from step {event.resumed_from}", event.warning)))
            self.outbox.tag(running.key, resumed=text)
            self.screen.message(f"{running.name}: {text}")

    def _on_point(self, job: int, running: Running, point: Point) -> None:
        running.add(point)
        running.lost_workers = 0
        self.screen.run_point(job, point)
        if point.step and not running.pruned and self._report_to_study(running, point) and point.progress < 1:
            running.pruned = True
            self.pool.stop(job)

    def _report_to_study(self, running: Running, point: Point) -> bool:
        """Report a point's objective value to Optuna, if it has one. Returns whether the pruner stops the trial."""
        trial, value = running.task.trial, curve_value(point, self.spec.objective.metric)
        if trial is None or value is None:
            return False
        return self.studies[running.task.arm.name].report(trial, point.tokens, value)

    def _on_finished(self, running: Running, event: Finished) -> None:
        """Submit a run again if its worker was lost; note the end of any other."""
        running.ended = milliseconds()
        stopped = running.pruned or self._stop.signal
        if event.lost and not stopped and running.lost_workers < MAX_LOST_WORKERS:
            del self.running[event.job]
            running.lost_workers += 1
            self.screen.message(f"{running.name}: {event.reason}; another worker resumes it")
            self.screen.run_lost(event.job)
            self._submit(running)
        else:
            self._ends[event.job] = event, time.monotonic() + RUN_ID_SECONDS

    def _needs_run_id(self, running: Running) -> bool:
        """Whether Optuna should get a trial's MLflow run id first: a finished trial takes no attributes."""
        return running.task.trial is not None and running.run_id is None and not self.outbox.error

    def _store_run_ids(self) -> None:
        """Store new MLflow run ids with their trials."""
        for key, run_id in self.outbox.new_run_ids():
            running = self._by_key.get(key)
            if running is not None and running.task.trial is not None:
                running.run_id = run_id
                running.task.trial.set_user_attr(RUN_ID, run_id)

    def _record_ends(self) -> None:
        """Record the ends that do not wait for a run id, as long as no event has to wait for that."""
        busy_until = time.monotonic() + BUSY_SECONDS
        for job, (event, until) in list(self._ends.items()):
            if self._needs_run_id(self.running[job]) and time.monotonic() <= until:
                continue
            del self._ends[job]
            self._record_end(self.running[job], event)
            if time.monotonic() >= busy_until:
                self._busy = True
                break

    def _record_end(self, running: Running, event: Finished) -> None:
        del self.running[event.job], self._by_key[running.key]
        outcome, reason = event.outcome, event.reason
        if running.pruned and (outcome is Outcome.INTERRUPTED or event.lost):
            outcome, reason = Outcome.PRUNED, f"stopped by the pruner after {running.points[-1].tokens:,} tokens"
        elif event.lost and self._stop.signal:
            outcome = Outcome.INTERRUPTED
        self._records.end(running, outcome, reason)
        if outcome.retry is not Retry.RESUME:
            self.pool.remove_states(self._records.name_of(running.key))
        self.scheduler.ended(running, outcome, reason)
        self.screen.run_finished(event.job, outcome, reason)

    def _check_outbox(self) -> None:
        """Stop if another process has taken the sweep over; say when MLflow stops or starts to answer."""
        if self.outbox.new_owner:
            raise SweepBusy(f"{self.spec.name} was taken over by process {self.outbox.new_owner}, which continues it")
        error = self.outbox.error
        if bool(error) is not self._store_fails:
            self._store_fails = bool(error)
            waits = f"MLflow cannot store results, so they wait on disk: {error}"
            self.screen.message(waits if error else "MLflow stores results again")

    def _mark_superseded(self, run_id: str) -> None:
        self.outbox.tag_stored(run_id, phase=Phase.SUPERSEDED)

    # the end -------------------------------------------------------------------------------------------------

    def _stop_runs(self) -> None:
        """Ask every worker to stop after its step, and wait some seconds for it."""
        self.screen.message(f"stopping {plural(len(self.running), 'running trial')} (again to stop at once) …")
        for job in list(self.running):
            self.pool.stop(job)
        deadline = time.monotonic() + GRACE_SECONDS
        while self.running and time.monotonic() < deadline:
            self._handle_events()

    def _drop_superseded(self) -> None:
        """Delete interrupted confirm runs whose values are no longer their arm's best."""
        if self._records.discard(self.scheduler.is_superseded):
            self.pool.remove_states(self.outbox.folder.name)

    def _interrupt_runs(self) -> None:
        """Record the runs that the loop has left as interrupted, so that they can be resumed."""
        errors = []
        for job, running in list(self.running.items()):
            stopped = Finished(job, Outcome.INTERRUPTED, "the sweep ended while this run was training")
            event, _ = self._ends.pop(job, (stopped, 0.0))
            try:
                self._record_end(running, event)
            except Exception as error:  # record the others first
                errors.append(error)
        if errors:
            raise errors[0]
