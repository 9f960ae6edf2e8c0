"""Points read in bulk from the database and through MLflow's client are equal."""

from __future__ import annotations

import gc

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from harness.core.outcomes import Outcome
from harness.tracking import Tracker, load_curves, load_frames, load_runs
from harness.tracking.reading import histories as module
from harness.tracking.reading.histories import read_points
from harness.tracking.schema import CHECKSUMS
from harness.tracking.store import connect
from stored_runs import Store, experiment_of, point, sweep_info, trial_info


@pytest.fixture(scope="module")
def uri(store: Store) -> str:
    """A sweep of three runs: a complete one, one with a step stored twice and a NaN, one without a point."""
    tracker = Tracker("points", store.uri)
    parent = tracker.open_sweep(sweep_info("points"))
    complete, repeated, empty = (tracker.start_run(parent, trial_info(seed=seed)) for seed in (1, 2, 3))
    for step in (0, 1, 2):
        tracker.log_point(complete, point(step, train__batch_loss=3.0 - step, val__loss=2.5 + (step - 1) ** 2))
    tracker.log_point(repeated, point(0, val__loss=5.0, train__batch_loss=1e300))
    tracker.flush()
    again = [Metric("val/loss", 4.0, 2**42, 0), Metric("val/loss", 4.5, 2**42, 7), Metric("tokens", 64.0, 2**42, 0)]
    tracker.experiment.client.log_batch(repeated, metrics=[*again, Metric("optim/grad_norm", float("nan"), 2**42, 7)])
    for run_id in (complete, repeated, empty):
        tracker.end_run(run_id, Outcome.COMPLETE)
    store.client.delete_tag(repeated, CHECKSUMS)  # as an older version stored it
    return store.uri


def through_the_client(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, "database_of", lambda client: None)


@pytest.mark.parametrize(("only", "count"), [(None, 10), (["val/loss"], 5), (["nothing/of/that/name"], 0), ([], 0)])
def test_both_ways_give_equal_frames(
    uri: str, monkeypatch: pytest.MonkeyPatch, only: list[str] | None, count: int
) -> None:
    runs, curves = load_runs("points", uri), load_curves("points", uri, only=only)
    through_the_client(monkeypatch)
    pd.testing.assert_frame_equal(load_runs("points", uri), runs)
    pd.testing.assert_frame_equal(load_curves("points", uri, only=only), curves)
    assert len(curves) == count


def test_load_frames_gives_the_frames_of_load_runs_and_load_curves(uri: str) -> None:
    frozen = gc.get_freeze_count()
    runs, curves = load_frames("points", uri)
    assert gc.isenabled() and gc.get_freeze_count() == frozen  # a notebook needs the garbage collector afterwards
    pd.testing.assert_frame_equal(runs, load_runs("points", uri))
    pd.testing.assert_frame_equal(curves, load_curves("points", uri))


def test_the_later_of_two_values_of_a_step_counts(uri: str) -> None:
    curves = load_curves("points", uri, only=["val/loss"])
    repeated = curves[curves["seed"] == 2]
    assert repeated[["step", "value"]].values.tolist() == [[0, 4.0], [7, 4.5]]
    assert repeated["tokens"].tolist() == [64, pd.NA]
    runs = load_runs("points", uri).set_index("seed")
    assert runs["initial_val_loss"].to_dict() == pytest.approx({1: 3.5, 2: 4.0, 3: float("nan")}, nan_ok=True)
    assert runs["best_val_loss"].to_dict() == pytest.approx({1: 2.5, 2: 4.0, 3: float("nan")}, nan_ok=True)
    assert runs["steps"].tolist() == [2, 0, pd.NA]


def test_many_runs_are_read_in_few_queries(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(uri)
    runs = list(client.search_runs([experiment_of(client, "points").experiment_id]))
    expected = read_points(client, runs)
    monkeypatch.setattr(module, "_RUNS_PER_QUERY", 1)
    pd.testing.assert_frame_equal(read_points(client, runs), expected)
    monkeypatch.setattr(type(client), "get_metric_history", lambda *_: pytest.fail("asked for a single metric"))
    pd.testing.assert_frame_equal(read_points(client, runs), expected)


def test_a_server_and_an_unknown_model_of_metrics_are_left_to_the_client(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = module.database_of(connect(uri))
    assert engine is not None
    engine.dispose()
    assert module.database_of(MlflowClient(tracking_uri="http://127.0.0.1:5000")) is None
    monkeypatch.setattr(module, "_MODEL_COLUMNS", (*module._MODEL_COLUMNS, "renamed"))
    assert module.database_of(connect(uri)) is None
