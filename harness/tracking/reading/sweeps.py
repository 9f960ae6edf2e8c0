"""Sweeps read back from MLflow: tidy pandas frames, descriptions, samples, checkpoints."""

from __future__ import annotations

import logging
import operator
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core import metrics
from harness.core.files import DamagedError
from harness.core.gc_pause import gc_paused
from harness.core.outcomes import Outcome
from harness.core.paths import configured_uri
from harness.core.secrets import without_secrets
from harness.core.text import printable
from harness.tracking import schema
from harness.tracking.artifacts import damaged, read_bytes, read_list, read_patch, stored_plans
from harness.tracking.checksums import named
from harness.tracking.locations import check_file, run_folder
from harness.tracking.models import MODEL_FILES, download_folder, model_folder
from harness.tracking.places import missing_folder
from harness.tracking.provenance import UNKNOWN, host_of
from harness.tracking.queries import opened_at, pages, refuse_unreadable, sweeps_of
from harness.tracking.readable import REPAIR, Tell, left_out_lines, readable_runs
from harness.tracking.reading.find_run import find_run
from harness.tracking.reading.frames import (
    POSITION_COLUMNS,
    ROW_METRICS,
    curves_of,
    facts_of,
    frame,
    rows_of,
    split_points,
    timed,
    utc,
)
from harness.tracking.reading.histories import read_readable_points, readable_blocks
from harness.tracking.reading.trials import read_trials
from harness.tracking.records import Sample, SweepRecord
from harness.tracking.store import TrackingError, connect, wrap_errors
from harness.tracking.stored_json import check_passage, check_positions, check_samples
from harness.tracking.trash import refuse_deleted, refuse_deleted_run

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)


@wrap_errors()
@gc_paused()
def load_runs(experiment: str, uri: str | None = None, sweep: str | None = None) -> pd.DataFrame:
    """One row per trial of a sweep, oldest first.

    Columns: run_id, name, sweep (its parent run), arm, phase, seed, outcome (missing while it runs), reason,
    status, study, trial_number, point (how its sampler chose a trial's values), started (UTC), seconds (of training
    and evaluation; missing while it runs), device, commit, config_sha256, data_sha256 (of the text),
    data_fingerprint (of its tokens), versions (one text), non_finite (metrics that were NaN or infinite),
    parameters, flops_per_token, tokens, steps, initial_val_loss (at step 0), best_val_loss (the lowest of the
    curve; with train.eval_tokens, of val_sample/loss); then every metric's last value under the metric's name, and
    every parameter under its dotted name in its own type (a list as a tuple). With train.eval_tokens, a run that
    ended early has no val/ metrics, only val_sample/. Integers that some runs lack have the pandas type Int64.

    Args:
        experiment: name of the sweep.
        uri: MLflow's tracking address; by default the one that sweeps use.
        sweep: a parent run's id; by default the sweep that was started or resumed last; "all" for every one.

    Raises:
        TrackingError: no such store, experiment or sweep.
    """
    client, runs = _trials(experiment, uri, sweep, _log_run)
    return rows_of(runs, read_readable_points(client, runs, ROW_METRICS, _log_point))


@wrap_errors()
@gc_paused()
def load_curves(
    experiment: str, uri: str | None = None, sweep: str | None = None, only: Sequence[str] | None = None
) -> pd.DataFrame:
    """Every point of a sweep's curves, tidy, sorted by run (oldest first), metric and step.

    Columns: run_id, arm, phase, seed, outcome, step, tokens (trained on until that step), seconds (since the run's
    first point, evaluations included, without the time between interruption and resume), metric, value.

    Args:
        experiment, uri, sweep: as for `load_runs`, which raises the same errors.
        only: names of the metrics to read, which is faster than all of them.
    """
    wanted = None if only is None else {*only, metrics.TOKENS, metrics.SECONDS}
    client, runs = _trials(experiment, uri, sweep, _log_run)
    return curves_of(facts_of(runs), map(timed, readable_blocks(client, runs, wanted, _log_point)))


