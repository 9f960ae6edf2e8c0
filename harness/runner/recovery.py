"""Brings Optuna, MLflow and the disk into agreement before a sweep trains.

An earlier process may have been killed at any point. Everything is written to the runs' folders first, so they are
right where the stores disagree: finished runs are sent to Optuna and MLflow, interrupted ones wait in Optuna
and are closed in MLflow until they are resumed, and what one store has lost is restored from the other. Every step
does nothing the second time, so recovery itself may be killed at any point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness.config.objective import curve_value
from harness.config.run import DataConfig
from harness.config.spec import SweepSpec
from harness.core import metrics
from harness.core.metrics import Point, sample_metric
from harness.core.outcomes import Outcome, Phase
from harness.core.text import plural
from harness.runner.tasks import objective_value, run_name
from harness.search.readable import OUTCOME, RUN_KEY
from harness.search.storage import set_studies_aside
from harness.search.study import ArmStudy, StoredTrial
from harness.tracking import Outbox, Tracker, TrialInfo, TrialRecord, UnfinishedRun

if TYPE_CHECKING:
    from harness.search.study import OptunaStorage

_MOST_LOST: Final = 1000  # trials of a study that may be missing in every record
RESTORED = "restored from Optuna: of its curves only the validation loss is left"


def reconcile(
    spec: SweepSpec,
    studies: Mapping[str, ArmStudy],
    tracker: Tracker,
    outbox: Outbox,
    data: Mapping[DataConfig, Mapping[str, Any]],
) -> str:
    """Bring the stores into agreement.

    Args:
        spec: the sweep.
        studies: arm name → its study.
        tracker: of the sweep.
        outbox: of the sweep; its thread does not run yet.
        data: data section → what runs with it record about their corpus.

    Returns:
        what was done, in one line; empty if nothing was.

    Raises:
        TrackingError: MLflow refuses or does not answer.
    """
    on_disk = outbox.unfinished_runs(tracker.left_out.append)
    lost = any(not study.known for study in studies.values())
    in_mlflow = tracker.search_trials(outbox.parent, spec.objective.metric if lost else None)
    restored_trials = sum(_restore_trials(study, spec, in_mlflow, on_disk) for study in studies.values())
    finished = [run for run in on_disk if run.outcome is not None]
    _tell_studies(studies, spec, finished)
    waiting = sum(study.recover() for study in studies.values())
    for run in on_disk:
        outbox.send_unfinished(run)
    outbox.send()
    closed = tracker.close_abandoned_runs(outbox.parent, _outcomes(studies))
    recorded = _Recorded(
        trials={(run.study, run.number) for run in in_mlflow} | {(run.info.study, run.info.number) for run in on_disk},
        keys={run.key for run in in_mlflow if run.key},
    )
    restored_runs = sum(_restore_runs(study, spec, outbox, recorded, data) for study in studies.values())
    outbox.send()
    interrupted = len(on_disk) - len(finished)
    counts = (
        (interrupted, "interrupted run", "to resume"),
        (len(finished), "finished run", "that MLflow had not recorded yet"),
        (max(closed, waiting - interrupted), "run", "without a folder, to train again"),
        (restored_trials, "trial", "restored in Optuna from MLflow"),
        (restored_runs, "run", "restored in MLflow from Optuna"),
    )
    return "; ".join(f"{plural(count, noun)} {what}" for count, noun, what in counts if count > 0)


def set_aside(spec: SweepSpec, identity: str, storage: OptunaStorage, tracker: Tracker, folder: Path) -> str:
    """Rename a sweep in all stores, so that the same spec starts a new sweep. Nothing is deleted.

    Studies come first: if this process is killed, the stores still agree, and the command can be repeated.

    Args:
        spec: the sweep.
        identity: see `Datasets.identity`.
        storage: Optuna's.
        tracker: of the sweep.
        folder: of its unfinished runs.

    Returns:
        what was set aside, and where it is now; empty if there was nothing.

    Raises:
        SweepBusy: another process runs the sweep.
    """
    tracker.refuse_if_owned(identity)
    done = []
    if studies := set_studies_aside(storage, spec.name, identity):
        done.append(f"{len(studies)} Optuna studies ({', '.join(studies)})")
    if folder.is_dir():
        target = folder.with_name(f"{folder.name}.aside-{datetime.now(UTC):%Y%m%d-%H%M%S}")
        folder.rename(target)
        done.append(f"the states of its interrupted runs ({target})")
    done += [f"the MLflow run {parent} with all its runs" for parent in tracker.set_aside(identity)]
    return "; ".join(done)


# From the disk or MLflow to Optuna ---------------------------------------------------------------------------


def _tell_studies(studies: Mapping[str, ArmStudy], spec: SweepSpec, finished: Sequence[UnfinishedRun]) -> None:
    """Tell each study the trials that finished on disk."""
    by_name = {study.name: study for study in studies.values()}
    for run in finished:
        study = by_name.get(run.info.study or "")
        if study is not None and run.info.number is not None and run.outcome is not None:
            value = objective_value(run.points, run.outcome, spec.objective.metric)
            study.tell(run.info.number, run.outcome, value, run.reason)


def _restore_trials(
    study: ArmStudy, spec: SweepSpec, in_mlflow: Sequence[TrialRecord], on_disk: Sequence[UnfinishedRun]
) -> int:
    """Fill an empty study from MLflow and from the disk, which is newer; returns the number of trials.

    A trial whose number is far beyond the others is left out: each number before it would become a failed trial.
    """
    if study.known:
        return 0
    trials = [_from_mlflow(run, spec) for run in in_mlflow if run.study == study.name and not run.left_out]
    trials += [_from_disk(run, spec) for run in on_disk if run.info.study == study.name]
    trials = [trial for trial in trials if trial.number < len(trials) + spec.trials + _MOST_LOST]
    study.restore(trials)
    return len({trial.number for trial in trials})


def _from_mlflow(run: TrialRecord, spec: SweepSpec) -> StoredTrial:
    at_start, at_end = run.whole.get(0), run.whole[max(run.whole)] if run.whole else None
    value = at_start if run.outcome is Outcome.DIVERGED else at_end
    values = {path: run.params.get(path) for path in spec.tune}
    curve = {tokens: value for tokens, value in run.curve.items() if tokens}
    return StoredTrial(run.number, values, run.outcome, value, curve, run.reason, run.key)


def _from_disk(run: UnfinishedRun, spec: SweepSpec) -> StoredTrial:
    outcome = run.outcome or Outcome.INTERRUPTED
    assert run.info.number is not None
    config = run.info.config.flat()
    values = {path: config[path] for path in spec.tune}
    metric = spec.objective.metric
    measured = ((it.tokens, curve_value(it, metric)) for it in run.points if it.step)
    curve = {tokens: value for tokens, value in measured if value is not None}
    value = objective_value(run.points, outcome, metric)
    return StoredTrial(run.info.number, values, outcome, value, curve, run.reason, run.key)


# From Optuna to MLflow ---------------------------------------------------------------------------------------


def _outcomes(studies: Mapping[str, ArmStudy]) -> dict[str, Outcome]:
    """Run key → outcome, of the trials that have finished in Optuna."""
    readable = (trial for study in studies.values() for trial in study.readable)
    finished = (trial.user_attrs for trial in readable if trial.state.is_finished())
    return {attrs[RUN_KEY]: Outcome(attrs[OUTCOME]) for attrs in finished if RUN_KEY in attrs and OUTCOME in attrs}


@dataclass(frozen=True)
class _Recorded:
    """The trials that have a run in MLflow or on disk: by study and number, and the keys of the runs."""

    trials: set[tuple[Any, Any]]
    keys: set[str]


def _restore_runs(
    study: ArmStudy,
    spec: SweepSpec,
    outbox: Outbox,
    recorded: _Recorded,
    data: Mapping[DataConfig, Mapping[str, Any]],
) -> int:
    """Record the finished trials of a study that have no run; returns their number."""
    restored = 0
    for trial in study.readable:
        outcome, key = trial.user_attrs.get(OUTCOME), trial.user_attrs.get(RUN_KEY, "")
        if not trial.state.is_finished() or outcome is None:
            continue
        if (study.name, trial.number) in recorded.trials or key in recorded.keys:
            continue
        if not trial.intermediate_values:  # it failed before its first evaluation
            continue
        values, seed = {path: trial.params[path] for path in spec.tune}, spec.base.train.seed
        try:
            config = spec.arm_config(study.arm, values, seed)
        except ValueError:  # each value is in its range, but together they make no GPT
            continue
        name = run_name(study.arm, values, seed, Phase.EXPLORE)
        facts = data[config.data.texts]
        info = TrialInfo(name, study.arm.name, Phase.EXPLORE, seed, config, study.name, trial.number, facts)
        began, ended = (_milliseconds(when) for when in (trial.datetime_start, trial.datetime_complete))
        key = outbox.start(info, key, began)
        metric = spec.objective.metric
        sampled = config.samples_validation(facts["tokens"]["val"])
        last = max(trial.intermediate_values)
        for tokens, value in sorted(trial.intermediate_values.items()):
            measured = _measured(sample_metric(metric) if sampled else metric, value)
            if sampled and tokens == last and outcome == Outcome.COMPLETE and trial.value is not None:
                measured |= _measured(metric, trial.value)
            point = Point(tokens // config.tokens_per_step, tokens, 0.0, math.nan, measured)  # nobody knows its time
            outbox.log_point(key, point, ended)
        outbox.tag(key, note=RESTORED)
        outbox.end(key, Outcome(outcome), trial.user_attrs.get("reason", ""), ended)
        restored += 1
    return restored


def _milliseconds(when: datetime | None) -> int | None:
    """A time of Optuna's, which is local, in milliseconds since 1970."""
    return None if when is None else round(when.timestamp() * 1000)


def _measured(metric: str, value: float) -> dict[str, float]:
    """The metrics that follow from a value of the objective: a loss gives its perplexity too."""
    split, _, name = metric.partition("/")
    return {metric: value, **({f"{split}/perplexity": metrics.perplexity(value)} if name == "loss" else {})}
