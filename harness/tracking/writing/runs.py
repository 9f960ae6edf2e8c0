"""Writes an experiment's child runs: starts or resumes them, logs their points, ends them; stores nothing twice."""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict

from harness.core import metrics
from harness.core.files import json_list_with_checksum
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.core.secrets import without_secrets
from harness.core.text import visible
from harness.tracking import schema
from harness.tracking.checksums import with_checksums
from harness.tracking.direct import NOTE, Place
from harness.tracking.models import MODEL_FILES, offer_place, store_checkpoint, withdraw_place
from harness.tracking.queries import search_runs
from harness.tracking.records import Sample, TrialInfo
from harness.tracking.store import RefusedFile, unrepeated_requests, wrap_errors
from harness.tracking.writing.descriptions import description_tags, trial_description
from harness.tracking.writing.experiment import Experiment, clipped_tags
from harness.tracking.writing.points import PointTables

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Run

logger = logging.getLogger(__name__)

_ORDER: Final = ("val/", "test/", "train/", "tokens", "epochs", "optim/", "perf/")
_LOSSES: Final = ("val/", "test/", "train/loss")  # metrics that a run's model is listed with
_BATCH_SIZE: Final = 500  # queued metrics of a run; when so many wait, they are sent without a flush
_DATASET_NAME_LIMIT: Final = 500  # characters
_DATASET_DIGEST_LIMIT: Final = 36  # characters


class _Model(TypedDict):
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass
class _OpenRun:
    """A run that this process writes: metrics to be sent, and what is stored when it ends."""

    info: TrialInfo
    parent: str
    latest: int  # time of its start or of the last thing that happened to it, in milliseconds since 1970
    waiting: list[Metric] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    by_position: tuple[float, ...] = ()
    seconds: float | None = None
    last: dict[str, Metric] = field(default_factory=dict)  # metric name → its last point; losses only
    files: set[str] = field(default_factory=set)  # artifacts that are stored
    non_finite: set[str] = field(default_factory=set)
    stored: dict[tuple[str, int], Metric] = field(default_factory=dict)  # by name and step: what MLflow has already
    offered: bool = False  # a place for its weights
    uncertain: bool = False  # the last request failed, so part of it may have been stored


