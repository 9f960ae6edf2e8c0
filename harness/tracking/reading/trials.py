"""Reads the child runs of a sweep at once.

MLflow's client makes objects of its ORM from every tag and parameter, which takes 3 ms a run: half a minute for ten
thousand. If this process can reach the store's database, rows are read through MLflow's model of its tables instead.
Servers are read through the client. Both ways give the same runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from harness.core.database_servers import until_available
from harness.tracking import schema
from harness.tracking.queries import trials_of
from harness.tracking.reading.histories import database_of, rows_of_query

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from sqlalchemy import Engine, Select

_INFO: Final = (
    *("run_uuid", "experiment_id", "user_id", "status", "start_time", "end_time"),
    *("lifecycle_stage", "artifact_uri", "name"),
)  # columns of MLflow's `SqlRun`, in the order of `RunInfo`
_LATEST: Final = ("run_uuid", "key", "value", "timestamp", "step", "is_nan")  # of its `SqlLatestMetric`
_RUNS_PER_QUERY: Final = 200  # SQLite takes at least 999 parameters in a statement


def read_trials(client: MlflowClient, experiment_id: str, parent: str) -> list[Run]:
    """The child runs of a sweep, oldest first, without their inputs."""
    engine = database_of(client)
    if engine is None or not _known():
        return trials_of(client, experiment_id, parent)
    try:
        return _from_database(engine, experiment_id, parent)
    finally:
        engine.dispose()


def _known() -> bool:
    """Whether MLflow's models have the columns that are read here."""
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlRun

    return all(hasattr(SqlRun, name) for name in _INFO) and all(hasattr(SqlLatestMetric, name) for name in _LATEST)


def _from_database(engine: Engine, experiment_id: str, parent: str) -> list[Run]:
    from mlflow.entities import LifecycleStage, Metric, Param, Run, RunData, RunInfo, RunTag
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam, SqlRun, SqlTag
    from sqlalchemy import select

    def read(table: Any, names: Sequence[str], *conditions: Any) -> Sequence[Any]:
        query = select(*(getattr(table, name) for name in names)).where(*conditions)
        return until_available(partial(rows_of_query, engine, query), str(engine.url))

    children: Select[Any] = select(SqlTag.run_uuid).where(SqlTag.key == schema.PARENT_RUN, SqlTag.value == parent)
    own = (SqlRun.experiment_id == int(experiment_id), SqlRun.lifecycle_stage == LifecycleStage.ACTIVE)
    infos = read(SqlRun, _INFO, SqlRun.run_uuid.in_(children), *own)
    infos = sorted(infos, key=lambda row: (int(row[4] or 0), row[0]))
    found = []
    for first in range(0, len(infos), _RUNS_PER_QUERY):
        block = infos[first : first + _RUNS_PER_QUERY]
        ids = [row[0] for row in block]
        tags, params, metrics = (defaultdict[str, list[Any]](list) for _ in range(3))
        for run, key, value in read(SqlTag, ("run_uuid", "key", "value"), SqlTag.run_uuid.in_(ids)):
            tags[run].append(RunTag(key, value))
        for run, key, value in read(SqlParam, ("run_uuid", "key", "value"), SqlParam.run_uuid.in_(ids)):
            params[run].append(Param(key, value))
        for run, key, value, when, step, is_nan in read(SqlLatestMetric, _LATEST, SqlLatestMetric.run_uuid.in_(ids)):
            metrics[run].append(Metric(key, float("nan") if is_nan else value, when, step))
        for run, experiment, *rest in block:
            info = RunInfo(run, str(experiment), *rest)
            found.append(Run(info, RunData(metrics[run], params[run], tags[run])))
    return found
