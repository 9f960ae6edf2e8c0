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
from harness.metrics import Outcome, Phase, Point
from harness.tracking import provenance, record
from harness.tracking.reader import stored_plans
from harness.tracking.record import Confirmed, PlanChange, Sample, SweepInfo, TrialInfo
from harness.tracking.store import (
    TrackingError,
    connect,
    default_tracking_uri,
    explained,
    history,
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
    non_finite: set[str] = field(default_factory=set)


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
            elif self._is_orphan(run):
                self.reconcile(run.info.run_id)
                self._end_orphan(run)
        return known

    @explained()
    def start_trial(self, parent: str, info: TrialInfo) -> str:
        """Start a child run of a sweep that this tracker opened: tags, parameters, data set; gives its id."""
        from mlflow.entities import Param

        data = info.data or self._sweeps[parent].data
        tags = {**self._shared, **record.data_tags(data), **record.trial_tags(parent, info)}
        name = record.clipped(info.name, record.NAME_LIMIT)
        run_id = str(self._client.create_run(self._experiment_id, tags=_clip(tags), run_name=name).info.run_id)
        params = [Param(key, value) for key, value in record.trial_params(info.config).items()]
        self._client.log_batch(run_id, params=params)
        self._client.log_inputs(run_id, datasets=[_dataset_input(data)])
        self._live[run_id] = _LiveRun(info.name, info.config.train.sample.prompt)
        return run_id

    def log_point(self, run_id: str, point: Point) -> None:
        """Take a point of a live run; it is sent with a later one, within seconds, or when the run ends.

        A NaN or infinite value is not stored, as MLflow would show it as 0 or 1.8e308: a tag names the metric.
        """
        from mlflow.entities import Metric

        live, now = self._live[run_id], _now()
        for name, value in {**point.metrics, metrics.TOKENS: float(point.tokens)}.items():
            if math.isfinite(value):
                live.waiting.append(Metric(name, float(value), now, point.step))
            else:
                live.non_finite.add(name)
        if point.sample is not None:
            live.samples.append(Sample(point.step, point.tokens, point.sample))
        live.by_position = point.by_position or live.by_position
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
    def end_trial(self, run_id: str, outcome: Outcome, reason: str = "") -> None:
        """End a live run: what waits, its samples, outcome, reason and status.

        A reason of several lines, such as a traceback, is stored whole as an artifact; the tag has its main line.
        """
        live = self._live[run_id]
        if live.samples:
            page = record.samples_page(live.name, live.prompt, live.samples)
            plain = json.dumps([sample._asdict() for sample in live.samples], indent=2)
            self._put(run_id, {record.SAMPLES_FILE: plain, record.SAMPLES_PAGE: page})
        if live.by_position:
            self._put(run_id, {record.POSITIONS_FILE: json.dumps(live.by_position)})
        self._end(run_id, live, outcome, reason)
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
            ended = tags.get(record.OUTCOME) in (Outcome.COMPLETE, Outcome.DIVERGED)
            if ended and tags.get(record.PHASE) == Phase.CONFIRM:
                seed, digest = int(tags[record.SEED]), tags[record.CONFIG_SHA256]
                outcome = Outcome(tags[record.OUTCOME])
                validation = {name: value for name, value in run.data.metrics.items() if name.startswith("val/")}
                found.append(Confirmed(tags[record.ARM], seed, digest, run.info.run_id, outcome, validation))
        return found

    @explained()
    def reconcile(self, parent: str) -> list[str]:
        """Close the sweep's children that a dead process left RUNNING, as interrupted; gives their ids."""
        orphans = [run for run in trials_of(self._client, self._experiment_id, parent) if self._is_orphan(run)]
        for run in orphans:
            self._end_orphan(run)
        return [run.info.run_id for run in orphans]

    def _is_orphan(self, run: Run) -> bool:
        if run.info.status != "RUNNING" or run.info.run_id in self._live or run.info.run_id in self._sweeps:
            return False
        owner = run.data.tags.get(record.PROCESS, "")
        return owner == provenance.process_name() or not provenance.is_running(owner)

    def _end_orphan(self, run: Run) -> None:
        tags = {record.OUTCOME: str(Outcome.INTERRUPTED), record.REASON: "its process ended without closing it"}
        self._send(run.info.run_id, None, tags)
        # It ended with its last point, as far as we can know, not when it was found.
        last = max((point.timestamp for point in history(self._client, run, metrics.TOKENS)), default=None)
        self._client.set_terminated(run.info.run_id, record.STATUS[Outcome.INTERRUPTED], end_time=last)

    def _end(self, run_id: str, live: _LiveRun | None, outcome: Outcome, reason: str) -> None:
        tags = {record.OUTCOME: str(outcome)}
        if reason.strip():
            tags[record.REASON] = record.summary(reason)
        if "\n" in reason.strip():
            self._put(run_id, {record.TRACEBACK_FILE: reason})
        self._send(run_id, live, tags)
        self._client.set_terminated(run_id, record.STATUS[outcome])

    @explained()
    def _send(self, run_id: str, live: _LiveRun | None, tags: Mapping[str, str]) -> None:
        """Store tags and waiting metrics. A metric leaves the queue only once it is stored."""
        from mlflow.entities import RunTag

        waiting = live.waiting if live else []
        named = {record.NON_FINITE: ", ".join(sorted(live.non_finite))} if live and live.non_finite else {}
        run_tags = [RunTag(key, value) for key, value in _clip({**named, **tags}).items()]
        self._client.log_batch(run_id, metrics=waiting, tags=run_tags)  # MLflow cuts what is too much for one request
        waiting.clear()

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
