"""The `Tracker`: the one thing that writes sweeps and trials into MLflow.

It passes run ids along and has no active run, which MLflow keeps per thread.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness import metrics
from harness.config import digest_of
from harness.metrics import Point
from harness.outcomes import Outcome, Phase
from harness.tracking import provenance, record
from harness.tracking.lease import holder_of
from harness.tracking.reader import stored_plans
from harness.tracking.record import Confirmed, PlanChange, Sample, SweepInfo, Trial, TrialInfo
from harness.tracking.store import (
    SweepBusy,
    TrackingError,
    connect,
    default_tracking_uri,
    explained,
    history,
    search_runs,
    sqlite_file,
    sweeps_of,
    trials_of,
)

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Run

_SLUG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_WAITING_METRICS: Final = 500
_WAITING_SECONDS: Final = 2.0
_DATASET_NAME: Final = 500  # characters
_DATASET_DIGEST: Final = 36  # characters


@dataclass
class _LiveRun:
    """A child run that this process writes: what waits to be sent, and what its last page needs."""

    name: str
    prompt: str
    waiting: list[Metric] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    by_position: tuple[float, ...] = ()
    seconds: float | None = None
    non_finite: set[str] = field(default_factory=set)
    stored: set[tuple[str, int]] = field(default_factory=set)  # names and steps that an earlier process has sent
    doubtful: bool = False  # whether the last sending failed, so that nobody knows what of it was stored


class Tracker:
    """Writes one experiment; for one thread of one process.

    Args:
        experiment: the experiment's name, a slug; created where it is missing.
        uri: MLflow's tracking address, by default `default_tracking_uri()`. A SQLite file is created where it is
            missing, with artifacts in the folder `artifacts` beside it; a server decides itself where they go.

    Raises:
        TrackingError: the store cannot be used. Every method raises it where the store refuses or does not answer.
    """

    def __init__(self, experiment: str, uri: str | None = None) -> None:
        assert _SLUG.fullmatch(experiment), f"an experiment's name is a slug, found {experiment!r}"
        self.experiment = experiment
        self.uri = uri or default_tracking_uri()
        self._client = connect(self.uri, create=True)
        self._experiment_id = self._open_experiment()
        self._sweeps: dict[str, SweepInfo] = {}  # by parent run
        self._shared: dict[str, str] = {}  # tags of all runs that this process writes
        self._live: dict[str, _LiveRun] = {}  # by run
        self._flushed = time.monotonic()
        self.other_sweeps = 0  # of the same name but another identity, known once a sweep is opened anew

    @explained()
    def _open_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return str(
                    self._client.create_experiment(
                        self.experiment, self._artifact_location(), tags={record.EXPERIMENT_KIND: record.MODEL_TRAINING}
                    )
                )
            except MlflowException:  # another sweep was quicker, or the store refuses
                found = self._client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"found the experiment {self.experiment!r} deleted; give the sweep another name or restore it: "
                f"python -m mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        return str(found.experiment_id)

    def _artifact_location(self) -> str | None:
        file = sqlite_file(self.uri)
        return (file.parent / "artifacts").as_uri() if file else None

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
        tags = _clip({**self._shared, **record.sweep_tags(info), record.OPENED: str(_now())})
        if known is None:
            self.other_sweeps = len(sweeps_of(self._client, self._experiment_id))
            run = self._client.create_run(self._experiment_id, tags=tags, run_name=info.name)
            parent = str(run.info.run_id)
            self._keep_plan(run, info.plan)
            self._client.log_inputs(parent, datasets=[_dataset_input(info.data)])
        else:
            parent = str(known.info.run_id)
            for ended in known.data.tags.keys() & {record.OUTCOME, record.REASON}:
                self._client.delete_tag(parent, ended)
            self._send(parent, None, tags)
            self._client.update_run(parent, status="RUNNING")
            self._keep_plan(known, info.plan)
        self._sweeps[parent] = info
        self.beat(parent)
        self._put(parent, {record.SWEEP_FILE: record.describe(info), record.SPEC_FILE: info.spec_text})
        if code.dirty:
            self._put(parent, {record.PATCH_FILE: code.patch})
        return parent

    def _keep_plan(self, run: Run, plan: Mapping[str, Any]) -> None:
        """Store a plan that no trial came before, or note in what a later one differs from the latest one known."""
        if not plan:
            return
        parent = str(run.info.run_id)
        first, changes = stored_plans(self._client, run)
        trials = trials_of(self._client, self._experiment_id, parent)
        if not (first or trials):  # new, or its process died before it could store one
            self._send(parent, None, {record.PLAN_SHA256: digest_of(plan)})
            self._put(parent, {record.PLAN_FILE: json.dumps(plan, ensure_ascii=False, indent=2)})
        elif digest_of(plan) != digest_of(changes[-1].plan if changes else first):
            change = PlanChange(datetime.now(UTC), sum(map(_was_confirmed, trials)), plan)
            self._put(parent, {record.PLAN_CHANGES_FILE: record.describe_changes([*changes, change])})

    def _known_sweep(self, identity: str) -> Run | None:
        known = None
        for run in sweeps_of(self._client, self._experiment_id):
            if run.data.tags.get(record.IDENTITY) == identity:
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
        owner = self._client.get_run(parent).data.tags.get(record.PROCESS)
        if owner not in (None, provenance.process_name()):
            return owner
        self._send(parent, None, {record.BEAT: str(_now())})
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
            tags = {record.IDENTITY: f"{identity} (set aside)", record.SET_ASIDE: when}
            self._send(run.info.run_id, None, tags)
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
        from mlflow.entities import Param

        data = info.data or self._sweeps[parent].data
        tags = {**self._shared, **record.data_tags(data), **record.trial_tags(parent, info)} | (
            {record.KEY: key} if key else {}
        )
        known = self._by_key(key) if again else None
        if known is None:
            name = record.clipped(info.name, record.NAME_LIMIT)
            known = self._client.create_run(self._experiment_id, tags=_clip(tags), run_name=name)
            run_id = str(known.info.run_id)
        else:
            run_id = str(known.info.run_id)
            self._reopen(known, tags)
        live = _LiveRun(info.name, info.config.train.sample.prompt, stored=self._stored(known))
        params = [Param(name, value) for name, value in record.trial_params(info.config).items()]
        self._client.log_batch(run_id, params=params)
        if not (known.inputs and known.inputs.dataset_inputs):
            self._client.log_inputs(run_id, datasets=[_dataset_input(data)])
        self._live[run_id] = live
        return run_id

    def _by_key(self, key: str) -> Run | None:
        runs = search_runs(self._client, [self._experiment_id], f"tags.`{record.KEY}` = '{key}'")
        return runs[0] if runs else None

    def _reopen(self, run: Run, tags: Mapping[str, str]) -> None:
        """Let a run that was closed, or left open, be a running one of this process."""
        run_id = run.info.run_id
        for ended in run.data.tags.keys() & {record.OUTCOME, record.REASON}:
            self._client.delete_tag(run_id, ended)
        self._send(run_id, None, tags)
        if run.info.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")

    def _stored(self, run: Run) -> set[tuple[str, int]]:
        """Names and steps of all that a run has."""
        run_id = run.info.run_id
        return {
            (name, point.step) for name in run.data.metrics for point in self._client.get_metric_history(run_id, name)
        }

    def log_point(self, run_id: str, point: Point, at: int | None = None) -> None:
        """Take a point of a live run; it is sent with a later one, within seconds, or when the run ends.

        A NaN or infinite value is not stored, as MLflow would show it as 0 or 1.8e308: a tag names the metric.

        Args:
            run_id: of the run.
            point: of its curves.
            at: when it was measured, in milliseconds since 1970; by default now.
        """
        from mlflow.entities import Metric

        live, now = self._live[run_id], at or _now()
        for name, value in {**point.metrics, metrics.TOKENS: float(point.tokens)}.items():
            if not math.isfinite(value):
                live.non_finite.add(name)
            elif (name, point.step) not in live.stored:
                live.waiting.append(Metric(name, float(value), now, point.step))
        if point.sample is not None:
            live.samples.append(Sample(point.step, point.tokens, point.sample))
        live.by_position = point.by_position or live.by_position
        live.seconds = point.seconds
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Send what waits if it is much, or if the last sending is some seconds ago; for a caller that is idle."""
        waiting = sum(len(run.waiting) for run in self._live.values())
        if waiting >= _WAITING_METRICS or (waiting and time.monotonic() - self._flushed >= _WAITING_SECONDS):
            self.flush()

    def flush(self) -> None:
        """Send what waits, of every live run."""
        for run_id, live in self._live.items():
            self._send(run_id, live, {})
        self._flushed = time.monotonic()

    @explained()
    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Store a file, or everything inside a folder, in the run's artifact folder `folder` (None: the top)."""
        if path.is_dir():
            self._client.log_artifacts(run_id, str(path), folder)
        else:
            self._client.log_artifact(run_id, str(path), folder)

    @explained()
    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Store `text` as the artifact `path`, such as "notes/a.md", in UTF-8."""
        self._put(run_id, {path: text})

    def tag(self, run_id: str, tags: Mapping[str, str] | None = None, **named: str) -> None:
        """Set tags by their names after `harness.`: `tag(run, device="cpu")`. MLflow's own names stay as they are."""
        given = {**(tags or {}), **named}
        own = (record.PREFIX, "mlflow.")
        full = {key if key.startswith(own) else record.PREFIX + key: str(text) for key, text in given.items()}
        self._send(run_id, None, full)

    @explained()
    def end_trial(self, run_id: str, outcome: Outcome, reason: str = "", at: int | None = None) -> None:
        """End a live run: what waits, its samples, outcome, reason and status.

        A reason of several lines, such as a traceback, is stored whole as an artifact; the tag has its main line.

        Args:
            run_id: of the run.
            outcome, reason: how it ended.
            at: when, in milliseconds since 1970; by default now.
        """
        live = self._live[run_id]
        if live.samples:
            page = record.samples_page(live.name, live.prompt, live.samples)
            plain = json.dumps([sample._asdict() for sample in live.samples], indent=2)
            self._put(run_id, {record.SAMPLES_FILE: plain, record.SAMPLES_PAGE: page})
        if live.by_position:
            self._put(run_id, {record.POSITIONS_FILE: json.dumps(live.by_position)})
        self._end(run_id, live, outcome, reason, at)
        del self._live[run_id]

    @explained()
    def close_sweep(self, parent: str, outcome: Outcome, reason: str = "") -> None:
        """End the parent run: outcome, reason and status."""
        self._end(parent, None, outcome, reason)

    @explained()
    def confirmed(self, parent: str) -> list[Confirmed]:
        """The sweep's confirm runs that came to a result, oldest first: what need not be trained again.

        To diverge is a result: the same configuration would diverge again.
        """
        found = []
        for run in trials_of(self._client, self._experiment_id, parent):
            tags = run.data.tags
            outcome = Outcome(tags.get(record.OUTCOME, Outcome.INTERRUPTED))
            if outcome.is_result and tags.get(record.PHASE) == Phase.CONFIRM:
                seed, digest = int(tags[record.SEED]), tags[record.CONFIG_SHA256]
                validation = {name: value for name, value in run.data.metrics.items() if name.startswith("val/")}
                found.append(Confirmed(tags[record.ARM], seed, digest, run.info.run_id, outcome, validation))
        return found

    @explained()
    def interrupted(self, parent: str) -> dict[tuple[str, str], str]:
        """Configuration's digest and phase → key of the sweep's runs that can be gone on with."""
        runs = trials_of(self._client, self._experiment_id, parent)
        left = (run.data.tags for run in runs if run.data.tags.get(record.OUTCOME) == Outcome.INTERRUPTED)
        return {(one[record.CONFIG_SHA256], one[record.PHASE]): one[record.KEY] for one in left if one.get(record.KEY)}

    @explained()
    def trials(self, parent: str, losses: bool) -> list[Trial]:
        """The sweep's runs that belong to a study of Optuna's, oldest first; reading their `losses` takes its time."""
        runs = trials_of(self._client, self._experiment_id, parent)
        searched = (run for run in runs if record.TRIAL_NUMBER in run.data.tags)
        return [_trial(run, self._losses(run) if losses else {}) for run in searched]

    def _losses(self, run: Run) -> dict[int, float]:
        """Training tokens → validation loss."""
        tokens = {point.step: int(point.value) for point in history(self._client, run, metrics.TOKENS)}
        return {tokens[it.step]: it.value for it in history(self._client, run, metrics.VAL_LOSS) if it.step in tokens}

    @explained()
    def close_left(self, parent: str, ends: Mapping[str, Outcome] | None = None) -> int:
        """Close the sweep's children that a dead process left RUNNING; gives how many that were.

        Args:
            parent: the sweep.
            ends: key → how a run ended, where it is known; the others were interrupted.
        """
        left = [one for one in trials_of(self._client, self._experiment_id, parent) if one.info.status == "RUNNING"]
        for run in (left := [run for run in left if run.info.run_id not in self._live]):
            self._end_left(run, (ends or {}).get(run.data.tags.get(record.KEY, "")))
        return len(left)

    def _end_left(self, run: Run, outcome: Outcome | None) -> None:
        reason = "" if outcome else "its process ended without closing it"
        outcome = outcome or Outcome.INTERRUPTED
        self._send(run.info.run_id, None, {record.OUTCOME: str(outcome), record.REASON: reason})
        # It ended with its last point, as far as we can know, not when it was found.
        last = max((point.timestamp for point in history(self._client, run, metrics.TOKENS)), default=None)
        self._client.set_terminated(run.info.run_id, outcome.mlflow_status, end_time=last)

    def _end(self, run_id: str, live: _LiveRun | None, outcome: Outcome, reason: str, at: int | None = None) -> None:
        tags = {record.OUTCOME: str(outcome)}
        if live is not None and live.seconds is not None:
            tags[record.SECONDS] = f"{live.seconds:.3f}"
        if reason.strip():
            tags[record.REASON] = record.summary(reason)
        if "\n" in reason.strip():
            self._put(run_id, {record.TRACEBACK_FILE: reason})
        self._send(run_id, live, tags)
        self._client.set_terminated(run_id, outcome.mlflow_status, end_time=at)

    @explained()
    def _send(self, run_id: str, live: _LiveRun | None, tags: Mapping[str, str]) -> None:
        """Store tags and waiting metrics. A metric leaves the queue only once it is stored."""
        from mlflow.entities import RunTag

        if live is not None and live.doubtful:
            live.stored |= self._stored(self._client.get_run(run_id))
            live.waiting = [metric for metric in live.waiting if (metric.key, metric.step) not in live.stored]
        waiting = live.waiting if live else []
        named = {record.NON_FINITE: ", ".join(sorted(live.non_finite))} if live and live.non_finite else {}
        run_tags = [RunTag(key, value) for key, value in _clip({**named, **tags}).items()]
        if live is not None:
            live.doubtful = True
        self._client.log_batch(run_id, metrics=waiting, tags=run_tags)  # MLflow cuts what is too much for one request
        waiting.clear()
        if live is not None:
            live.doubtful = False

    def _put(self, run_id: str, files: Mapping[str, str | bytes]) -> None:
        """Store contents under their artifact paths. (MLflow's own `log_text` writes in the locale's encoding.)"""
        with tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                file = Path(folder, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
            self._client.log_artifacts(run_id, folder)


def _was_confirmed(run: Run) -> bool:
    """Whether a run gave a result that may have been seen, also where a later one has taken its place."""
    tags = run.data.tags
    return tags.get(record.OUTCOME) == Outcome.COMPLETE and tags.get(record.PHASE) in (Phase.CONFIRM, Phase.SUPERSEDED)


def _identity(run: Run) -> str | None:
    return run.data.tags.get(record.IDENTITY)


def _trial(run: Run, losses: Mapping[int, float]) -> Trial:
    tags = run.data.tags
    return Trial(
        key=tags.get(record.KEY, ""),
        study=tags.get(record.STUDY, ""),
        number=int(tags[record.TRIAL_NUMBER]),
        params={name: record.decode_param(value) for name, value in run.data.params.items()},
        outcome=Outcome(tags.get(record.OUTCOME, Outcome.INTERRUPTED)),
        reason=tags.get(record.REASON, ""),
        losses=losses,
    )


def _now() -> int:
    """Milliseconds since 1970, MLflow's unit of time."""
    return time.time_ns() // 1_000_000


def _shared_tags(code: provenance.CodeVersion, command: str) -> dict[str, str]:
    tags = {
        record.PROCESS: provenance.process_name(),
        record.COMMIT: code.commit,
        record.DIRTY: str(code.dirty).lower(),
        record.USER: provenance.user(),
        record.SOURCE_NAME: command,
        record.SOURCE_TYPE: "LOCAL",
    }
    if code.commit != provenance.UNKNOWN:
        tags[record.SOURCE_COMMIT] = code.commit
    return tags | {record.VERSION_PREFIX + name: found for name, found in provenance.versions().items()}


def _clip(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: record.clipped(value, record.TAG_LIMIT) for name, value in tags.items()}


def _dataset_input(data: Mapping[str, Any]) -> DatasetInput:
    """The run's text as a data set of MLflow's, with sizes as its profile."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = str(data["source"])
    kind, key = ("http", "url") if source.startswith(("http://", "https://")) else ("local", "uri")
    profile = {name: value for name, value in data.items() if name not in ("name", "source")}
    dataset = Dataset(
        name=record.clipped(str(data["name"]), _DATASET_NAME),
        digest=str(data["fingerprint"])[:_DATASET_DIGEST],
        source_type=kind,
        source=json.dumps({key: source}),
        profile=json.dumps(profile, default=dict),
    )
    return DatasetInput(dataset, tags=[InputTag(record.DATASET_CONTEXT, "training")])