@wrap_errors()
@gc_paused()
def load_frames(experiment: str, uri: str | None = None, sweep: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames of `load_runs` and `load_curves`, read at one moment, so that they agree while a sweep runs.

    Lines about what is left out are in `attrs["left_out"]` of the first one, and not logged.
    """
    left_runs, left_points = list[str](), list[str]()
    client, runs = _trials(experiment, uri, sweep, left_runs.append)
    few, curves = split_points(readable_blocks(client, runs, None, left_points.append))
    rows, facts = rows_of(runs, few), facts_of(runs)
    rows.attrs["left_out"] = left_out_lines(run=left_runs, point=left_points)
    del runs, few  # ten thousand runs take a gigabyte
    return rows, curves_of(facts, curves)


@wrap_errors()
def load_samples(run_id: str, uri: str | None = None) -> list[Sample]:
    """The texts that a run generated, by step; they are stored when the run ends.

    Raises:
        TrackingError: no such store or run.
    """
    client = connect(configured_uri(uri))
    run = client.get_run(run_id)
    names = Sample._fields  # older versions stored no greedy text
    return read_list(client, run, schema.SAMPLES_FILE, check_samples, lambda one: Sample(*map(one.get, names)))


@wrap_errors()
def load_passage(run_id: str, uri: str | None = None) -> list[tuple[str, float]]:
    """Text and probability of the first validation tokens under a confirm run's checkpoint.

    Empty for a run without a checkpoint, and for runs of older versions.

    Raises:
        TrackingError: no such store or run.
    """
    client = connect(configured_uri(uri))
    run = client.get_run(run_id)
    parse = operator.itemgetter("text", "probability")
    return read_list(client, run, schema.PASSAGE_FILE, check_passage, parse)


@wrap_errors()
def load_patch(run_id: str, uri: str | None = None) -> str:
    """The uncommitted changes of the code when a sweep was last started, as a diff; empty if there were none.

    Args:
        run_id: the sweep's parent run.
        uri: as for `load_runs`.

    Raises:
        TrackingError: no such store or run.
    """
    client = connect(configured_uri(uri))
    return read_patch(client, client.get_run(run_id))


@wrap_errors()
def load_positions(experiment: str, uri: str | None = None, sweep: str | None = None) -> pd.DataFrame:
    """Mean validation loss at each position of the context window, at the end of every complete run; a tidy frame.

    Args:
        experiment, uri, sweep: as for `load_runs`, which raises the same errors.

    Returns:
        columns run_id, arm, phase, seed, position (tokens of context, from 1) and loss (nats).
    """
    client, runs = _trials(experiment, uri, sweep, lambda _: None)  # `load_runs` says it
    rows = []
    for run in runs:
        tags = run.data.tags
        if tags.get(schema.OUTCOME) != Outcome.COMPLETE:
            continue
        losses = read_list(client, run, schema.POSITIONS_FILE, check_positions, float)
        facts = {"run_id": run.info.run_id, "arm": tags.get(schema.ARM), "phase": tags.get(schema.PHASE)}
        facts |= {"seed": int(tags[schema.SEED])}
        rows += [facts | {"position": i, "loss": loss} for i, loss in enumerate(losses, 1)]
    return frame(rows, POSITION_COLUMNS)


@wrap_errors()
def load_sweep(experiment: str, uri: str | None = None, sweep: str | None = None) -> SweepRecord:
    """A sweep's description and state; by default of the sweep that was started or resumed last.

    Raises:
        TrackingError: no such store, experiment or sweep, or the sweep's description is missing or damaged.
    """
    left_out: list[str] = []
    client, _, parents = parent_runs(experiment, uri, sweep, left_out.append)
    run = parents[-1]
    tags = run.data.tags
    text = read_bytes(client, run, schema.SWEEP_FILE)
    if text is None:
        what = f"found no {schema.SWEEP_FILE} among the artifacts of the sweep {run.info.run_id}"
        raise TrackingError(_with_advice(client, run, what))
    try:
        description = {**schema.parse_sweep(text, tags), "name": experiment}  # which may have been renamed in MLflow
        for name in ("command", "spec_text"):  # of an older version
            description[name] = without_secrets(description[name])
        data = description["data"]
        description["data"] = {**data, "source": without_secrets(str(data.get("source", "")))}
    except DamagedError as error:
        what = damaged(run, schema.SWEEP_FILE, str(error))
        raise TrackingError(f"{what}; restore it from a backup, or run the sweep's command, which writes it") from error
    first_plan, plan_changes = stored_plans(client, run)
    return SweepRecord(
        **{**description, "identity": tags.get(schema.IDENTITY, description["identity"])},  # the tag says "set aside"
        run_id=run.info.run_id,
        commit=tags.get(schema.COMMIT, UNKNOWN),
        dirty=tags.get(schema.DIRTY) == "true",
        versions=schema.versions_of(tags),
        started=utc(run.info.start_time),
        status=run.info.status,
        outcome=tags.get(schema.OUTCOME),
        first_plan=first_plan,
        plan_sha256=tags.get(schema.PLAN_SHA256, ""),
        plan_changes=plan_changes,
        experiment_id=str(run.info.experiment_id),
        host=host_of(tags.get(schema.PROCESS, "")),
        left_out=tuple(left_out_lines(sweep=left_out)),
        others=tuple(one.info.run_id for one in reversed(parents[:-1])),
        opened=utc(opened_at(run)),
        energy=schema.parse_energy(tags.get(schema.ENERGY, "")),
    )


@wrap_errors()
def checkpoint_folder(run: str, uri: str | None = None) -> Path:
    """The local folder with a run's checkpoint.

    From a server it is downloaded into a temporary folder, which is removed when this process ends.

    Args:
        run: a run's id, the first 4 or more characters of its id, or its exact name.
        uri: as for `load_runs`.

    Raises:
        TrackingError: no such store or run, several runs, a run without a checkpoint, or one whose files are outside
            the store's own root or no regular files.
    """
    uri = configured_uri(uri)
    client = connect(uri)
    one = find_run(client, run, uri)
    if (folder := model_folder(client, one.info.experiment_id, one.info.run_id)) is not None:
        return folder
    # older versions stored checkpoints as artifacts
    local = run_folder(client, one)
    if local is not None and (local / schema.CHECKPOINT_FOLDER).is_dir():
        for name in MODEL_FILES:
            check_file(local, f"{schema.CHECKPOINT_FOLDER}/{name}")
        return local / schema.CHECKPOINT_FOLDER
    if local is None and client.list_artifacts(one.info.run_id, schema.CHECKPOINT_FOLDER):
        here = str(download_folder(one.info.run_id))
        return Path(client.download_artifacts(one.info.run_id, schema.CHECKPOINT_FOLDER, here))
    what = f"found no checkpoint in the run {named(one)}"
    raise TrackingError(_with_advice(client, one, what))


def _with_advice(client: MlflowClient, run: Run, missing: str) -> str:
    """A message about a missing file, and what to do if the folder of all files of the experiment is missing."""
    experiment = client.get_experiment(run.info.experiment_id)
    return "; ".join(filter(None, (missing, missing_folder(experiment, client.tracking_uri))))


def _log_run(sentence: str) -> None:
    logger.warning(f"{sentence}; the run is left out")


def _log_point(sentence: str) -> None:
    logger.warning(f"{sentence}; the point is left out")


def _trials(experiment: str, uri: str | None, sweep: str | None, tell: Tell) -> tuple[MlflowClient, list[Run]]:
    """The runs of the chosen sweeps that can be read; `tell` gets a sentence about each other one."""
    client, experiment_id, parents = parent_runs(experiment, uri, sweep, tell)
    chosen = parents if sweep == "all" else parents[-1:]
    runs = (run for parent in chosen for run in read_trials(client, experiment_id, parent.info.run_id))
    return client, readable_runs(runs, tell)


def parent_runs(
    experiment: str, uri: str | None, sweep: str | None, tell: Tell = lambda _: None
) -> tuple[MlflowClient, str, list[Run]]:
    """The client, the experiment's id and the parent runs that `sweep` selects: at least one, the latest last.

    Where the latest one is asked for, `tell` gets a sentence about each sweep that cannot be read.
    """
    uri = configured_uri(uri)
    client = connect(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        names = sorted(one.name for one in pages(client.search_experiments) if one.name != "Default")
        allowed = printable(", ".join(names)) or "none yet, run a sweep first"
        raise TrackingError(f"found no experiment {experiment!r}; allowed: {allowed}")
    refuse_deleted(found, uri)
    left_out: list[str] = []
    parents = sweeps_of(client, found.experiment_id, left_out.append)
    if not parents:
        refuse_unreadable(client, found.experiment_id)
    if not parents or sweep not in (None, "all", *(run.info.run_id for run in parents)):
        deleted = f"tags.`{schema.ROLE}` = '{schema.SWEEP}'"
        deleted += f" and attributes.run_id = '{sweep}'" if re.fullmatch("[0-9a-f]+", sweep or "") else ""
        refuse_deleted_run(client, [found.experiment_id], deleted, uri)
    if not parents:
        raise TrackingError(f"found no sweep in the experiment {experiment!r}; run one first")
    chosen = parents if sweep in (None, "all") else [run for run in parents if run.info.run_id == sweep]
    for sentence in left_out if sweep is None else ():
        tell(sentence)
    if not chosen:
        for sentence in left_out:
            if str(sweep) in sentence:
                raise TrackingError(f"{sentence}; {REPAIR}")
        allowed = ", ".join(run.info.run_id for run in parents)
        raise TrackingError(f"found no sweep {sweep!r} in the experiment {experiment!r}; allowed: {allowed}")
    return client, found.experiment_id, chosen
