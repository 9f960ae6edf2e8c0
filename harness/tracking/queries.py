"""Finds runs and points through MLflow's client, page by page."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from harness.tracking import schema
from harness.tracking.checksums import stored_identity_was
from harness.tracking.readable import REPAIR, Tell, readable_runs, why_left_out, wrong_point
from harness.tracking.store import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Metric, Run

_PAGE_SIZE: Final = 1000  # runs or experiments per request
_FAST_CLOCK: Final = 5 * 60 * 1000  # milliseconds by which the clock of another machine may be ahead


def sweeps_of(client: MlflowClient, experiment_id: str, tell: Tell = lambda _: None) -> list[Run]:
    """The parent runs of an experiment that can be read, sorted by when they were last started or resumed.

    `tell` gets a sentence about each other one.
    """
    runs = readable_runs(_parents(client, experiment_id), tell, schema.SWEEP)
    return sorted(runs, key=opened_at)


def refuse_unreadable(client: MlflowClient, experiment_id: str, identity: str | None = None) -> None:
    """Raise a `TrackingError` if a parent run cannot be read that may be the sweep of this identity; None: any one.

    Otherwise a sweep whose record was changed would begin again.
    """
    for run in _parents(client, experiment_id):
        sentence = why_left_out(run, schema.SWEEP)
        if sentence and (identity is None or _may_have_been(run, identity)):
            raise TrackingError(f"{sentence}; {REPAIR}")


def _parents(client: MlflowClient, experiment_id: str) -> list[Run]:
    return search_runs(client, [experiment_id], f"tags.`{schema.ROLE}` = '{schema.SWEEP}'")


def _may_have_been(run: Run, identity: str) -> bool:
    was = stored_identity_was(run, identity)
    return run.data.tags.get(schema.IDENTITY) == identity if was is None else was


def opened_at(run: Run) -> int:
    """When a sweep that can be read was last started or resumed, in milliseconds since 1970.

    A time in the future does not count: then it is when the sweep began.
    """
    opened = int(run.data.tags[schema.OPENED])
    return opened if opened < schema.milliseconds() + _FAST_CLOCK else int(run.info.start_time)


def trials_of(client: MlflowClient, experiment_id: str, parent: str, condition: str = "") -> list[Run]:
    """The child runs of a sweep, oldest first; only those that meet a condition, if one is given."""
    conditions = [f"tags.`{schema.PARENT_RUN}` = '{parent}'", condition]
    runs = search_runs(client, [experiment_id], " and ".join(filter(None, conditions)))
    return sorted(runs, key=lambda run: int(run.info.start_time or 0))


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
        gc.collect(0)  # MLflow's database objects, where the collector is paused: they are larger than the page
        if not token:
            return


def history(client: MlflowClient, run: Run, metric: str, tell: Tell = lambda _: None) -> list[Metric]:
    """A metric's points by step. If a step was stored twice, as after a resume, the later point counts.

    Points that cannot be read are left out; `tell` gets a sentence about the first of them.
    """
    if metric not in run.data.metrics:
        return []
    points = client.get_metric_history(run.info.run_id, metric)
    points = sorted(points, key=lambda point: (point.step, point.timestamp))
    wrong = {point.step: wrong_point(run, metric, point.step, point.value) for point in points}
    for sentence in list(filter(None, wrong.values()))[:1]:
        tell(sentence)
    return [point for point in {point.step: point for point in points}.values() if not wrong[point.step]]
