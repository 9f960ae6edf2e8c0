"""What an earlier process left: Optuna, MLflow and the disk are brought into one truth before anything is trained.

The runs' folders know most, as everything is written there first. What ended on disk is told to Optuna and MLflow;
what was interrupted waits in Optuna and is closed in MLflow, until it is gone on with in the same trial and the same
run; what one store has lost is made again from the other. Every step leaves things as they should be and finds nothing
to do the next time, so this may itself be killed at any point.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config.spec import SweepSpec
from harness.core import metrics
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase
from harness.runner.tasks import run_name, told_loss
from harness.search.study import OUTCOME, RUN_KEY, ArmStudy, StoredTrial, set_studies_aside
from harness.tracking import Outbox, Tracker, TrialInfo, TrialRecord, UnfinishedRun

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

REMADE = "made again from Optuna's record: of its curves only the validation loss is left"


def reconcile(
    spec: SweepSpec,
    studies: Mapping[str, ArmStudy],
    tracker: Tracker,
    outbox: Outbox,
    data: Mapping[str, Mapping[str, Any]],
) -> str:
    """Bring the stores into one truth.

    Args:
        spec: the sweep.
        studies: arm name → its study.
        tracker, outbox: of the sweep; the outbox's thread does not run yet.
        data: arm name → what its runs record about the corpus.

    Returns:
        what was done, in one line; empty where there was nothing to do.

    Raises:
        TrackingError: MLflow refuses or does not answer.
    """
    kept = outbox.unfinished_runs()
    stored = tracker.search_trials(outbox.parent, losses=any(not study.known for study in studies.values()))
    restored = sum(_restore(study, spec, stored, kept) for study in studies.values())
    ended = [run for run in kept if run.outcome is not None]
    for run in ended:
        study = next((one for one in studies.values() if one.name == run.info.study), None)
        if study is not None and run.info.number is not None and run.outcome is not None:
            study.tell(run.info.number, run.outcome, told_loss(run.points, run.outcome), run.reason)
    waiting = sum(study.recover() for study in studies.values())
    for run in kept:
        outbox.send_unfinished(run)
    outbox.send()
    closed = tracker.close_abandoned_runs(outbox.parent, _ends(studies))
    known = {(run.study, run.number) for run in stored} | {(run.info.study, run.info.number) for run in kept}
    remade = sum(_remake(study, spec, outbox, known, data[arm]) for arm, study in studies.items())
    outbox.send()
    going_on = sum(run.outcome is None for run in kept)
    said = {
        "that had been interrupted to go on with": going_on,
        "whose end MLflow had not heard of": len(ended),
        "left open and without a record, to be trained anew": max(closed, waiting - going_on),
        "of Optuna restored from MLflow": restored,
        "of MLflow restored from Optuna": remade,
    }
    return "; ".join(f"{count} run{'s' * (count > 1)} {what}" for what, count in said.items() if count > 0)


def set_aside(spec: SweepSpec, identity: str, storage: BaseStorage, tracker: Tracker, folder: Path) -> str:
    """Take a sweep out of the way, so that the same spec begins anew. Nothing is deleted.

    The studies go first: whatever ends this process, the stores then still agree, and the command can be given again.

    Returns:
        what was set aside, and where it is now; empty where there was nothing.

    Raises:
        SweepBusy: another process is at the sweep.
    """
    tracker.refuse_if_owned(identity)
    said = []
    if studies := set_studies_aside(storage, spec.name, identity):
        said.append(f"{len(studies)} Optuna studies ({', '.join(studies)})")
    if folder.is_dir():
        target = folder.with_name(f"{folder.name}.aside-{datetime.now(UTC):%Y%m%d-%H%M%S}")
        folder.rename(target)
        said.append(f"the states of its interrupted runs ({target})")
    said += [f"the MLflow run {parent} with all its runs" for parent in tracker.set_aside(identity)]
    return "; ".join(said)


def _restore(study: ArmStudy, spec: SweepSpec, stored: list[TrialRecord], kept: list[UnfinishedRun]) -> int:
    """Fill an empty study from MLflow and, newer, the disk; gives how many trials it got."""
    if study.known:
        return 0
    trials = [_from_mlflow(run, spec) for run in stored if run.study == study.name]
    trials += [_from_disk(run, spec) for run in kept if run.info.study == study.name]
    study.restore(trials)
    return len({trial.number for trial in trials})


def _from_mlflow(run: TrialRecord, spec: SweepSpec) -> StoredTrial:
    at_start, at_end = run.losses.get(0), run.losses[max(run.losses)] if run.losses else None
    loss = at_start if run.outcome is Outcome.DIVERGED else at_end
    values = {path: run.params[path] for path in spec.tune}
    losses = {tokens: value for tokens, value in run.curve.items() if tokens}
    return StoredTrial(run.number, values, run.outcome, loss, losses, run.reason, run.key)


def _from_disk(run: UnfinishedRun, spec: SweepSpec) -> StoredTrial:
    outcome = run.outcome or Outcome.INTERRUPTED
    assert run.info.number is not None
    written = run.info.config.flat()
    values = {path: written[path] for path in spec.tune}
    losses = {it.tokens: it.curve_loss for it in run.points if it.curve_loss is not None and it.step}
    return StoredTrial(run.info.number, values, outcome, told_loss(run.points, outcome), losses, run.reason, run.key)


def _ends(studies: Mapping[str, ArmStudy]) -> dict[str, Outcome]:
    """Key → outcome of the runs whose end Optuna knows."""
    ended = (trial.user_attrs for study in studies.values() for trial in study.known if trial.state.is_finished())
    return {one[RUN_KEY]: Outcome(one[OUTCOME]) for one in ended if RUN_KEY in one and OUTCOME in one}


def _remake(
    study: ArmStudy, spec: SweepSpec, outbox: Outbox, known: set[tuple[Any, Any]], data: Mapping[str, Any]
) -> int:
    """Record anew the finished trials of a study of which there is no run; gives how many that were."""
    made = 0
    for trial in study.known:
        outcome = trial.user_attrs.get(OUTCOME)
        if not trial.state.is_finished() or outcome is None or (study.name, trial.number) in known:
            continue
        if not trial.intermediate_values:  # it never measured anything
            continue
        values, seed = {path: trial.params[path] for path in spec.tune}, spec.base.train.seed
        config = spec.arm_config(study.arm, values, seed)
        name = run_name(study.arm, values, seed, Phase.EXPLORE)
        info = TrialInfo(name, study.arm.name, Phase.EXPLORE, seed, config, study.name, trial.number, data)
        key = outbox.start(info, trial.user_attrs.get(RUN_KEY, ""))
        sampled = config.samples(data["tokens"]["val"])
        last = max(trial.intermediate_values)
        for tokens, loss in sorted(trial.intermediate_values.items()):
            measured = _measured("val_sample" if sampled else "val", loss)
            if sampled and tokens == last and outcome == Outcome.COMPLETE and trial.value is not None:
                measured |= _measured("val", trial.value)
            outbox.log_point(key, Point(tokens // config.tokens_per_step, tokens, 0.0, 0.0, measured))
        outbox.tag(key, note=REMADE)
        outbox.end(key, Outcome(outcome), trial.user_attrs.get("reason", ""))
        made += 1
    return made


def _measured(split: str, loss: float) -> dict[str, float]:
    return {f"{split}/loss": loss, f"{split}/perplexity": metrics.perplexity(loss)}
