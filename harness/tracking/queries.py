"""Finds runs and points through MLflow's client, page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from harness.tracking import schema
from harness.tracking.checksums import altered
from harness.tracking.store import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Metric, Run

_PAGE_SIZE: Final = 1000  # runs or experiments per request


def sweeps_of(client: MlflowClient, experiment_id: str) -> list[Run]:
    """The parent runs of an experiment, sorted by when they were last started or resumed."""
    runs = search_runs(client, [experiment_id], f"tags.`{schema.ROLE}` = '{schema.SWEEP}'")
    return sorted(runs, key=_opened)


def refuse_altered(runs: Iterable[Run]) -> None:
    """Raise a `TrackingError` for a parent run with a value that was changed after the harness stored it."""
    for run in runs:
        if sentence := altered(run):
            raise TrackingError(f"{sentence}; set it back in MLflow, or delete this run there")


def _opened(run: Run) -> int:
    text = run.data.tags.get(schema.OPENED, "")
    if not text.isdecimal():
        what = f"the tag {schema.OPENED} of the run {run.info.run_id} ({run.info.run_name})"
        raise TrackingError(f"found {text!r} as {what}; allowed: milliseconds since 1970, as the harness stored them")
    return int(text)


def trials_of(client: MlflowClient, experiment_id: str, parent: str, condition: str = "") -> list[Run]:
    """The child runs of a sweep, oldest first; only those that meet a condition, if one is given."""
    conditions = [f"tags.`{schema.PARENT_RUN}` = '{parent}'", condition]
    runs = search_runs(client, [experiment_id], " and ".join(filter(None, conditions)))
    return sorted(runs, key=lambda run: int(run.info.start_time))


def search_runs(client: MlflowClient, experiment_ids: list[str], condition: str, deleted: bool = False) -> list[Run]:
    """Every run that meets a condition in MLflow's search language; `deleted`: those in MLflow's trash instead."""
    from mlflow.entities import ViewType

    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    return list(pages(client.search_runs, experiment_ids=experiment_ids, filter_string=condition, run_view_type=view))


def every_experiment(client: MlflowClient) -> Iterator[Experiment]:
    """All experiments, those in MLflow's trash too."""
    from mlflow.entities import ViewType

    return pages(client.search_experiments, view_type=ViewType.ALL)


def pages(search: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
    """All results of one of MLflow's paged searches."""
    token = None
    while True:
        page = search(**arguments, max_results=_PAGE_SIZE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def history(client: MlflowClient, run: Run, metric: str) -> list[Metric]:
    """A metric's points by step. If a step was stored twice, as after a resume, the later point counts."""
    if metric not in run.data.metrics:
        return []
    points = client.get_metric_history(run.info.run_id, metric)
    points = sorted(points, key=lambda point: (point.step, point.timestamp))
    return list({point.step: point for point in points}.values())