class RunWriter:
    """Writes child runs; for one thread of one process.

    MLflow gets the times at which things happened, not those at which it hears of them. In each run they never
    decrease: a time before an earlier one, as after the clock was set back, is replaced by the earlier one.

    Args:
        experiment: where they are.

    Attributes:
        latest: the latest time that any run got, in milliseconds since 1970; 0 before the first.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._open: dict[str, _OpenRun] = {}  # by run id
        self._tables = PointTables(experiment.client)
        self.latest = 0

    @property
    def open_runs(self) -> Collection[str]:
        """Ids of the runs that have started and not ended; a live view."""
        return self._open.keys()

    @wrap_errors()
    def start(
        self,
        info: TrialInfo,
        tags: Mapping[str, str],
        data: Mapping[str, Any],
        key: str,
        reopen: bool,
        at: int | None = None,
    ) -> str:
        """Create a run with tags, parameters and data set, or, if `reopen`, resume the one of this key if it exists.

        Args:
            info, tags, data, key: of the run.
            reopen: whether MLflow may have it.
            at: when it started, in milliseconds since 1970; None: now.

        Returns:
            its id.
        """
        from mlflow.entities import Param

        client, params = self._experiment.client, schema.trial_params(info.config)
        tags = with_checksums(clipped_tags(tags), params=params)
        description = trial_description(info, self._experiment.id, tags.get(schema.PARENT_RUN, ""))
        run = self._find(key) if reopen else None
        if run is None:
            name, created = schema.clipped(info.name, schema.NAME_LIMIT), schema.milliseconds() if at is None else at
            described = tags | clipped_tags(description_tags(description, {}))
            with unrepeated_requests():  # after an error, the caller looks for the run by its key
                run = client.create_run(self._experiment.id, created, described, name)
            run_id = str(run.info.run_id)
            self._experiment.admit(run)
        else:
            run_id = str(run.info.run_id)
            self._reopen(run, tags | description_tags(description, run.data.tags))
        latest = max(run.info.start_time, run.info.end_time or 0)  # the end of an interrupted run
        opened = _OpenRun(info, tags.get(schema.PARENT_RUN, ""), latest, stored=self._stored_points(run))
        by_step = sorted(opened.stored.values(), key=lambda point: point.step)
        opened.last = {point.key: point for point in by_step if point.key.startswith(_LOSSES)}
        client.log_batch(run_id, params=[Param(name, value) for name, value in params.items()])
        if not (run.inputs and run.inputs.dataset_inputs):
            client.log_inputs(run_id, datasets=[dataset_input(data)])
        self._open[run_id] = opened
        return run_id

    def _find(self, key: str) -> Run | None:
        """The run of a key; one whose files are outside the store's own root is left as it is."""
        for run in search_runs(self._experiment.client, [self._experiment.id], f"tags.`{schema.KEY}` = '{key}'"):
            try:
                self._experiment.admit(run)
            except RefusedFile as error:
                logger.warning(f"{error}; a new run is stored instead")
            else:
                return run
        return None

    def _reopen(self, run: Run, tags: Mapping[str, str]) -> None:
        """Set a run's status to RUNNING and replace its tags."""
        client, run_id = self._experiment.client, run.info.run_id
        if run.info.status != "RUNNING":  # first, because its checksums include its outcome
            client.update_run(run_id, status="RUNNING")
        for name in run.data.tags.keys() & {schema.OUTCOME, schema.REASON}:
            client.delete_tag(run_id, name)
        self._experiment.log(run_id, tags)

    def _stored_points(self, run: Run) -> dict[tuple[str, int], Metric]:
        """Metric name and step of every point that MLflow has of a run, with the point."""
        client, run_id = self._experiment.client, run.info.run_id
        points = (point for name in run.data.metrics for point in client.get_metric_history(run_id, name))
        return {(point.key, point.step): point for point in points}

    def log_point(self, run_id: str, point: Point, at: int | None = None) -> None:
        """Queue a point of an open run; it is sent when 500 of its metrics wait, by `flush`, or when the run ends.

        NaN and infinite values are not stored, because MLflow would show them as 0 or 1.8e308: a tag names the metric.

        Args:
            run_id: of the run.
            point: of its curves.
            at: when it was measured, in milliseconds since 1970; None: now.
        """
        from mlflow.entities import Metric

        run = self._open[run_id]
        when = self._happened(run, at)
        run.non_finite.update(point.not_finite)
        measured = {**point.metrics, metrics.TOKENS: float(point.tokens)}
        if math.isfinite(point.seconds):
            run.seconds = measured[metrics.SECONDS] = point.seconds
        for name in sorted(measured, key=_rank):  # MLflow lists metrics in the order of their arrival
            value = measured[name]
            if not math.isfinite(value):
                run.non_finite.add(name)
                continue
            metric = Metric(name, float(value), when, point.step)
            known = run.stored.get((name, point.step))
            if name.startswith(_LOSSES) and (name not in run.last or run.last[name].step <= point.step):
                run.last[name] = known or metric
            if known is None:
                run.waiting.append(metric)
        if point.sample is not None:
            run.samples.append(Sample(point.step, point.tokens, point.sample, point.greedy))
        run.by_position = point.by_position or run.by_position
        if len(run.waiting) >= _BATCH_SIZE:
            self._send(run_id, run, {})

    def flush(self) -> None:
        """Send the queued metrics of every open run."""
        waiting = {run_id: run for run_id, run in self._open.items() if run.waiting}
        if self._tables.usable:
            self._store_points(waiting)
        for run_id, run in waiting.items():
            if run.waiting or run.non_finite:
                self._send(run_id, run, {})

    @wrap_errors()
    def _store_points(self, runs: Mapping[str, _OpenRun]) -> None:
        """Store the queued metrics of runs in the database's tables."""
        self._tables.store({run_id: run.waiting for run_id, run in runs.items()})
        for run in runs.values():
            run.waiting.clear()

    @wrap_errors()
    def store_files(self, run_id: str, folder: Path) -> None:
        """Store the files of an open run: its checkpoint as a model, everything else as artifacts."""
        run, experiment = self._open[run_id], self._experiment
        self._send(run_id, run, {})  # the model's losses are the run's last ones, and points are stored in order
        for path in sorted(folder.iterdir()):
            if path.name != schema.CHECKPOINT_FOLDER:
                experiment.log_artifact(run_id, path, path.name if path.is_dir() else None)
                run.files.add(path.name)
                continue
            for file in sorted(path.glob("*.json")):
                if file.name not in (*MODEL_FILES, NOTE):  # the reports read it from the run's artifacts
                    experiment.log_artifact(run_id, file, path.name)
            with experiment.optional(run_id, path.name):
                losses = run.last.values()
                store_checkpoint(experiment.client, experiment.id, run_id, path, losses=losses, **_model_of(run.info))

    @wrap_errors()
    def offer_place(self, run_id: str) -> Place | None:
        """A place where another machine can store the weights of an open run; see `harness.tracking.models`."""
        experiment, run = self._experiment, self._open[run_id]
        run.offered = True
        return offer_place(experiment.client, experiment.id, run_id, **_model_of(run.info))

    @wrap_errors()
    def end(self, run_id: str, outcome: Outcome, reason: str = "", at: int | None = None) -> None:
        """End an open run: store its queued metrics, samples, outcome and reason, and set its status.

        A reason of several lines, such as a traceback, is stored as an artifact; the tag has its main line.

        Args:
            run_id: of the run.
            outcome, reason: how it ended.
            at: when, in milliseconds since 1970; None: now.
        """
        run, experiment = self._open[run_id], self._experiment
        if run.samples:
            page = schema.samples_page(run.info.name, run.info.config.train.sample, run.samples)
            plain = json_list_with_checksum(sample._asdict() for sample in run.samples)
            experiment.log_contents(run_id, {schema.SAMPLES_FILE: plain, schema.SAMPLES_PAGE: page})
            run.files.add(schema.SAMPLES_PAGE)
        if run.by_position:
            experiment.log_contents(run_id, {schema.POSITIONS_FILE: json_list_with_checksum(run.by_position)})
        tags = outcome_tags(outcome, reason)
        if run.seconds is not None:
            tags[schema.SECONDS] = f"{run.seconds:.3f}"
        last = {name: metric.value for name, metric in run.last.items()}
        description = trial_description(run.info, experiment.id, run.parent, run_id, outcome, reason, last, run.files)
        stored = experiment.client.get_run(run_id).data.tags
        tags |= description_tags(description, stored)
        tags = with_checksums(clipped_tags(tags), stored.get(schema.CHECKSUMS, ""), losses=last)
        log_traceback(experiment, run_id, reason)
        if run.offered and outcome is not Outcome.COMPLETE:
            withdraw_place(experiment.client, experiment.id, run_id)
        experiment.check_uploads(run_id)
        self._send(run_id, run, tags)
        experiment.client.set_terminated(run_id, outcome.mlflow_status, end_time=self._happened(run, at))
        del self._open[run_id]

    def _happened(self, run: _OpenRun, at: int | None) -> int:
        """The time of an event of a run, not before the last one; None: now."""
        run.latest = max(run.latest, schema.milliseconds() if at is None else at)
        self.latest = max(self.latest, run.latest)
        return run.latest

    @wrap_errors()
    def _send(self, run_id: str, run: _OpenRun, tags: Mapping[str, str]) -> None:
        """Store tags and queued metrics. A metric leaves the queue only once it is stored."""
        if self._tables.usable and run.waiting:
            self._store_points({run_id: run})
        if run.uncertain:
            run.stored |= self._stored_points(self._experiment.client.get_run(run_id))
            run.waiting = [metric for metric in run.waiting if (metric.key, metric.step) not in run.stored]
        named = {schema.NON_FINITE: ", ".join(sorted(run.non_finite))} if run.non_finite else {}
        run.uncertain = True
        self._experiment.log(run_id, {**named, **tags}, run.waiting)
        run.waiting.clear()
        run.uncertain = False


