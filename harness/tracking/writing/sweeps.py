"""The `Tracker`: the one thing that writes sweeps and trials into MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config.fingerprint import SET_ASIDE, digest_of
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase
from harness.tracking import provenance, schema
from harness.tracking.artifacts import stored_plans
from harness.tracking.ownership import holder_of
from harness.tracking.records import Confirmed, PlanChange, SweepInfo, Trial, TrialInfo
from harness.tracking.store import SweepBusy, explained, history, sweeps_of, trials_of
from harness.tracking.writing import descriptions as notes
from harness.tracking.writing import views
from harness.tracking.writing.experiment import clipped_tags
from harness.tracking.writing.runs import RunWriter, dataset_input, milliseconds

if TYPE_CHECKING:
    from mlflow.entities import Run


class Tracker(RunWriter):
    """Writes the sweeps of one experiment, and what they know of their runs; for one thread of one process.

    Args:
        experiment, uri: see `Experiment`.
    """

    def __init__(self, experiment: str, uri: str | None = None) -> None:
        super().__init__(experiment, uri)
        self._sweeps: dict[str, SweepInfo] = {}  # by parent run
        self.earlier_sweep = ""  # parent run of the last one with another identity, set when a sweep is opened anew

    @explained()
    def open_sweep(self, info: SweepInfo) -> str:
        """Start a sweep, or go on with the one of the same identity; gives its parent run.

        The analysis plan is stored before the first trial and never changed; another plan later on is added to it.
        Other sweeps of the experiment whose process is gone are closed as interrupted.
        """
        assert info.name == self.experiment, f"sweep {info.name!r} in experiment {self.experiment!r}"
        code = provenance.code_version()
        self._shared = _shared_tags(code, info.command)
        self.refuse_if_held(info.identity)
        known = self._known_sweep(info.identity)
        tags = clipped_tags({**self._shared, **schema.sweep_tags(info), schema.OPENED: str(milliseconds())})
        if known is None:
            earlier = sweeps_of(self._client, self._experiment_id)
            self.earlier_sweep = earlier[-1].info.run_id if earlier else ""
            run = self._client.create_run(self._experiment_id, tags=tags, run_name=info.name)
            parent = str(run.info.run_id)
            self._keep_plan(run, info.plan)
            self._client.log_inputs(parent, datasets=[dataset_input(info.data)])
        else:
            parent = str(known.info.run_id)
            for ended in known.data.tags.keys() & {schema.OUTCOME, schema.REASON}:
                self._client.delete_tag(parent, ended)
            self._send(parent, tags)
            self._client.update_run(parent, status="RUNNING")
            self._keep_plan(known, info.plan)
        self._sweeps[parent] = info
        self._describe(parent)
        self.beat(parent)
        self._put(parent, {schema.SWEEP_FILE: schema.describe(info), schema.SPEC_FILE: info.spec_text})
        if code.dirty:
            self._put(parent, {schema.PATCH_FILE: code.patch})
        return parent

    @explained()
    def conclude(self, parent: str, answer: str, report: Path, verdicts: Mapping[str, str]) -> None:
        """Put a sweep's answer on its page, and its report among its artifacts.

        Args:
            parent: the sweep.
            answer: the verdict in words.
            report: the report's folder.
            verdicts: arm → verdict, of the arms that have one; a tag, by which sweeps are found.
        """
        self.log_artifact(parent, report, schema.REPORT_FOLDER)
        found = "; ".join(f"{arm}: {verdict}" for arm, verdict in verdicts.items())
        self._send(parent, {schema.VERDICT: found or "none", schema.ANSWER: answer, schema.REPORT: str(report)})
        self._describe(parent)

    def _describe(self, parent: str) -> None:
        """Write what the pages of a sweep and of its experiment say, and the views they offer."""
        info, client = self._sweeps[parent], self._client
        tags = client.get_run(parent).data.tags
        answer = tags.get(schema.ANSWER, "")
        note = notes.sweep_note(info, self._experiment_id, parent, answer, tags.get(schema.REPORT, ""))
        self._send(parent, notes.note_tags(note, tags))
        stored = client.get_experiment(self._experiment_id).tags
        texts = notes.note_tags(notes.experiment_note(info, self._experiment_id, parent, answer), stored)
        texts |= views.view_tags(info, parent, stored, milliseconds())
        for name, value in texts.items():
            if stored.get(name) != value:
                client.set_experiment_tag(self._experiment_id, name, value)

    def _keep_plan(self, run: Run, plan: Mapping[str, Any]) -> None:
        """Store a plan that no trial came before, or note in what a later one differs from the latest one known."""
        if not plan:
            return
        parent = str(run.info.run_id)
        first, changes = stored_plans(self._client, run)
        trials = trials_of(self._client, self._experiment_id, parent)
        if not (first or trials):  # new, or its process died before it could store one
            self._send(parent, {schema.PLAN_SHA256: digest_of(plan)})
            self._put(parent, {schema.PLAN_FILE: json.dumps(plan, ensure_ascii=False, indent=2)})
        elif digest_of(plan) != digest_of(changes[-1].plan if changes else first):
            change = PlanChange(datetime.now(UTC), sum(map(_was_confirmed, trials)), plan)
            self._put(parent, {schema.PLAN_CHANGES_FILE: schema.describe_changes([*changes, change])})

    def _known_sweep(self, identity: str) -> Run | None:
        known = None
        for run in sweeps_of(self._client, self._experiment_id):
            if run.data.tags.get(schema.IDENTITY) == identity:
                known = run
            elif run.info.status == "RUNNING" and holder_of(run) is None:
                self.close_left(run.info.run_id)
                self._end_left(run, None)
        return known

    @explained()
    def refuse_if_held(self, identity: str) -> None:
        """Raise `SweepBusy` if another process is at the sweep of this identity."""
        for run in sweeps_of(self._client, self._experiment_id):
            if _identity(run) == identity and (holder := holder_of(run)):
                raise SweepBusy(f"{self.experiment} is being run already, by process {holder}; wait for it or stop it")

    @explained()
    def beat(self, parent: str) -> str | None:
        """Say that this process is still at the sweep, for others on other machines; once a minute will do.

        Returns:
            the process that has taken the sweep over since then; None where it is still this one's.
        """
        owner = self._client.get_run(parent).data.tags.get(schema.PROCESS)
        if owner not in (None, provenance.process_name()):
            return owner
        self._send(parent, {schema.BEAT: str(milliseconds())})
        return None

    @explained()
    def set_aside(self, identity: str) -> list[str]:
        """Take a sweep's parent run out of the way, so that it begins anew; nothing is deleted. Gives its id.

        Raises:
            SweepBusy: another process is at it.
        """
        self.refuse_if_held(identity)
        found = [one for one in sweeps_of(self._client, self._experiment_id) if _identity(one) == identity]
        for run in found:
            self.close_left(run.info.run_id)
            when = datetime.now(UTC).isoformat(timespec="seconds")
            tags = {schema.IDENTITY: identity + SET_ASIDE, schema.SET_ASIDE: when}
            self._send(run.info.run_id, tags)
            if run.info.status == "RUNNING":
                self._client.set_terminated(run.info.run_id, Outcome.INTERRUPTED.mlflow_status)
        return [run.info.run_id for run in found]

    @explained()
    def start_trial(self, parent: str, info: TrialInfo, key: str = "", again: bool = False) -> str:
        """Start a child run of a sweep that this tracker opened: tags, parameters, data set; gives its id.

        Args:
            parent, info: what is trained, and for which sweep.
            key: by which the run is known from now on; "" where nobody will ask for it.
            again: whether a run of this key may be there; it is gone on with, and what it has is not stored twice.
        """
        data = info.data or self._sweeps[parent].data
        tags = {**self._shared, **schema.data_tags(data), **schema.trial_tags(parent, info)}
        if key:
            tags[schema.KEY] = key
        return self._open_run(info, tags, data, key, again)

    @explained()
    def close_sweep(self, parent: str, outcome: Outcome, reason: str = "") -> None:
        """End the parent run: outcome, reason and status."""
        self._end(parent, outcome, reason)

    @explained()
    def confirmed(self, parent: str) -> list[Confirmed]:
        """The sweep's confirm runs that came to a result, oldest first: what need not be trained again.

        To diverge is a result: the same configuration would diverge again.
        """
        found = []
        for run in trials_of(self._client, self._experiment_id, parent):
            tags = run.data.tags
            outcome = Outcome(tags.get(schema.OUTCOME, Outcome.INTERRUPTED))
            if outcome.is_result and tags.get(schema.PHASE) == Phase.CONFIRM:
                seed, digest = int(tags[schema.SEED]), tags[schema.CONFIG_SHA256]
                validation = {name: value for name, value in run.data.metrics.items() if name.startswith("val/")}
                found.append(Confirmed(tags[schema.ARM], seed, digest, run.info.run_id, outcome, validation))
        return found

    @explained()
    def interrupted(self, parent: str) -> dict[tuple[str, str], str]:
        """Configuration's digest and phase → key of the sweep's runs that can be gone on with."""
        runs = trials_of(self._client, self._experiment_id, parent)
        left = (run.data.tags for run in runs if run.data.tags.get(schema.OUTCOME) == Outcome.INTERRUPTED)
        return {(one[schema.CONFIG_SHA256], one[schema.PHASE]): one[schema.KEY] for one in left if one.get(schema.KEY)}

    @explained()
    def trials(self, parent: str, losses: bool) -> list[Trial]:
        """The sweep's runs that belong to a study of Optuna's, oldest first; reading their `losses` takes its time."""
        runs = trials_of(self._client, self._experiment_id, parent)
        searched = (run for run in runs if schema.TRIAL_NUMBER in run.data.tags)
        return [_trial(run, *(self._losses(run) if losses else ({}, {}))) for run in searched]

    def _losses(self, run: Run) -> tuple[dict[int, float], dict[int, float]]:
        """Training tokens → validation loss, of the whole split and as pruning goes by it."""
        tokens = {point.step: int(point.value) for point in history(self._client, run, metrics.TOKENS)}
        whole, sampled = (
            {tokens[it.step]: it.value for it in history(self._client, run, name) if it.step in tokens}
            for name in (metrics.VAL_LOSS, metrics.VAL_SAMPLE_LOSS)
        )
        return whole, sampled or whole

    @explained()
    def close_left(self, parent: str, ends: Mapping[str, Outcome] | None = None) -> int:
        """Close the sweep's children that a dead process left RUNNING; gives how many that were.

        Args:
            parent: the sweep.
            ends: key → how a run ended, where it is known; the others were interrupted.
        """
        left = [one for one in trials_of(self._client, self._experiment_id, parent) if one.info.status == "RUNNING"]
        for run in (left := [run for run in left if run.info.run_id not in self._live]):
            self._end_left(run, (ends or {}).get(run.data.tags.get(schema.KEY, "")))
        return len(left)

    def _end_left(self, run: Run, outcome: Outcome | None) -> None:
        reason = "" if outcome else "its process ended without closing it"
        outcome = outcome or Outcome.INTERRUPTED
        self._send(run.info.run_id, {schema.OUTCOME: str(outcome), schema.REASON: reason})
        # It ended with its last point, as far as we can know, not when it was found.
        last = max((point.timestamp for point in history(self._client, run, metrics.TOKENS)), default=None)
        self._client.set_terminated(run.info.run_id, outcome.mlflow_status, end_time=last)


def _was_confirmed(run: Run) -> bool:
    """Whether a run gave a result that may have been seen, also where a later one has taken its place."""
    tags = run.data.tags
    return tags.get(schema.OUTCOME) == Outcome.COMPLETE and tags.get(schema.PHASE) in (Phase.CONFIRM, Phase.SUPERSEDED)


def _identity(run: Run) -> str | None:
    return run.data.tags.get(schema.IDENTITY)


def _trial(run: Run, losses: Mapping[int, float], curve: Mapping[int, float]) -> Trial:
    tags = run.data.tags
    return Trial(
        key=tags.get(schema.KEY, ""),
        study=tags.get(schema.STUDY, ""),
        number=int(tags[schema.TRIAL_NUMBER]),
        params={name: schema.decode_param(value) for name, value in run.data.params.items()},
        outcome=Outcome(tags.get(schema.OUTCOME, Outcome.INTERRUPTED)),
        reason=tags.get(schema.REASON, ""),
        losses=losses,
        curve=curve,
    )


def _shared_tags(code: provenance.CodeVersion, command: str) -> dict[str, str]:
    tags = {
        schema.PROCESS: provenance.process_name(),
        schema.COMMIT: code.commit,
        schema.DIRTY: str(code.dirty).lower(),
        schema.USER: provenance.user(),
        schema.SOURCE_NAME: command,
        schema.SOURCE_TYPE: "LOCAL",
    }
    if code.commit != provenance.UNKNOWN:
        tags[schema.SOURCE_COMMIT] = code.commit
    return tags | {schema.VERSION_PREFIX + name: found for name, found in provenance.versions().items()}
