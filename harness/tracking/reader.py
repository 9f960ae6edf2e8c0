"""Sweeps read back from MLflow: tidy pandas frames, descriptions, samples, checkpoints."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness import metrics
from harness.outcomes import Outcome
from harness.tracking import record
from harness.tracking.lookup import find_run
from harness.tracking.models import model_folder
from harness.tracking.points import read_points
from harness.tracking.record import PlanChange, Sample, SweepRecord
from harness.tracking.store import (
    TrackingError,
    configured_uri,
    connect,
    explained,
    local_artifact,
    pages,
    sweeps_of,
    trials_of,
)

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run

# Columns that a frame has even without rows, with their type; None: as the values are.
_RUN_COLUMNS: Final[Mapping[str, str | None]] = {
    "run_id": None,
    "name": None,
    "sweep": None,
    "arm": None,
    "phase": None,
    "seed": None,
    "outcome": None,
    "reason": None,
    "status": None,
    "study": None,
    "trial_number": "Int64",
    "started": "datetime64[ms, UTC]",
    "seconds": "float64",
    "device": None,
    "commit": None,
    "config_sha256": None,
    "data_sha256": None,
    "data_fingerprint": None,
    "versions": None,
    "non_finite": None,
    record.PARAMETERS: None,
    record.FLOPS_PER_TOKEN: "float64",
    "tokens": None,
    "steps": None,
    "initial_val_loss": "float64",
    "best_val_loss": "float64",
}
_CURVE_COLUMNS: Final[Mapping[str, str | None]] = {
    "run_id": None,
    "arm": None,
    "phase": None,
    "seed": None,
    "outcome": None,
    "step": "int64",
    "tokens": None,
    "seconds": "float64",
    "metric": None,
    "value": "float64",
}


_POSITION_COLUMNS: Final[Mapping[str, str | None]] = {
    "run_id": None,
    "arm": None,
    "phase": None,
    "seed": "int64",
    "position": "int64",
    "loss": "float64",
}


@explained()
def load_runs(experiment: str, uri: str | None = None, sweep: str | None = None) -> pd.DataFrame:
    """One row per trial of a sweep, oldest first.

    Columns: run_id, name, sweep (its parent run), arm, phase, seed, outcome (missing while it runs), reason, status,
    study, trial_number, started (UTC), seconds (missing while it runs), device, commit, config_sha256, data_sha256 (of
    the text), data_fingerprint (of its tokens), versions (one text), non_finite (metrics that were NaN or infinite),
    parameters, flops_per_token, tokens, steps, initial_val_loss (at step 0), best_val_loss (the lowest of the curve,
    with train.eval_tokens that of val_sample/loss); then every metric's last value under the metric's name, and every
    parameter under its dotted name in its own type (a list as a tuple). With train.eval_tokens, a run that ended early
    has no val/ metrics, only val_sample/. Whole numbers that some runs lack are of pandas' type Int64.

    Args:
        experiment: name of the sweep.
        uri: MLflow's tracking address; by default the one that sweeps use.
        sweep: a parent run's id; by default the sweep that was started or resumed last; "all" for every one.

    Raises:
        TrackingError: no such store, experiment or sweep.
    """
    client, runs = _trials(experiment, uri, sweep)
    points = read_points(client, runs, (metrics.TOKENS, metrics.VAL_LOSS, metrics.VAL_SAMPLE_LOSS))
    curves = {int(run): part for run, part in points.groupby("run")}
    nothing = points.iloc[:0]
    return _frame([_run_row(run, curves.get(place, nothing)) for place, run in enumerate(runs)], _RUN_COLUMNS)


@explained()
def load_curves(
    experiment: str, uri: str | None = None, sweep: str | None = None, only: Sequence[str] | None = None
) -> pd.DataFrame:
    """Every point of a sweep's curves, tidy, sorted by run (oldest first), metric and step.

    Columns: run_id, arm, phase, seed, outcome, step, tokens (trained on until that step), seconds (since the run's
    first point, evaluations included; what lies between two parts of an interrupted run is not counted), metric, value.

    Args:
        experiment, uri, sweep: as for `load_runs`, which also says what is raised.
        only: names of the metrics to read, which is quicker than all of them.
    """
    client, runs = _trials(experiment, uri, sweep)
    return _curves(runs, read_points(client, runs, None if only is None else {*only, metrics.TOKENS, metrics.SECONDS}))


@explained()
def load_samples(run_id: str, uri: str | None = None) -> list[Sample]:
    """The texts that a run generated, in the order of training; they are stored when the run ends.

    Raises:
        TrackingError: no such store or run.
    """
    client = connect(configured_uri(uri))
    text = _read_text(client, client.get_run(run_id), record.SAMPLES_FILE)
    return [Sample(**sample) for sample in json.loads(text)] if text else []


@explained()
def load_passage(run_id: str, uri: str | None = None) -> list[tuple[str, float]]:
    """The first tokens of the validation split as a confirm run's last checkpoint sees them: text and probability.

    Empty for a run without a checkpoint, and for one of an older harness.

    Raises:
        TrackingError: no such store or run.
    """
    client = connect(configured_uri(uri))
    text = _read_text(client, client.get_run(run_id), record.PASSAGE_FILE)
    return [(one["text"], one["probability"]) for one in json.loads(text)] if text else []


@explained()
def load_patch(run_id: str, uri: str | None = None) -> str:
    """What was changed on top of the commit when a sweep was last started, as a diff; empty where nothing was.

    Args:
        run_id: the sweep's parent run.
        uri: as for `load_runs`.

    Raises:
        TrackingError: no such store or run.
    """
    client = connect(configured_uri(uri))
    return _read_text(client, client.get_run(run_id), record.PATCH_FILE) or ""


@explained()
def load_positions(experiment: str, uri: str | None = None, sweep: str | None = None) -> pd.DataFrame:
    """Mean validation loss at each position of the window, at the end of every complete run, as a tidy frame.

    Args:
        experiment, uri, sweep: as for `load_runs`, which also says what is raised.

    Returns:
        columns run_id, arm, phase, seed, position (tokens of context, from 1) and loss (nats).
    """
    client, runs = _trials(experiment, uri, sweep)
    rows = []
    for run in runs:
        tags = run.data.tags
        if tags.get(record.OUTCOME) != Outcome.COMPLETE:
            continue
        text = _read_text(client, run, record.POSITIONS_FILE)
        facts = {"run_id": run.info.run_id, "arm": tags.get(record.ARM), "phase": tags.get(record.PHASE)}
        facts |= {"seed": int(tags[record.SEED])}
        rows += [facts | {"position": i, "loss": loss} for i, loss in enumerate(json.loads(text or "[]"), 1)]
    return _frame(rows, _POSITION_COLUMNS)


@explained()
def load_sweep(experiment: str, uri: str | None = None, sweep: str | None = None) -> SweepRecord:
    """A sweep's description and state; by default of the sweep that was started or resumed last.

    Raises:
        TrackingError: no such store, experiment or sweep, or the sweep's description is gone.
    """
    client, _, parents = parent_runs(experiment, uri, sweep)
    run = parents[-1]
    text = _read_text(client, run, record.SWEEP_FILE)
    if text is None:
        raise TrackingError(f"found no {record.SWEEP_FILE} among the artifacts of the sweep {run.info.run_id}")
    tags, prefix = run.data.tags, record.VERSION_PREFIX
    first_plan, plan_changes = stored_plans(client, run)
    return SweepRecord(
        **record.parse_sweep(text),
        run_id=run.info.run_id,
        commit=tags[record.COMMIT],
        dirty=tags[record.DIRTY] == "true",
        versions={name.removeprefix(prefix): tags[name] for name in sorted(tags) if name.startswith(prefix)},
        started=_utc(run.info.start_time),
        status=run.info.status,
        outcome=tags.get(record.OUTCOME),
        first_plan=first_plan,
        plan_sha256=tags.get(record.PLAN_SHA256, ""),
        plan_changes=plan_changes,
        experiment_id=str(run.info.experiment_id),
        host=tags.get(record.PROCESS, "").rsplit(":", 2)[0],
    )


def stored_plans(client: MlflowClient, run: Run) -> tuple[dict[str, Any], tuple[PlanChange, ...]]:
    """The analysis plan that a parent run began with (empty where none was stored), and its changes since then."""
    first = _read_text(client, run, record.PLAN_FILE)
    changes = _read_text(client, run, record.PLAN_CHANGES_FILE)
    return json.loads(first or "{}"), record.parse_changes(changes or "[]")


@explained()
def checkpoint_folder(run: str, uri: str | None = None) -> Path:
    """The local folder with a run's checkpoint; a server's is downloaded into a temporary folder.

    Args:
        run: a run's id, the first 4 or more characters of one, or a run's exact name.
        uri: as for `load_runs`.

    Raises:
        TrackingError: no such store or run, several runs, or a run without a checkpoint.
    """
    client = connect(configured_uri(uri))
    one = find_run(client, run)
    if (folder := model_folder(client, one.info.experiment_id, one.info.run_id)) is not None:
        return folder
    local = local_artifact(one, record.CHECKPOINT_FOLDER)
    if local is not None:  # as the harness kept them until they were models
        return local
    if not client.list_artifacts(one.info.run_id, record.CHECKPOINT_FOLDER):
        raise TrackingError(f"found no checkpoint in the run {one.info.run_id} ({one.info.run_name})")
    return Path(client.download_artifacts(one.info.run_id, record.CHECKPOINT_FOLDER))


def _trials(experiment: str, uri: str | None, sweep: str | None) -> tuple[MlflowClient, list[Run]]:
    client, experiment_id, parents = parent_runs(experiment, uri, sweep)
    chosen = parents if sweep == "all" else parents[-1:]
    return client, [run for parent in chosen for run in trials_of(client, experiment_id, parent.info.run_id)]


def parent_runs(experiment: str, uri: str | None, sweep: str | None) -> tuple[MlflowClient, str, list[Run]]:
    """The parent runs that `sweep` can mean, at least one, the one opened last at the end."""
    client = connect(configured_uri(uri))
    found = client.get_experiment_by_name(experiment)
    if found is None or found.lifecycle_stage == "deleted":
        names = sorted(one.name for one in pages(client.search_experiments) if one.name != "Default")
        allowed = ", ".join(names) or "none yet, run a sweep first"
        raise TrackingError(f"found no experiment {experiment!r}; allowed: {allowed}")
    parents = sweeps_of(client, found.experiment_id)
    if not parents:
        raise TrackingError(f"found no sweep in the experiment {experiment!r}; run one first")
    chosen = parents if sweep in (None, "all") else [run for run in parents if run.info.run_id == sweep]
    if not chosen:
        allowed = ", ".join(run.info.run_id for run in parents)
        raise TrackingError(f"found no sweep {sweep!r} in the experiment {experiment!r}; allowed: {allowed}")
    return client, found.experiment_id, chosen


def _run_row(run: Run, curves: pd.DataFrame) -> dict[str, Any]:
    """A run's row; `curves` are its tokens and validation losses (whole and sampled), by step."""
    info, tags = run.info, run.data.tags
    params = {name: record.decode_param(run.data.params[name]) for name in sorted(run.data.params)}
    last = {name: run.data.metrics[name] for name in sorted(run.data.metrics)}
    tokens = curves[curves["metric"] == metrics.TOKENS]
    losses, sampled = (
        dict(curves.loc[curves["metric"] == name, ["step", "value"]].itertuples(index=False))
        for name in (metrics.VAL_LOSS, metrics.VAL_SAMPLE_LOSS)
    )
    if sampled and losses and max(losses) < max(sampled):  # it ended early: what it has is of its start
        last = {name: value for name, value in last.items() if not name.startswith("val/")}
    return {
        **_run_facts(run),
        "name": info.run_name,
        "sweep": tags.get(record.PARENT_RUN),
        "reason": tags.get(record.REASON, ""),
        "status": info.status,
        "study": tags.get(record.STUDY),
        "trial_number": _whole(tags.get(record.TRIAL_NUMBER)),
        "started": _utc(info.start_time),
        "seconds": (info.end_time - info.start_time) / 1000 if info.end_time else None,
        "device": tags.get(record.DEVICE),
        "commit": tags.get(record.COMMIT),
        "config_sha256": tags.get(record.CONFIG_SHA256),
        "data_sha256": tags.get(record.DATA_SHA256),
        "data_fingerprint": tags.get(record.DATA_FINGERPRINT),
        "versions": _versions(tags),
        "non_finite": tags.get(record.NON_FINITE, ""),
        "initial_val_loss": losses.get(0),
        "best_val_loss": min((sampled or losses).values(), default=None),
        **last,
        **params,
        "tokens": int(tokens["value"].iloc[-1]) if len(tokens) else None,
        "steps": int(tokens["step"].iloc[-1]) if len(tokens) else None,
    }