def _model_of(info: TrialInfo) -> _Model:
    """How a run's model is called in MLflow, with its parameters and tags."""
    return {
        "name": f"{info.arm} seed {info.seed}",
        "params": schema.trial_params(info.config),
        "tags": {schema.ARM: info.arm, schema.SEED: str(info.seed)},
    }


@functools.cache
def _rank(metric: str) -> int:
    """Position of a metric among those of its point: losses first."""
    return next((place for place, prefix in enumerate(_ORDER) if metric.startswith(prefix)), len(_ORDER))


def outcome_tags(outcome: Outcome, reason: str) -> dict[str, str]:
    """The tags that say how a run ended; an empty reason gets no tag."""
    tags = {schema.OUTCOME: str(outcome)}
    return tags | {schema.REASON: schema.summary(reason)} if reason.strip() else tags


def log_traceback(experiment: Experiment, run_id: str, reason: str) -> None:
    """Store a reason of several lines as an artifact."""
    if "\n" in reason.strip():
        experiment.log_contents(run_id, {schema.TRACEBACK_FILE: visible(without_secrets(reason))})


def dataset_input(data: Mapping[str, Any]) -> DatasetInput:
    """A run's text as an MLflow data set, with its sizes as the profile."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = str(data["source"])
    kind, key = ("http", "url") if source.startswith(("http://", "https://")) else ("local", "uri")
    profile = {name: value for name, value in data.items() if name not in ("name", "source")}
    dataset = Dataset(
        name=schema.clipped(str(data["name"]), _DATASET_NAME_LIMIT),
        digest=str(data["fingerprint"])[:_DATASET_DIGEST_LIMIT],
        source_type=kind,
        source=json.dumps({key: source}),
        profile=json.dumps(profile, default=dict),
    )
    return DatasetInput(dataset, tags=[InputTag(schema.DATASET_CONTEXT, "training")])
