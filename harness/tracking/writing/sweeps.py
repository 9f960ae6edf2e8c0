"""Writes a sweep's parent run: opens or resumes it, keeps its heartbeat, stores its report, closes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config.fingerprint import SET_ASIDE
from harness.core import metrics
from harness.core.outcomes import Outcome
from harness.tracking import provenance, schema
from harness.tracking.artifacts import with_patch_line
from harness.tracking.ownership import owner_of
from harness.tracking.queries import history, sweeps_of, trials_of
from harness.tracking.records import SweepInfo
from harness.tracking.store import SweepBusy, wrap_errors
from harness.tracking.writing import views
from harness.tracking.writing.descriptions import description_tags, experiment_description, sweep_description
from harness.tracking.writing.experiment import Experiment, clipped_tags
from harness.tracking.writing.plans import store_plan
from harness.tracking.writing.runs import dataset_input, log_traceback, milliseconds, outcome_tags

if TYPE_CHECKING:
    from mlflow.entities import Run

NOT_CLOSED = "its process ended without closing it"


class SweepWriter:
    """Writes the parent runs of one experiment; for one thread of one process.

    Args:
        experiment: where they are.
        own_runs: ids of the child runs that this process writes; they are not closed as abandoned.

    Attributes:
        earlier_sweep: when a new sweep is created, the last parent run with another identity; else empty.
    """

    def __init__(self, experiment: Experiment, own_runs: Collection[str]) -> None:
        self._experiment, self._own_runs = experiment, own_runs
        self._infos: dict[str, SweepInfo] = {}  # by parent run
        self.earlier_sweep = ""

    def info(self, parent: str) -> SweepInfo:
        """A sweep that was opened here."""
        return self._infos[parent]

    @wrap_errors()
    def open(self, info: SweepInfo, code: provenance.CodeVersion, shared_tags: Mapping[str, str]) -> str:
        """Create a sweep's parent run, or resume the one of the same identity; see `Tracker.open_sweep`.

        Args:
            info: the sweep.
            code: the code that runs it.
            shared_tags: of all runs that this process writes.

        Returns:
            the parent run's id.
        """
        experiment, client = self._experiment, self._experiment.client
        assert info.name == experiment.name, f"sweep {info.name!r} in experiment {experiment.name!r}"
        self.refuse_if_owned(info.identity)
        known = self._find(info.identity)
        tags = clipped_tags({**shared_tags, **schema.sweep_tags(info), schema.OPENED: str(milliseconds())})
        if known is None:
            earlier = sweeps_of(client, experiment.id)
            self.earlier_sweep = earlier[-1].info.run_id if earlier else ""
            run = client.create_run(experiment.id, tags=tags, run_name=info.name)
            parent = str(run.info.run_id)
            store_plan(experiment, run, info.plan)
            client.log_inputs(parent, datasets=[dataset_input(info.data)])
        else:
            parent = str(known.info.run_id)
            for name in known.data.tags.keys() & {schema.OUTCOME, schema.REASON}:
                client.delete_tag(parent, name)
            experiment.log(parent, tags)
            client.update_run(parent, status="RUNNING")
            store_plan(experiment, known, info.plan)
        self._infos[parent] = info
        self._describe(parent)
        self.heartbeat(parent)
        experiment.log_contents(parent, {schema.SWEEP_FILE: schema.describe(info), schema.SPEC_FILE: info.spec_text})
        if code.dirty:
            experiment.log_contents(parent, {schema.PATCH_FILE: with_patch_line(code.patch)})
        return parent

    @wrap_errors()
    def store_report(self, parent: str, answer: str, report: Path, verdicts: Mapping[str, str]) -> None:
        """Store a sweep's report among its artifacts, and its answer in tags and descriptions.

        Args:
            parent: the sweep.
            answer: the verdict in words.
            report: the report's folder.
            verdicts: arm → verdict, of the arms that have one.
        """
        self._experiment.log_artifact(parent, report, schema.REPORT_FOLDER)
        text = "; ".join(f"{arm}: {verdict}" for arm, verdict in verdicts.items())
        tags = {schema.VERDICT: text or "none", schema.ANSWER: answer, schema.REPORT: str(report)}
        self._experiment.log(parent, tags)
        self._describe(parent)

    def _describe(self, parent: str) -> None:
        """Write the descriptions of a sweep and of its experiment, and the views of MLflow's UI."""
        info, experiment = self._infos[parent], self._experiment
        tags = experiment.client.get_run(parent).data.tags
        answer = tags.get(schema.ANSWER, "")
        text = sweep_description(info, experiment.id, parent, answer, tags.get(schema.REPORT, ""))
        experiment.log(parent, description_tags(text, tags))
        stored = experiment.client.get_experiment(experiment.id).tags
        text = experiment_description(info, experiment.id, parent, answer)
        new = description_tags(text, stored) | views.view_tags(info, parent, stored, milliseconds())
        for name, value in new.items():
            if stored.get(name) != value:
                experiment.client.set_experiment_tag(experiment.id, name, value)

    def _find(self, identity: str) -> Run | None:
        """The parent run of an identity. Other sweeps whose process has died are closed as interrupted."""
        known = None
        for run in sweeps_of(self._experiment.client, self._experiment.id):
            if run.data.tags.get(schema.IDENTITY) == identity:
                known = run
            elif run.info.status == "RUNNING" and owner_of(run) is None:
                self.close_abandoned_runs(run.info.run_id)
                self._close_abandoned(run, None)
        return known

    @wrap_errors()
    def refuse_if_owned(self, identity: str) -> None:
        """Raise `SweepBusy` if another process runs the sweep of this identity."""
        for run in self._of_identity(identity):
            if owner := owner_of(run):
                name = self._experiment.name
                raise SweepBusy(f"{name} is already being run by process {owner}; wait for it or stop it")

    @wrap_errors()
    def heartbeat(self, parent: str) -> str | None:
        """Tell other machines that this process still runs the sweep; to be called about once a minute.

        Returns:
            the process that has taken the sweep over; None if this process still owns it.
        """
        owner = self._experiment.client.get_run(parent).data.tags.get(schema.PROCESS)
        if owner not in (None, provenance.process_name()):
            return owner
        self._experiment.log(parent, {schema.HEARTBEAT: str(milliseconds())})
        return None

    @wrap_errors()
    def set_aside(self, identity: str) -> list[str]:
        """Give a sweep's parent run another identity, so that the next command starts a new sweep; nothing is deleted.

        Returns:
            the ids of the parent runs: one, or none.

        Raises:
            SweepBusy: another process runs the sweep.
        """
        self.refuse_if_owned(identity)
        found = self._of_identity(identity)
        for run in found:
            run_id = run.info.run_id
            self.close_abandoned_runs(run_id)
            when = datetime.now(UTC).isoformat(timespec="seconds")
            self._experiment.log(run_id, {schema.IDENTITY: identity + SET_ASIDE, schema.SET_ASIDE: when})
            if run.info.status == "RUNNING":
                self._experiment.client.set_terminated(run_id, Outcome.INTERRUPTED.mlflow_status)
        return [run.info.run_id for run in found]

    def _of_identity(self, identity: str) -> list[Run]:
        runs = sweeps_of(self._experiment.client, self._experiment.id)
        return [run for run in runs if run.data.tags.get(schema.IDENTITY) == identity]

    @wrap_errors()
    def close(self, parent: str, outcome: Outcome, reason: str = "") -> None:
        """End the parent run: outcome, reason and status."""
        log_traceback(self._experiment, parent, reason)
        self._experiment.log(parent, outcome_tags(outcome, reason))
        self._experiment.client.set_terminated(parent, outcome.mlflow_status)

    @wrap_errors()
    def close_abandoned_runs(self, parent: str, outcomes: Mapping[str, Outcome] | None = None) -> int:
        """Close a sweep's child runs that a dead process left RUNNING.

        Args:
            parent: the sweep.
            outcomes: run key → outcome, where it is known; the other runs were interrupted.

        Returns:
            how many were closed.
        """
        runs = trials_of(self._experiment.client, self._experiment.id, parent)
        abandoned = [run for run in runs if run.info.status == "RUNNING" and run.info.run_id not in self._own_runs]
        for run in abandoned:
            self._close_abandoned(run, (outcomes or {}).get(run.data.tags.get(schema.KEY, "")))
        return len(abandoned)

    def _close_abandoned(self, run: Run, outcome: Outcome | None) -> None:
        client, run_id = self._experiment.client, run.info.run_id
        reason = "" if outcome else NOT_CLOSED
        outcome = outcome or Outcome.INTERRUPTED
        self._experiment.log(run_id, {schema.OUTCOME: str(outcome), schema.REASON: reason})
        # Its last point is the best estimate of when it ended; it was found only now.
        last = max((point.timestamp for point in history(client, run, metrics.TOKENS)), default=None)
        client.set_terminated(run_id, outcome.mlflow_status, end_time=last)
