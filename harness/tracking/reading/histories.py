"""The points of many runs at once.

MLflow's client is asked for one metric of one run at a time, which takes minutes for a large sweep. Where the store is
a database that this process reaches, its table of metrics is read instead, a few hundred runs a query, through MLflow's
own description of the table; one that looks otherwise, and every server, is read through the client. Both ways give
the same frame.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from sqlalchemy import Engine

COLUMNS: Final = ("run", "metric", "step", "timestamp", "value")
_NOTHING: Final = ((), (), (), (), ())
_RUNS_AT_ONCE: Final = 200  # SQLite takes at least 999 parameters in a statement


def read_points(client: MlflowClient, runs: Sequence[Run], only: Collection[str] | None = None) -> pd.DataFrame:
    """Every point of `runs`, sorted by run, metric and step.

    Of a step that was stored twice, as after a resume, the later one is taken.

    Args:
        client: of the store.
        runs: whose points are wanted, each once.
        only: names of the metrics to read; None for all.

    Returns:
        columns run (its place in `runs`, int64), metric, step (int64), timestamp (milliseconds since 1970, int64) and
        value (float64).
    """
    import numpy as np
    import pandas as pd

    engine = _database(client)
    parts = [
        _frame(*_NOTHING),
        *(_from_client(client, runs, only) if engine is None else _from_database(engine, runs, only)),
    ]
    points = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    metric, _ = pd.factorize(points["metric"], sort=True)  # numbers are sorted ten times as fast as names
    run, step, timestamp, value = (points[name].to_numpy() for name in ("run", "step", "timestamp", "value"))
    order = np.lexsort((value, timestamp, step, metric, run))
    last = np.ones(len(points), dtype=bool)
    if len(points):
        last[:-1] = np.any([np.diff(key[order]) != 0 for key in (run, metric, step)], axis=0)
    return points.loc[order[last], list(COLUMNS)].reset_index(drop=True)


def _frame(run: Any, metric: Any, step: Any, timestamp: Any, value: Any) -> pd.DataFrame:
    """Columns with types of their own, so that both ways agree."""
    import pandas as pd

    columns = {"run": run, "metric": metric, "step": step, "timestamp": timestamp, "value": value}
    types = {"run": "int64", "metric": "str", "step": "int64", "timestamp": "int64", "value": "float64"}
    return pd.DataFrame({name: pd.Series(column, dtype=types[name]) for name, column in columns.items()})


def _from_client(client: MlflowClient, runs: Sequence[Run], only: Collection[str] | None) -> Iterator[pd.DataFrame]:
    for place, run in enumerate(runs):
        names = sorted(run.data.metrics.keys() if only is None else run.data.metrics.keys() & set(only))
        histories = ((name, client.get_metric_history(run.info.run_id, name)) for name in names)
        rows = [(place, name, it.step, it.timestamp, it.value) for name, points in histories for it in points]
        yield _frame(*(zip(*rows, strict=True) if rows else _NOTHING))


def _from_database(engine: Engine, runs: Sequence[Run], only: Collection[str] | None) -> Iterator[pd.DataFrame]:
    import numpy as np
    import pandas as pd
    from mlflow.store.tracking.dbmodels.models import SqlMetric
    from sqlalchemy import select

    table = SqlMetric.__table__.c
    try:
        with engine.connect() as connection:
            for first in range(0, len(runs), _RUNS_AT_ONCE):
                places = {run.info.run_id: first + n for n, run in enumerate(runs[first : first + _RUNS_AT_ONCE])}
                query = select(table.run_uuid, table.key, table.step, table.timestamp, table.value, table.is_nan)
                query = query.where(table.run_uuid.in_(list(places)))
                if only is not None:
                    query = query.where(table.key.in_(sorted(only)))
                # The driver's own rows: millions of them are wrapped at some cost, and none needs to be.
                rows = connection.execute(query).cursor.fetchall()
                ids, names, steps, stamps, values, nans = zip(*rows, strict=True) if rows else (*_NOTHING, ())
                found, known = pd.factorize(np.array(ids, dtype=object))
                place = np.array([places[run_id] for run_id in known], dtype=np.int64)[found]
                number = np.where(np.array(nans, dtype=bool), np.nan, np.array(values, dtype=np.float64))
                yield _frame(place, names, steps, stamps, number)
    finally:
        engine.dispose()


def _database(client: MlflowClient) -> Engine | None:
    """The database behind a store, if its table of metrics is the one that is known here; else None."""
    from mlflow.store.db.db_types import DATABASE_ENGINES
    from sqlalchemy import create_engine, inspect

    uri = str(client.tracking_uri)
    if urlsplit(uri).scheme.split("+")[0] not in DATABASE_ENGINES:
        return None
    engine = create_engine(uri)
    wanted = {"run_uuid", "key", "step", "timestamp", "value", "is_nan"}
    tables = inspect(engine)
    if tables.has_table("metrics") and wanted <= {column["name"] for column in tables.get_columns("metrics")}:
        return engine
    engine.dispose()
    return None
