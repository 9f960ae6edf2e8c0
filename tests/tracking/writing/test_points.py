"""Points that are written to MLflow's tables are those that its own client writes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric
from sqlalchemy import create_engine, select

from harness.core.paths import with_driver
from harness.tracking.store import TrackingError, connect, wrap_errors
from harness.tracking.writing import points as module
from harness.tracking.writing.points import PointTables
from stored_runs import Store


@pytest.fixture
def client(any_store: str) -> MlflowClient:
    return connect(any_store)


def new_runs(client: MlflowClient, name: str, count: int) -> list[str]:
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    return [client.create_run(experiment).info.run_id for _ in range(count)]


def rows(client: MlflowClient, runs: Sequence[str]) -> list[list[list[Any]]]:
    """What both tables have of each run, without its id."""
    engine = create_engine(with_driver(str(client.tracking_uri)))
    found = []
    with engine.connect() as connection:
        for run in runs:
            for table in (SqlMetric.__table__, SqlLatestMetric.__table__):
                names = sorted(column.name for column in table.columns if column.name != "run_uuid")
                query = select(*(table.c[name] for name in names)).where(table.c.run_uuid == run)
                found.append(sorted([list(row) for row in connection.execute(query)]))
    engine.dispose()
    return found


def batches(chance: random.Random, runs: int) -> list[Mapping[int, list[Metric]]]:
    """Points of several runs, in batches: some come again, some late, some steps twice with another value or time."""
    made = list[Mapping[int, list[Metric]]]()
    for _ in range(6):
        batch: dict[int, list[Metric]] = {run: [] for run in range(runs)}
        for _ in range(chance.randrange(1, 30)):
            values = chance.choice([0.5, -1e300, 5e-324, chance.random()])
            one = Metric(chance.choice(["val/loss", "a", "b"]), values, chance.randrange(3), chance.randrange(4))
            batch[chance.randrange(runs)].append(one)
        made.append(batch)
    made.append(chance.choice(made))
    return made


def test_both_ways_give_the_same_tables(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 7)
    tables = PointTables(client)
    assert tables.usable
    for seed in range(3):
        ours, theirs = new_runs(client, "both ways", 3), new_runs(client, "both ways", 3)
        for batch in batches(random.Random(seed), 3):
            tables.store({ours[run]: some for run, some in batch.items()})
            for run, some in batch.items():
                client.log_batch(theirs[run], metrics=some)
        assert rows(client, ours) == rows(client, theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert client.get_run(one).data.metrics == client.get_run(other).data.metrics


def test_a_failed_transaction_stores_nothing_and_can_be_repeated(client: MlflowClient) -> None:
    tables, [run] = PointTables(client), new_runs(client, "failed", 1)
    good, bad = Metric("a", 1.0, 0, 0), Metric("a", cast(float, None), 0, 1)
    with pytest.raises(TrackingError, match=r"^MLflow: "), wrap_errors():
        tables.store({run: [good, bad]})
    assert not client.get_run(run).data.metrics
    tables.store({run: [good]})
    assert client.get_run(run).data.metrics == {"a": 1.0}


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "mysql+pymysql://u:p@h/d"])
def test_servers_and_other_databases_get_points_through_the_client(uri: str) -> None:
    assert not PointTables(cast(MlflowClient, SimpleNamespace(tracking_uri=uri))).usable


def test_tables_of_another_mlflow_are_left_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COLUMNS", {*module._COLUMNS, "another"})
    assert not PointTables(connect(store.uri)).usable


def test_no_file_stays_open(store: Store) -> None:
    import psutil

    client = connect(store.uri)
    [run] = new_runs(client, "open files", 1)
    before = psutil.Process().open_files()
    PointTables(client).store({run: [Metric("a", 1.0, 0, 0)]})
    assert Path(store.uri.removeprefix("sqlite:///")).is_file()
    assert len(psutil.Process().open_files()) == len(before)
