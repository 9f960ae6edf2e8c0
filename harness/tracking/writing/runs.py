"""The runs of an experiment: opened, followed point by point, ended; gone on with, and nothing stored twice."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness.core import metrics
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.tracking import schema
from harness.tracking.models import MODEL_FILES, keep_checkpoint
from harness.tracking.records import Sample, TrialInfo
from harness.tracking.store import explained, search_runs
from harness.tracking.writing.descriptions import note_tags, trial_note
from harness.tracking.writing.experiment import Experiment, clipped_tags

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Run

_ORDER: Final = ("val/", "test/", "train/", "tokens", "epochs", "optim/", "perf/")
_LOSSES: Final = ("val/", "test/", "train/loss")  # what a model is listed with
_WAITING_METRICS: Final = 500
_DATASET_NAME: Final = 500  # characters
_DATASET_DIGEST: Final = 36  # characters


@dataclass
class _LiveRun:
    """A child run that this process writes: what waits to be sent, and what its last page needs."""

    info: TrialInfo
    parent: str
    waiting: list[Metric] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    by_position: tuple[float, ...] = ()
    seconds: float | None = None
    last: dict[str, Metric] = field(default_factory=dict)  # of losses, by metric
    non_finite: set[str] = field(default_factory=set)
    stored: set[tuple[str, int]] = field(default_factory=set)  # names and steps that an earlier process has sent
    doubtful: bool = False  # whether the last sending failed, so that nobody knows what of it was stored


class RunWriter(Experiment):
    """Writes the runs of one experiment; for one thread of one process.

    Args:
        experiment, uri: see `Experiment`.
    """

    def __init__(self, experiment: str, uri: str | None = None) -> None:
        super().__init__(experiment, uri)
        self._shared: dict[str, str] = {}  # tags of all runs that this process writes
        self._live: dict[str, _LiveRun] = {}  # by run

    @explained()
    def _open_run(
        self, info: TrialInfo, tags: Mapping[str, str], data: Mapping[str, Any], key: str, again: bool
    ) -> str:
        """A new run with tags, parameters and data set; or, `again`, the one of this key, where there is one."""
        from mlflow.entities import Param

        known = self._by_key(key) if again else None
        if known is None:
            name = schema.clipped(info.name, schema.NAME_LIMIT)
            known = self._client.create_run(self._experiment_id, tags=clipped_tags(tags), run_name=name)
            run_id = str(known.info.run_id)
        else:
            run_id = str(known.info.run_id)
            self._reopen(known, tags)
        live = _LiveRun(info, tags.get(schema.PARENT_RUN, ""), stored=self._stored(known))
        self._send(run_id, note_tags(trial_note(info, self._experiment_id, live.parent), known.data.tags))
        params = [Param(name, value) for name, value in schema.trial_params(info.config).items()]
        self._client.log_batch(run_id, params=params)
        if not (known.inputs and known.inputs.dataset_inputs):
            self._client.log_inputs(run_id, datasets=[dataset_input(data)])
        self._live[run_id] = live
        return run_id

    def _by_key(self, key: str) -> Run | None:
        runs = search_runs(self._client, [self._experiment_id], f"tags.`{schema.KEY}` = '{key}'")
        return runs[0] if runs else None

    def _reopen(self, run: Run, tags: Mapping[str, str]) -> None:
        """Let a run that was closed, or left open, be a running one of this process."""
        run_id = run.info.run_id
        for ended in run.data.tags.keys() & {schema.OUTCOME, schema.REASON}:
            self._client.delete_tag(run_id, ended)
        self._send(run_id, tags)
        if run.info.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")

    def _stored(self, run: Run) -> set[tuple[str, int]]:
        """Names and steps of all that a run has."""
        run_id = run.info.run_id
        return {
            (name, point.step) for name in run.data.metrics for point in self._client.get_metric_history(run_id, name)
        }

    def log_point(self, run_id: str, point: Point, at: int | None = None) -> None:
        """Take a point of a live run; it is sent when many wait, when `flush` is called, or when the run ends.

        A NaN or infinite value is not stored, as MLflow would show it as 0 or 1.8e308: a tag names the metric.

        Args:
            run_id: of the run.
            point: of its curves.
            at: when it was measured, in milliseconds since 1970; by default now.
        """
        from mlflow.entities import Metric

        live, now = self._live[run_id], at or milliseconds()
        live.non_finite.update(point.not_finite)
        measured = {**point.metrics, metrics.TOKENS: float(point.tokens), metrics.SECONDS: point.seconds}
        for name, value in sorted(measured.items(), key=_place):  # MLflow lists them in the order of their arrival
            if not math.isfinite(value):
                live.non_finite.add(name)
                continue
            metric = Metric(name, float(value), now, point.step)
            if name.startswith(_LOSSES):
                live.last[name] = metric
            if (name, point.step) not in live.stored:
                live.waiting.append(metric)
        if point.sample is not None:
            live.samples.append(Sample(point.step, point.tokens, point.sample))
        live.by_position = point.by_position or live.by_position
        live.seconds = point.seconds
        if sum(len(run.waiting) for run in self._live.values()) >= _WAITING_METRICS:
            self.flush()

    def flush(self) -> None:
        """Send what waits, of every live run."""
        for run_id, live in self._live.items():
            if live.waiting:
                self._send_waiting(run_id, {})

    @explained()
    def keep_files(self, run_id: str, folder: Path) -> None:
        """Store what a live run has made: its checkpoint as a model, everything else as artifacts."""
        live = self._live[run_id]
        self._send_waiting(run_id, {})  # the model's losses are the run's last ones, and points are stored in order
        for path in sorted(folder.iterdir()):
            if path.name != schema.CHECKPOINT_FOLDER:
                self.log_artifact(run_id, path, path.name if path.is_dir() else None)
                continue
            for file in sorted(path.glob("*.json")):
                if file.name not in MODEL_FILES:  # what pages read of it lies with the run's other files
                    self.log_artifact(run_id, file, path.name)
            info = live.info
            keep_checkpoint(
                self._client,
                self._experiment_id,
                run_id,
                path,
                name=f"{info.arm} seed {info.seed}",
                params=schema.trial_params(info.config),
                tags={schema.ARM: info.arm, schema.SEED: str(info.seed)},
                losses=live.last.values(),
            )

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
            prompt = live.info.config.train.sample.prompt
            page = schema.samples_page(live.info.name, prompt, live.samples)
            plain = json.dumps([sample._asdict() for sample in live.samples], indent=2)
            self._put(run_id, {schema.SAMPLES_FILE: plain, schema.SAMPLES_PAGE: page})
        if live.by_position:
            self._put(run_id, {schema.POSITIONS_FILE: json.dumps(live.by_position)})
        self._end(run_id, outcome, reason, at)
        del self._live[run_id]

    def _end(self, run_id: str, outcome: Outcome, reason: str, at: int | None = None) -> None:
        live = self._live.get(run_id)
        tags = {schema.OUTCOME: str(outcome)}
        if live is not None and live.seconds is not None:
            tags[schema.SECONDS] = f"{live.seconds:.3f}"
        if reason.strip():
            tags[schema.REASON] = schema.summary(reason)
        if live is not None:
            last = {name: metric.value for name, metric in live.last.items()}
            note = trial_note(live.info, self._experiment_id, live.parent, run_id, outcome, reason, last)
            tags |= note_tags(note, self._client.get_run(run_id).data.tags)
        if "\n" in reason.strip():
            self._put(run_id, {schema.TRACEBACK_FILE: reason})
        self._send_waiting(run_id, tags)
        self._client.set_terminated(run_id, outcome.mlflow_status, end_time=at)

    @explained()
    def _send_waiting(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Store tags and, of a live run, waiting metrics. A metric leaves the queue only once it is stored."""
        live = self._live.get(run_id)
        if live is None:
            self._send(run_id, tags)
            return
        if live.doubtful:
            live.stored |= self._stored(self._client.get_run(run_id))
            live.waiting = [metric for metric in live.waiting if (metric.key, metric.step) not in live.stored]
        named = {schema.NON_FINITE: ", ".join(sorted(live.non_finite))} if live.non_finite else {}
        live.doubtful = True
        self._send(run_id, {**named, **tags}, live.waiting)
        live.waiting.clear()
        live.doubtful = False


def _place(metric: tuple[str, float]) -> int:
    """Where a metric stands among those of its point: what is judged by comes first."""
    return next((place for place, prefix in enumerate(_ORDER) if metric[0].startswith(prefix)), len(_ORDER))


def milliseconds() -> int:
    """Since 1970, MLflow's unit of time."""
    return time.time_ns() // 1_000_000


def dataset_input(data: Mapping[str, Any]) -> DatasetInput:
    """A run's text as a data set of MLflow's, with sizes as its profile."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = str(data["source"])
    kind, key = ("http", "url") if source.startswith(("http://", "https://")) else ("local", "uri")
    profile = {name: value for name, value in data.items() if name not in ("name", "source")}
    dataset = Dataset(
        name=schema.clipped(str(data["name"]), _DATASET_NAME),
        digest=str(data["fingerprint"])[:_DATASET_DIGEST],
        source_type=kind,
        source=json.dumps({key: source}),
        profile=json.dumps(profile, default=dict),
    )
    return DatasetInput(dataset, tags=[InputTag(schema.DATASET_CONTEXT, "training")])