def _versions(tags: Mapping[str, str]) -> str:
    """`python 3.11.9, torch 2.13.0`, of everything whose version a run recorded."""
    start = len(record.VERSION_PREFIX)
    known = sorted((name[start:], tags[name]) for name in tags if name.startswith(record.VERSION_PREFIX))
    return ", ".join(f"{name} {version}" for name, version in known)


def _curves(runs: Sequence[Run], points: pd.DataFrame) -> pd.DataFrame:
    """Points as `load_curves` gives them: tokens and time in columns of their own, and what is known of the run."""
    own = points["metric"].isin([metrics.TOKENS, metrics.SECONDS])  # they have their own columns
    if own.all():  # no curve at all
        return _frame([], _CURVE_COLUMNS)
    tokens = points[points["metric"] == metrics.TOKENS].rename(columns={"value": "tokens"})
    curves = points[~own].merge(tokens[["run", "step", "tokens"]], on=["run", "step"], how="left")
    curves = curves.merge(_seconds(points), on=["run", "step"], how="left")
    known = curves["tokens"].notna()
    if known.any():
        curves["tokens"] = curves["tokens"].astype("int64" if known.all() else "Int64")
    facts = _frame([_run_facts(run) for run in runs], {})
    facts = facts.take(curves.pop("run")).reset_index(drop=True)
    return facts.join(curves)[list(_CURVE_COLUMNS)]


