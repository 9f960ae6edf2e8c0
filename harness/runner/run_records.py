"""The records of a sweep's runs in the outbox: begun or reopened when a run is submitted, and ended with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.config.run import DataConfig
from harness.core.files import remove_folder
from harness.core.outcomes import Outcome, Retry
from harness.runner.tasks import Running, Task
from harness.search.readable import RUN_KEY
from harness.tracking import ARTIFACTS, Outbox, Tracker, UnfinishedRun


class RunRecords:
    """Opens and ends records, and knows the records that earlier processes have left unfinished.

    Args:
        outbox: has the records; the caller has entered it.
        tracker: interrupted runs are read from it, by this constructor only.
        data: data section → what runs with it record about their corpus.
    """

    def __init__(self, outbox: Outbox, tracker: Tracker, data: Mapping[DataConfig, Mapping[str, Any]]) -> None:
        self._outbox, self._data = outbox, data
        self._interrupted = tracker.interrupted_runs(outbox.parent)
        self._unfinished = {_identity(run): run for run in outbox.unfinished_runs() if run.outcome is None}

    def open(self, task: Task) -> Running:
        """Reopen the record of an interrupted run, or begin a new one.

        If MLflow has the run but its folder is lost, it keeps its key and is trained again: it gives the same points.
        With a budget in seconds it would not, so without a state such a run begins a new record.
        """
        timed = task.config.train.budget.seconds is not None
        unfinished = self._unfinished.pop(_identity(task), None)
        if unfinished is not None and timed and not self.state_folder(unfinished.key).is_dir():
            self._outbox.discard(unfinished)
            unfinished = None
        if unfinished is not None:
            self._outbox.resume(unfinished)
            return Running(task, unfinished.key, list(unfinished.points))
        key = "" if timed else self._key_in_mlflow(task)
        return Running(task, self._outbox.start(task.info(self._data[task.config.data.texts]), key))

    def _key_in_mlflow(self, task: Task) -> str:
        if task.trial is not None:
            return str(task.trial.user_attrs.get(RUN_KEY, ""))
        return self._interrupted.get((task.config.digest(), task.phase), "")

    def state_folder(self, key: str) -> Path:
        """Where a run's states are, by its key."""
        return self._outbox.folder_of(key) / "state"

    def checkpoint_folder(self, key: str) -> Path:
        """Where a run's checkpoint is, by its key."""
        return self._outbox.folder_of(key) / ARTIFACTS / "checkpoint"

    def name_of(self, key: str) -> str:
        """The name of a run outside of this sweep's own folder; see `Job.run`."""
        return f"{self._outbox.folder.name}/{key}"

    def end(self, running: Running, outcome: Outcome, reason: str) -> None:
        """Record how a run ended; one that will be resumed keeps its folder."""
        if outcome.retry is Retry.RESUME:
            self._outbox.interrupt(running.key, reason)
            return
        if outcome is not Outcome.COMPLETE:  # its checkpoint is not the one of a finished run
            remove_folder(self.checkpoint_folder(running.key), self._outbox.folder)
        self._outbox.end(running.key, outcome, reason, running.ended)

    def discard(self, superseded: Callable[[UnfinishedRun], bool]) -> bool:
        """Delete the unfinished runs that are superseded; returns whether no run is left to resume."""
        discarded = [run for run in self._unfinished.values() if superseded(run)]
        for run in discarded:
            self._outbox.discard(run)
        return len(discarded) == len(self._unfinished)


def _identity(run: Task | UnfinishedRun) -> tuple[object, ...]:
    """Equal for a task and the record of its run."""
    if isinstance(run, Task):
        return (run.study, run.trial.number) if run.trial else (run.arm.name, run.seed, run.config.digest())
    info = run.info
    if info.number is not None:
        return (info.study, info.number)
    return (info.arm, info.seed, info.config.digest())
