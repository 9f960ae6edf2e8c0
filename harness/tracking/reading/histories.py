"""Reads the points of many runs at once.

MLflow's client reads one metric of one run per request, which takes minutes for a large sweep. If this process can
reach the store's database, the metrics of a few hundred runs are read in one query through MLflow's own ORM model.
Servers are read through the client. Both ways give the same frame.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from harness.core.database_servers import until_available
from harness.tracking.readable import Tell, may_be_wrong, wrong_point

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from sqlalchemy import Engine, Select

COLUMNS: Final = ("run", "metric", "step", "timestamp", "value")
_MODEL_COLUMNS: Final = ("run_uuid", "key", "step", "timestamp", "value", "is_nan")  # of MLflow's `SqlMetric`
_NAMED: Final = ("run", "metric", "step", "value")
_NO_ROWS: Final = ((), (), (), (), ())
_RUNS_PER_QUERY: Final = 200  # SQLite takes at least 999 parameters in a statement


def read_points(client: MlflowClient, runs: Sequence[Run], only: Collection[str] | None = None) -> pd.DataFrame:
    """Every point of `runs`, sorted by run, metric and step.

    If a step was stored twice, as after a resume, the later point counts.

    Args:
        client: of the store.
        runs: whose points are read, each once.
        only: names of the metrics to read; None for all.

    Returns:
        columns run (its index in `runs`, int64), metric, step (int64), timestamp (milliseconds since 1970, int64) and
        value (float64).
    """
    return _joined(_blocks(client, runs, only))


def read_readable_points(
    client: MlflowClient, runs: Sequence[Run], only: Collection[str] | None, tell: Tell
) -> pd.DataFrame:
    """`read_points` without the points that cannot be read; `tell` gets a sentence about each of these."""
    return _joined(readable_blocks(client, runs, only, tell))


def readable_blocks(
    client: MlflowClient, runs: Sequence[Run], only: Collection[str] | None, tell: Tell
) -> Iterator[pd.DataFrame]:
    """The frame of `read_readable_points` in parts, each of some whole runs."""
    for points in _blocks(client, runs, only):
        suspicious = points[may_be_wrong(points["step"].to_numpy(), points["value"].to_numpy())]
        wrong = []
        for place, run, metric, step, value in zip(
            suspicious.index, *(suspicious[name].tolist() for name in _NAMED), strict=True
        ):
            if sentence := wrong_point(runs[run], metric, step, value):
                wrong.append(place)
                tell(sentence)
        yield points.drop(index=wrong).reset_index(drop=True) if wrong else points


def _joined(blocks: Iterable[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    empty = _frame(*_NO_ROWS)
    return pd.concat([block for block in blocks if len(block)] or [empty], ignore_index=True)


def _blocks(client: MlflowClient, runs: Sequence[Run], only: Collection[str] | None) -> Iterator[pd.DataFrame]:
    """The frame of `read_points` in parts, each of some whole runs."""
    import numpy as np
    import pandas as pd

    engine = database_of(client)
    for points in _from_client(client, runs, only) if engine is None else _from_database(engine, runs, only):
        metric, _ = pd.factorize(points["metric"], sort=True)  # numbers are sorted ten times as fast as names
        run, step, timestamp, value = (points[name].to_numpy() for name in ("run", "step", "timestamp", "value"))
        order = np.lexsort((value, timestamp, step, metric, run))
        last = np.ones(len(points), dtype=bool)
        if len(points):
            last[:-1] = np.any([np.diff(key[order]) != 0 for key in (run, metric, step)], axis=0)
        yield points.loc[order[last], list(COLUMNS)].reset_index(drop=True)


def _frame(run: Any, metric: Any, step: Any, timestamp: Any, value: Any) -> pd.DataFrame:
    """A frame with fixed column types, so that both ways agree."""
    import pandas as pd

    columns = {"run": run, "metric": metric, "step": step, "timestamp": timestamp, "value": value}
    types = {"run": "int64", "metric": "str", "step": "int64", "timestamp": "int64", "value": "float64"}
    return pd.DataFrame({name: pd.Series(column, dtype=types[name]) for name, column in columns.items()})


def _from_client(client: MlflowClient, runs: Sequence[Run], only: Collection[str] | None) -> Iterator[pd.DataFrame]:
    for index, run in enumerate(runs):
        names = sorted(run.data.metrics.keys() if only is None else run.data.metrics.keys() & set(only))
        histories = ((name, client.get_metric_history(run.info.run_id, name)) for name in names)
        rows = [
            (index, name, point.step, point.timestamp, point.value) for name, points in histories for point in points
        ]
        yield _frame(*(zip(*rows, strict=True) if rows else _NO_ROWS))


def _from_database(engine: Engine, runs: Sequence[Run], only: Collection[str] | None) -> Iterator[pd.DataFrame]:
    import numpy as np
    import pandas as pd
    from mlflow.store.tracking.dbmodels.models import SqlMetric
    from sqlalchemy import select

    try:
        for first in range(0, len(runs), _RUNS_PER_QUERY):
            index = {run.info.run_id: first + n for n, run in enumerate(runs[first : first + _RUNS_PER_QUERY])}
            query = select(*(getattr(SqlMetric, name) for name in _MODEL_COLUMNS))
            query = query.where(SqlMetric.run_uuid.in_(list(index)))
            if only is not None:
                query = query.where(SqlMetric.key.in_(sorted(only)))
            rows = until_available(partial(rows_of_query, engine, query), str(engine.url))
            ids, names, steps, stamps, values, nans = zip(*rows, strict=True) if rows else (*_NO_ROWS, ())
            codes, unique = pd.factorize(np.array(ids, dtype=object))
            run = np.array([index[run_id] for run_id in unique], dtype=np.int64)[codes]
            value = np.where(np.array(nans, dtype=bool), np.nan, np.array(values, dtype=np.float64))
            yield _frame(run, names, steps, stamps, value)
    finally:
        engine.dispose()


def rows_of_query(engine: Engine, query: Select[Any]) -> Sequence[Any]:
    """The driver's rows: SQLAlchemy's row objects would cost more than the query for millions of points."""
    with engine.connect() as connection:
        return connection.execute(query).cursor.fetchall()


def database_of(client: MlflowClient) -> Engine | None:
    """The database behind a store; None for a server, or if MLflow's model of metrics lacks the columns read here."""
    from mlflow.store.db.db_types import DATABASE_ENGINES
    from mlflow.store.tracking.dbmodels.models import SqlMetric
    from sqlalchemy import create_engine

    uri = str(client.tracking_uri)
    if urlsplit(uri).scheme.split("+")[0] not in DATABASE_ENGINES:
        return None
    known = all(hasattr(SqlMetric, name) for name in _MODEL_COLUMNS)
    return create_engine(uri) if known else None
