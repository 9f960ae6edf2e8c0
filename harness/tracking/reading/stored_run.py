"""Reads one run with everything that is needed to train it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.config.labels import shown_name
from harness.config.run import RunConfig
from harness.core import metrics
from harness.core.paths import configured_uri
from harness.tracking import schema
from harness.tracking.checksums import named
from harness.tracking.provenance import UNKNOWN, host_of
from harness.tracking.queries import search_runs
from harness.tracking.readable import REPAIR, why_left_out
from harness.tracking.reading.find_run import find_run
from harness.tracking.reading.histories import read_points
from harness.tracking.store import TrackingError, connect, wrap_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_THREADS: Final = "--threads"


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run as MLflow holds it.

    Attributes:
        run_id, name, experiment, arm, phase, outcome: of the run.
        config: the whole configuration.
        key, identity: of the run and of its sweep, which name the folder of its states.
        fingerprint: of its tokens; empty if unknown.
        common_context: on which its `val/common_context_loss` was measured; None if it has none.
        device, ranks, threads: that trained it.
        versions, commit, dirty, host: of the process that wrote it.
        seconds: of its training; None if unknown.
        points: step → metric → value.
    """

    run_id: str
    name: str
    experiment: str
    arm: str
    phase: str
    outcome: str
    config: RunConfig
    key: str
    identity: str
    fingerprint: str
    common_context: int | None
    device: str
    ranks: int
    threads: int
    versions: Mapping[str, str]
    commit: str
    dirty: bool
    host: str
    seconds: float | None
    points: Mapping[int, Mapping[str, float]]


@wrap_errors()
def load_stored_run(run: str, uri: str | None = None) -> StoredRun:
    """The run with this id, start of an id, or name.

    Raises:
        TrackingError: no such store or run, several runs, one that no sweep trained, or one that was changed.
    """
    uri = configured_uri(uri)
    client = connect(uri)
    found = find_run(client, run, uri)
    tags = found.data.tags
    if tags.get(schema.ROLE) != schema.TRIAL:
        raise TrackingError(f"found the run {named(found)}, which no sweep trained; allowed: a run of a sweep")
    if sentence := why_left_out(found):
        raise TrackingError(f"{sentence}; {REPAIR}")
    parent = client.get_run(tags[schema.PARENT_RUN])
    points: dict[int, dict[str, float]] = {}
    frame = read_points(client, [found])
    for metric, step, value in zip(frame["metric"], frame["step"].tolist(), frame["value"].tolist(), strict=True):
        points.setdefault(step, {})[metric] = value
    seconds = tags.get(schema.SECONDS)
    has_common = any(metrics.VAL_COMMON_LOSS in point for point in points.values())
    return StoredRun(
        run_id=found.info.run_id,
        name=shown_name(found.info.run_name, tags[schema.ARM], tags.get(schema.LABEL, "")),
        experiment=client.get_experiment(found.info.experiment_id).name,
        arm=tags[schema.ARM],
        phase=tags[schema.PHASE],
        outcome=tags.get(schema.OUTCOME, "running"),
        config=_config(found),
        key=tags.get(schema.KEY, ""),
        identity=parent.data.tags.get(schema.IDENTITY, ""),
        fingerprint=tags.get(schema.DATA_FINGERPRINT, ""),
        common_context=_common_context(client, parent) if has_common else None,
        device=tags.get(schema.DEVICE, UNKNOWN),
        ranks=int(tags.get(schema.RANKS, "1")),
        threads=_threads(parent.data.tags.get(schema.COMMAND, "")),
        versions=schema.versions_of(tags),
        commit=tags.get(schema.COMMIT, UNKNOWN),
        dirty=tags.get(schema.DIRTY) == "true",
        host=host_of(tags.get(schema.PROCESS, "")) or UNKNOWN,
        seconds=float(seconds) if seconds else None,
        points=points,
    )


def _config(run: Run) -> RunConfig:
    """The configuration in a run's parameters, checked against the digest that was stored with it.

    Raises:
        TrackingError: it is another one.
    """
    try:
        config = RunConfig.from_flat(schema.decode_params(run.data.params))
    except ValueError as error:
        raise TrackingError(f"found parameters of the run {named(run)} that this version does not know") from error
    if config.digest() != run.data.tags.get(schema.CONFIG_SHA256):
        what = "found parameters that do not give the stored configuration"
        raise TrackingError(f"{what} of the run {named(run)}; they were changed, or another version stored them")
    return config


def _common_context(client: MlflowClient, parent: Run) -> int:
    """The shortest context of all runs of a sweep."""
    query = f"tags.`{schema.PARENT_RUN}` = '{parent.info.run_id}'"
    runs = search_runs(client, [parent.info.experiment_id], query)
    return min(int(run.data.params["model.context_length"]) for run in runs)


def _threads(command: str) -> int:
    """The threads of a worker that the sweep's command asks for."""
    words = shlex.split(command)
    if _THREADS in words[:-1]:
        text = words[words.index(_THREADS) + 1]
        return int(text) if text.isdigit() else 1
    return 1