def _seconds(points: pd.DataFrame) -> pd.DataFrame:
    """Time since a run began at each step, by the trainer's clock; by MLflow's time stamps for runs that lack it.

    Returns:
        columns run, step and seconds.
    """
    import pandas as pd

    measured = points[points["metric"] == metrics.SECONDS]
    stamped = points[(points["metric"] == metrics.TOKENS) & ~points["run"].isin(measured["run"])]
    times = pd.concat([measured["value"], stamped["timestamp"] / 1000])  # by the index of `points`
    found = points.loc[times.index, ["run", "step"]]
    return found.assign(seconds=times - times.groupby(found["run"]).transform("first"))


def _run_facts(run: Run) -> dict[str, Any]:
    tags = run.data.tags
    return {
        "run_id": run.info.run_id,
        "arm": tags.get(record.ARM),
        "phase": tags.get(record.PHASE),
        "seed": _whole(tags.get(record.SEED)),
        "outcome": tags.get(record.OUTCOME),
    }


def _frame(rows: list[dict[str, Any]], columns: Mapping[str, str | None]) -> pd.DataFrame:
    """Rows as a frame: the given columns first, then the others in the order in which rows bring them."""
    import pandas as pd

    names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
    series = {name: _series([row.get(name) for row in rows], columns.get(name)) for name in names}
    return pd.DataFrame(series, columns=list(names))


def _series(values: list[Any], dtype: str | None) -> pd.Series[Any]:
    import pandas as pd

    present = [value for value in values if value is not None]
    if dtype is None and len(present) < len(values) and present and all(type(value) is int for value in present):
        dtype = "Int64"  # else pandas would make floats of them
    return pd.Series(values, dtype=dtype or (None if values else "object"))


def _read_text(client: MlflowClient, run: Run, path: str) -> str | None:
    """A text among the artifacts of a run, or None where it is missing."""
    local = local_artifact(run, path)
    if local is not None:
        return local.read_text("utf-8", "replace")  # a diff may hold any bytes
    folder = path.rpartition("/")[0] or None
    if all(file.path != path for file in client.list_artifacts(run.info.run_id, folder)):
        return None
    with tempfile.TemporaryDirectory() as here:
        return Path(client.download_artifacts(run.info.run_id, path, here)).read_text("utf-8", "replace")


def _whole(text: str | None) -> int | None:
    return int(text) if text else None


def _utc(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
