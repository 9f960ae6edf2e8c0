"""Writes a sweep's parent run: opens or resumes it, keeps its heartbeat, stores its report, closes it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.config.fingerprint import SET_ASIDE
from harness.config.labels import ArmLabels, arm_labels
from harness.core import metrics
from harness.core.database_servers import one_at_a_time
from harness.core.energy import Energy, added
from harness.core.outcomes import Outcome
from harness.core.text import listed, printable
from harness.tracking import provenance, schema
from harness.tracking.artifacts import with_patch_line
from harness.tracking.checksums import altered, with_checksums
from harness.tracking.ownership import advice, heartbeat_of, named_owner, owner_of, sweep_of
from harness.tracking.queries import history, refuse_unreadable, sweeps_of, trials_of
from harness.tracking.records import ArmResult, SweepInfo
from harness.tracking.schema import milliseconds
from harness.tracking.store import ServerError, SweepBusy, unrepeated_requests, wrap_errors
from harness.tracking.writing import views
from harness.tracking.writing.descriptions import description_tags, experiment_description, sweep_description
from harness.tracking.writing.experiment import Experiment, clipped_tags
from harness.tracking.writing.plans import store_plan
from harness.tracking.writing.results import result_metrics, verdict_tags
from harness.tracking.writing.runs import RunWriter, dataset_input, log_traceback, outcome_tags

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

_CREATE_ATTEMPTS: Final = 3
NOT_CLOSED = "its process ended without closing it"


class SweepWriter:
    """Writes the parent runs of one experiment; for one thread of one process.

    Args:
        experiment: where they are.
        runs: writes the child runs of this process; they are not closed as abandoned.

    Attributes:
        earlier_sweep: when a new sweep is created, the last parent run with another identity; else empty.
        left_out: sentences about sweeps of the experiment that cannot be read.
    """

    def __init__(self, experiment: Experiment, runs: RunWriter) -> None:
        self._experiment, self._runs = experiment, runs
        self._infos: dict[str, SweepInfo] = {}  # by parent run
        self._labels: dict[str, ArmLabels] = {}  # by parent run
        self._starts: dict[str, int] = {}  # by parent run, in milliseconds since 1970
        self._opened: dict[str, str] = {}  # parent run id → the value of the tag `OPENED` that this process set
        self.earlier_sweep = ""
        self.left_out: list[str] = []

    def info(self, parent: str) -> SweepInfo:
        """A sweep that was opened here."""
        return self._infos[parent]

    def label(self, parent: str, arm: str) -> str:
        """The tag `LABEL` of the runs of an arm."""
        return self._labels[parent].numbered.get(arm, arm)

    @wrap_errors()
    def begin(self, info: SweepInfo, shared_tags: Mapping[str, str]) -> str:
        """Create a sweep's parent run, or resume the one of the same identity; see `Tracker.begin_sweep`.

        Args:
            info: the sweep.
            shared_tags: of all runs that this process writes.

        Returns:
            the parent run's id.
        """
        with one_at_a_time(str(self._experiment.client.tracking_uri), f"open the sweep {info.identity}"):
            return self._begin(info, shared_tags)

    def _begin(self, info: SweepInfo, shared_tags: Mapping[str, str]) -> str:
        experiment, client = self._experiment, self._experiment.client
        assert info.name == experiment.name, f"sweep {info.name!r} in experiment {experiment.name!r}"
        self.refuse_if_owned(info.identity)
        self.left_out.clear()
        run = self._find(info.identity)
        now = str(milliseconds())
        opened = {schema.OPENED: now, schema.HEARTBEAT: now}
        tags = clipped_tags({**shared_tags, **schema.sweep_tags(info), **opened})
        if run is None:
            earlier = sweeps_of(client, experiment.id)
            self.earlier_sweep = earlier[-1].info.run_id if earlier else ""
            refuse_unreadable(client, experiment.id, info.identity)
            run = self._create(info, with_checksums({**tags, schema.LABELS: "true"}))
            parent = str(run.info.run_id)
        else:
            parent = str(run.info.run_id)
            client.update_run(parent, status="RUNNING")  # first, because its checksums include its outcome
            for name in run.data.tags.keys() & {schema.OUTCOME, schema.REASON}:
                client.delete_tag(parent, name)
            experiment.log(parent, tags)
        self._infos[parent], self._starts[parent] = info, run.info.start_time
        self._labels[parent] = arm_labels({arm.name: arm.values for arm in info.arms})
        self._opened[parent] = now
        return parent

    @wrap_errors()
    def describe(self, parent: str, code: provenance.CodeVersion) -> None:
        """Store the plan, the data set, the descriptions and the files of a sweep that `begin` has begun.

        Args:
            parent: the sweep.
            code: the code that runs it.
        """
        info, experiment = self._infos[parent], self._experiment
        run = experiment.client.get_run(parent)
        store_plan(experiment, run, info.plan)
        if not (run.inputs and run.inputs.dataset_inputs):
            experiment.client.log_inputs(parent, datasets=[dataset_input(info.data)])
        self._write_descriptions(parent)
        self.heartbeat(parent)
        described = {schema.SWEEP_FILE: schema.describe(info), schema.SPEC_FILE: info.spec_text}
        experiment.log_contents(parent, described, required=True)
        if code.dirty:
            experiment.log_contents(parent, {schema.PATCH_FILE: with_patch_line(code.patch)})
        experiment.check_uploads(parent)

    def _create(self, info: SweepInfo, tags: dict[str, str]) -> Run:
        """Create a parent run. If the answer is lost, the run may exist: it is looked for before another attempt."""
        for attempt in range(_CREATE_ATTEMPTS):
            try:
                with wrap_errors(), unrepeated_requests():
                    return self._experiment.client.create_run(self._experiment.id, tags=tags, run_name=info.name)
            except ServerError as error:
                if error.failure.final or attempt == _CREATE_ATTEMPTS - 1:
                    raise
                created = self._find(info.identity)
                if created is not None:
                    return created
        raise AssertionError

    @wrap_errors()
    def add_energy(self, parent: str, used: Energy) -> None:
        """Add what the machine used while this process ran to the energy of a sweep; nothing if it is not known."""
        if used:
            tags = self._experiment.client.get_run(parent).data.tags
            total = added(schema.parse_energy(tags.get(schema.ENERGY, "")), used)
            self._experiment.log(parent, {schema.ENERGY: json.dumps(total)})

    @wrap_errors()
    def store_report(
        self, parent: str, answer: str, report: Path, files: Sequence[Path], results: Sequence[ArmResult]
    ) -> None:
        """Store a sweep's report among its artifacts, and its answer in tags, metrics and descriptions.

        Args:
            parent: the sweep.
            answer: the verdict in words.
            report: the report's folder.
            files: what the report consists of. The folder may have other files, of the user's own.
            results: of the arms, in the order of the spec.
        """
        for file in files:
            place = Path(schema.REPORT_FOLDER, file.relative_to(report).parent)
            self._experiment.log_artifact(parent, file, place.as_posix())
        self._experiment.check_uploads(parent)
        text = "; ".join(f"{one.arm}: {one.verdict}" for one in results if one.verdict)
        tags = {schema.VERDICT: text or "none", schema.ANSWER: answer, schema.REPORT: str(report)}
        self._experiment.log(parent, tags | verdict_tags(results), result_metrics(results, milliseconds()))
        self._write_descriptions(parent)

    def _write_descriptions(self, parent: str) -> None:
        """Write the descriptions of a sweep and of its experiment, and the views of MLflow's UI."""
        info, experiment = self._infos[parent], self._experiment
        tags = experiment.client.get_run(parent).data.tags
        answer = tags.get(schema.ANSWER, "")
        text = sweep_description(info, experiment.id, parent, answer, tags.get(schema.REPORT, ""))
        experiment.log(parent, description_tags(text, tags))
        stored = experiment.client.get_experiment(experiment.id).tags
        text = experiment_description(info, experiment.id, parent, answer)
        by = schema.LABEL if schema.LABELS in tags else schema.ARM
        new = description_tags(text, stored) | views.view_tags(info, parent, stored, milliseconds(), by)
        for name, value in new.items():
            if stored.get(name) != value:
                experiment.client.set_experiment_tag(experiment.id, name, value)

    def _find(self, identity: str) -> Run | None:
        """The parent run of an identity. Other sweeps whose process has died are closed as interrupted."""
        runs = sweeps_of(self._experiment.client, self._experiment.id, self.left_out.append)
        known = sweep_of(runs, identity)
        for run in runs:
            if run.data.tags.get(schema.IDENTITY) != identity:
                if run.info.status == "RUNNING" and owner_of(run) is None:
                    self._close_abandoned_sweep(run)
            elif known is not None and run is not known:
                logger.warning(
                    f"found two sweeps of this spec, data and code in MLflow: {known.info.run_id}, which is resumed "
                    f"because it began first, and {run.info.run_id}, which is left as it is"
                )
        return known

    @wrap_errors()
    def refuse_if_owned(self, identity: str) -> None:
        """Raise `SweepBusy` if another process runs the sweep of this identity."""
        for run in self._of_identity(identity):
            if owner := owner_of(run):
                name = self._experiment.name
                raise SweepBusy(f"{name} is already being run by {named_owner(run, owner)}; {advice(owner)}")

    @wrap_errors()
    def take_over(self, identity: str) -> str:
        """Make this process the owner of the sweep of this identity; the earlier owner stops at its next heartbeat.

        Returns:
            the earlier owner and its last heartbeat; empty if no process owned the sweep.
        """
        owners = []
        for run in self._of_identity(identity):
            if owner := owner_of(run):
                owners.append(named_owner(run, owner))
                now = str(milliseconds())
                tags = {schema.PROCESS: provenance.process_name(), schema.OPENED: now, schema.HEARTBEAT: now}
                self._experiment.log(run.info.run_id, tags)
        return listed(owners) if owners else ""

    @wrap_errors()
    def heartbeat(self, parent: str) -> str | None:
        """Tell other machines that this process still runs the sweep; to be called about once a minute.

        A process that takes a sweep over also stores when it opened it. If only the name of the owner was edited, this
        process stays the owner and corrects the name.

        Returns:
            the process that has taken the sweep over; None if this process still owns it.
        """
        run = self._experiment.client.get_run(parent)
        owner, own = run.data.tags.get(schema.PROCESS), provenance.process_name()
        tags = {schema.HEARTBEAT: str(milliseconds())}
        if owner not in (None, own):
            named = printable(str(owner))
            if run.data.tags.get(schema.OPENED) != self._opened.get(parent) and not altered(run):
                return named
            logger.warning(f"the tag {schema.PROCESS} of the sweep was edited to {named}; this process keeps the sweep")
            tags |= {schema.PROCESS: own} | ({schema.OPENED: self._opened[parent]} if parent in self._opened else {})
        self._experiment.log(parent, tags)
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
            self._close_abandoned_sweep(run)
            when = datetime.now(UTC).isoformat(timespec="seconds")
            self._experiment.log(run_id, {schema.IDENTITY: identity + SET_ASIDE, schema.SET_ASIDE: when})
        return [run.info.run_id for run in found]

    def _of_identity(self, identity: str) -> list[Run]:
        runs = sweeps_of(self._experiment.client, self._experiment.id)
        return [run for run in runs if run.data.tags.get(schema.IDENTITY) == identity]

    @wrap_errors()
    def close(self, parent: str, outcome: Outcome, reason: str = "") -> None:
        """End the parent run: outcome, reason and status. It ends no earlier than it started and its child runs end."""
        log_traceback(self._experiment, parent, reason)
        self._experiment.log(parent, outcome_tags(outcome, reason))
        end = max(milliseconds(), self._starts.get(parent, 0), self._runs.latest)
        self._experiment.client.set_terminated(parent, outcome.mlflow_status, end_time=end)

    @wrap_errors()
    def close_abandoned_runs(self, parent: str, outcomes: Mapping[str, Outcome] | None = None) -> int:
        """Close a sweep's child runs that a dead process left RUNNING.

        Args:
            parent: the sweep.
            outcomes: run key → outcome, where it is known; the other runs were interrupted.

        Returns:
            how many were closed.
        """
        runs = trials_of(self._experiment.client, self._experiment.id, parent, "attributes.status = 'RUNNING'")
        abandoned = [run for run in runs if run.info.run_id not in self._runs.open_runs]
        for run in abandoned:
            # Its last point is the best estimate of when it ended; it was found only now.
            last = max((point.timestamp for point in history(self._experiment.client, run, metrics.TOKENS)), default=0)
            outcome = (outcomes or {}).get(run.data.tags.get(schema.KEY, ""))
            self._close_abandoned(run, outcome, min(last, milliseconds()))
        return len(abandoned)

    def _close_abandoned_sweep(self, run: Run) -> None:
        """Close the child runs of a sweep that a dead process left RUNNING, and its parent run."""
        parent = run.info.run_id
        self.close_abandoned_runs(parent)
        if run.info.status != "RUNNING":
            return
        ends = [child.info.end_time or 0 for child in trials_of(self._experiment.client, self._experiment.id, parent)]
        self._close_abandoned(run, None, max(heartbeat_of(run), *ends, 0))

    def _close_abandoned(self, run: Run, outcome: Outcome | None, last: int) -> None:
        """Close a run that a dead process left RUNNING; `last`: when something happened in it, in ms since 1970."""
        reason = "" if outcome else NOT_CLOSED
        outcome = outcome or Outcome.INTERRUPTED
        self._experiment.log(run.info.run_id, {schema.OUTCOME: str(outcome), schema.REASON: reason})
        end = max(last, run.info.start_time or 0)
        self._experiment.client.set_terminated(run.info.run_id, outcome.mlflow_status, end_time=end)
