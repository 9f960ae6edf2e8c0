"""What a resumed sweep reads back of its own runs: results, interrupted runs, trials of its searches.

Each function asks MLflow only for the runs that it needs, with one paginated search. A run that cannot be read is left
out; `tell` gets a sentence about it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from harness.core import metrics
from harness.core.outcomes import Outcome, Phase
from harness.core.paths import configured_uri
from harness.core.text import is_key
from harness.tracking import schema
from harness.tracking.queries import trials_of
from harness.tracking.readable import Tell, readable_runs, whole, why_left_out
from harness.tracking.reading.frames import values_by_run
from harness.tracking.reading.histories import read_points, read_readable_points
from harness.tracking.reading.trials import read_trials
from harness.tracking.records import ConfirmResult, TrialRecord
from harness.tracking.store import connect, wrap_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_CONFIRM: Final = f"tags.`{schema.PHASE}` = '{Phase.CONFIRM}'"
_NOT_CONFIRM: Final = f"tags.`{schema.PHASE}` != '{Phase.CONFIRM}'"  # also a phase that makes no sense
_INTERRUPTED: Final = f"tags.`{schema.OUTCOME}` = '{Outcome.INTERRUPTED}'"


@wrap_errors()
def confirm_outcomes(
    sweep: str,
    metric: str,
    uri: str | None = None,
    tell: Tell = lambda _: None,
    seeds: Collection[int] | None = None,
) -> list[tuple[str, str | None, float | None]]:
    """Arm, outcome (None while it runs) and last value of a metric of a sweep's confirm runs, oldest first.

    Args:
        sweep: the parent run's id.
        metric: its name.
        uri: MLflow's tracking address; by default the one that sweeps use.
        tell: gets a sentence about each run of the sweep that cannot be read, whatever its phase.
        seeds: of the runs that the sweep plans; None: of all its runs.

    Raises:
        TrackingError: no such store or run.
    """
    client = connect(configured_uri(uri))
    runs = readable_runs(read_trials(client, client.get_run(sweep).info.experiment_id, sweep), tell)
    runs = [run for run in runs if run.data.tags[schema.PHASE] == Phase.CONFIRM]
    if seeds is not None:
        runs = [run for run in runs if int(run.data.tags[schema.SEED]) in seeds]
    return [
        (run.data.tags[schema.ARM], run.data.tags.get(schema.OUTCOME), run.data.metrics.get(metric)) for run in runs
    ]


def confirm_results(
    client: MlflowClient, experiment_id: str, parent: str, tell: Tell = lambda _: None
) -> list[ConfirmResult]:
    """A sweep's confirm runs that are complete or diverged, oldest first: they need not be trained again.

    Divergence is a result: the same configuration would diverge again.
    """
    runs = readable_runs(trials_of(client, experiment_id, parent, _CONFIRM), tell)
    initial = _initial_losses(client, [run for run in runs if run.data.tags.get(schema.OUTCOME) == Outcome.DIVERGED])
    found = []
    for run in runs:
        tags = run.data.tags
        outcome = Outcome(tags.get(schema.OUTCOME, Outcome.INTERRUPTED))
        if outcome.is_result:
            seed, digest = int(tags[schema.SEED]), tags[schema.CONFIG_SHA256]
            validation = {name: value for name, value in run.data.metrics.items() if name.startswith("val/")}
            run_id = run.info.run_id
            loss = initial.get(run_id)
            found.append(ConfirmResult(tags[schema.ARM], seed, digest, run_id, outcome, validation, loss))
    return found


def _initial_losses(client: MlflowClient, runs: Sequence[Run]) -> dict[str, float]:
    """Run id → validation loss at step 0, where there is one."""
    losses = values_by_run(read_points(client, runs, [metrics.VAL_LOSS])) if runs else {}
    return {runs[index].info.run_id: by_step[0] for index, by_step in losses.items() if 0 in by_step}


def interrupted_runs(client: MlflowClient, experiment_id: str, parent: str) -> dict[tuple[str, str], str]:
    """Configuration digest and phase → run key, of a sweep's interrupted runs."""
    runs = readable_runs(trials_of(client, experiment_id, parent, _INTERRUPTED), lambda _: None)
    tags = [run.data.tags for run in runs]
    return {(one[schema.CONFIG_SHA256], one[schema.PHASE]): one[schema.KEY] for one in tags if one.get(schema.KEY)}


def search_trials(
    client: MlflowClient, experiment_id: str, parent: str, metric: str | None, tell: Tell = lambda _: None
) -> list[TrialRecord]:
    """A sweep's runs that belong to an Optuna study, oldest first.

    Args:
        client, experiment_id, parent: the sweep.
        metric: the objective, whose points are read too; None: no points are read.
        tell: gets a sentence about each run that cannot be read and is no confirm run; such a run is returned without
            values, so that nobody takes it for lost.
    """
    runs = trials_of(client, experiment_id, parent, _NOT_CONFIRM)
    readable = readable_runs(runs, tell)
    unreadable = [_unreadable_trial(run) for run in runs if why_left_out(run)]
    runs = [run for run in readable if _is_trial(run)]
    if metric is None:
        return [*unreadable, *(_trial(run, {}, {}) for run in runs)]
    names = (metrics.TOKENS, metric, metrics.sample_metric(metric))
    points = read_readable_points(client, runs, names, tell)
    tokens, whole_split, sampled = (values_by_run(points[points["metric"] == name]) for name in names)
    found = []
    for index, run in enumerate(runs):
        by_step = tokens.get(index, {})
        on_split, on_sample = (
            {int(by_step[step]): value for step, value in one.get(index, {}).items() if step in by_step}
            for one in (whole_split, sampled)
        )
        found.append(_trial(run, on_split, on_sample or on_split))
    return [*unreadable, *found]


def _is_trial(run: Run) -> bool:
    tags = run.data.tags
    return tags[schema.PHASE] == Phase.EXPLORE and schema.TRIAL_NUMBER in tags


def _unreadable_trial(run: Run) -> TrialRecord:
    """A run that cannot be read as a trial: its key, study and number, as far as they make sense."""
    tags = run.data.tags
    key = tags.get(schema.KEY, "")
    number = whole(tags.get(schema.TRIAL_NUMBER))
    return TrialRecord(
        key=key if is_key(key) else "",
        study=tags.get(schema.STUDY, ""),
        number=-1 if number is None else number,
        params={},
        outcome=Outcome.INTERRUPTED,
        reason="",
        whole={},
        curve={},
        left_out=True,
    )


def _trial(run: Run, whole_split: Mapping[int, float], curve: Mapping[int, float]) -> TrialRecord:
    """A run as a trial; training tokens → the objective: on the whole split, and `curve` as the pruner sees it."""
    tags = run.data.tags
    return TrialRecord(
        key=tags.get(schema.KEY, ""),
        study=tags.get(schema.STUDY, ""),
        number=int(tags[schema.TRIAL_NUMBER]),
        params=schema.decode_params(run.data.params),
        outcome=Outcome(tags.get(schema.OUTCOME, Outcome.INTERRUPTED)),
        reason=tags.get(schema.REASON, ""),
        whole=whole_split,
        curve=curve,
    )
