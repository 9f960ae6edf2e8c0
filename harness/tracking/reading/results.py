"""What a resumed sweep reads back of its own runs: results, interrupted runs, trials of its searches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.core import metrics
from harness.core.outcomes import Outcome, Phase
from harness.tracking import schema
from harness.tracking.queries import history, trials_of
from harness.tracking.records import ConfirmResult, TrialRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def confirm_results(client: MlflowClient, experiment_id: str, parent: str) -> list[ConfirmResult]:
    """A sweep's confirm runs that are complete or diverged, oldest first: they need not be trained again.

    Divergence is a result: the same configuration would diverge again.
    """
    found = []
    for run in trials_of(client, experiment_id, parent):
        tags = run.data.tags
        outcome = Outcome(tags.get(schema.OUTCOME, Outcome.INTERRUPTED))
        if outcome.is_result and tags.get(schema.PHASE) == Phase.CONFIRM:
            seed, digest = int(tags[schema.SEED]), tags[schema.CONFIG_SHA256]
            validation = {name: value for name, value in run.data.metrics.items() if name.startswith("val/")}
            initial = _initial_loss(client, run) if outcome is Outcome.DIVERGED else None
            found.append(ConfirmResult(tags[schema.ARM], seed, digest, run.info.run_id, outcome, validation, initial))
    return found


def _initial_loss(client: MlflowClient, run: Run) -> float | None:
    return next((point.value for point in history(client, run, metrics.VAL_LOSS) if point.step == 0), None)


def interrupted_runs(client: MlflowClient, experiment_id: str, parent: str) -> dict[tuple[str, str], str]:
    """Configuration digest and phase → run key, of a sweep's interrupted runs."""
    tags = [run.data.tags for run in trials_of(client, experiment_id, parent)]
    interrupted = [one for one in tags if one.get(schema.OUTCOME) == Outcome.INTERRUPTED and one.get(schema.KEY)]
    return {(one[schema.CONFIG_SHA256], one[schema.PHASE]): one[schema.KEY] for one in interrupted}


def search_trials(client: MlflowClient, experiment_id: str, parent: str, metric: str | None) -> list[TrialRecord]:
    """A sweep's runs that belong to an Optuna study, oldest first.

    Args:
        client, experiment_id, parent: the sweep.
        metric: the objective, whose points are read too at two requests per run; None: no points are read.
    """
    runs = [run for run in trials_of(client, experiment_id, parent) if schema.TRIAL_NUMBER in run.data.tags]
    return [_trial(run, *(_values(client, run, metric) if metric else ({}, {}))) for run in runs]


def _trial(run: Run, whole: Mapping[int, float], curve: Mapping[int, float]) -> TrialRecord:
    tags = run.data.tags
    return TrialRecord(
        key=tags.get(schema.KEY, ""),
        study=tags.get(schema.STUDY, ""),
        number=int(tags[schema.TRIAL_NUMBER]),
        params={name: schema.decode_param(value) for name, value in run.data.params.items()},
        outcome=Outcome(tags.get(schema.OUTCOME, Outcome.INTERRUPTED)),
        reason=tags.get(schema.REASON, ""),
        whole=whole,
        curve=curve,
    )


def _values(client: MlflowClient, run: Run, metric: str) -> tuple[dict[int, float], dict[int, float]]:
    """Training tokens → value of a metric: over the whole validation split, and as the pruner sees it."""
    tokens = {point.step: int(point.value) for point in history(client, run, metrics.TOKENS)}
    whole, sampled = (
        {tokens[point.step]: point.value for point in history(client, run, name) if point.step in tokens}
        for name in (metric, metrics.sample_metric(metric))
    )
    return whole, sampled or whole
