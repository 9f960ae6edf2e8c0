"""Runs and curves as pandas frames."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pandas as pd
import pytest

from harness.core.metrics import VAL_LOSS, VAL_PERPLEXITY
from harness.core.outcomes import Outcome, Phase
from harness.tracking import Tracker, TrackingError, load_curves, load_runs
from harness.tracking.schema import CHECKSUMS
from stored_runs import DATA, Store, config, point, sweep_info, trial_info


def test_runs_as_a_frame(store: Store) -> None:
    tracker = Tracker("frame", store.uri)
    parent = tracker.open_sweep(sweep_info("frame"))
    paths = ("a.txt", "b.txt")
    by_size = config(batch_tokens=None, batch_size=4, seed=2**62)
    by_size = by_size.model_copy(update={"data": by_size.data.model_copy(update={"corpus": None, "path": paths})})
    infos = [trial_info("one", Phase.EXPLORE), replace(trial_info("two"), config=by_size, seed=2**62)]
    for info, losses in zip(infos, ([5.0, 2.0, 3.0], [4.0]), strict=True):
        run_id = tracker.start_run(parent, info)
        for index, loss in enumerate(losses):
            tracker.log_point(run_id, point(10 * index, val__loss=loss, val__perplexity=math.exp(loss)))
        tracker.end_run(run_id, Outcome.COMPLETE)
    running = tracker.start_run(parent, trial_info("three"))

    frame = load_runs("frame", store.uri)
    assert set(frame["data_sha256"]) == {DATA["sha256"]} and set(frame["data_fingerprint"]) == {DATA["fingerprint"]}
    assert ", python 3.1" in frame["versions"][0] and "mlflow 3." in frame["versions"][0]
    assert set(frame["non_finite"]) == {""}
    assert list(frame["name"]) == ["one", "two", "three"]
    assert list(frame[VAL_LOSS])[:2] == [3.0, 4.0]  # last
    assert list(frame["best_val_loss"])[:2] == [2.0, 4.0]
    assert list(frame["initial_val_loss"])[:2] == [5.0, 4.0]
    assert list(frame[VAL_PERPLEXITY])[:2] == [math.exp(3), math.exp(4)]
    assert list(frame["steps"])[:2] == [20, 0] and list(frame["tokens"])[:2] == [1280, 0]
    assert list(frame["seed"]) == [7, 2**62, 7] and frame["seed"].dtype == "int64"
    assert frame["trial_number"].dtype == "Int64" and frame["trial_number"].isna().tolist() == [False, True, True]
    assert frame["started"].dt.tz is not None
    now = pd.Timestamp.now(tz="UTC")
    assert ((now - frame["started"]) < pd.Timedelta(minutes=5)).all()
    assert frame["seconds"].tolist()[:2] == [2.0, 0.0] and pd.isna(frame["seconds"][2])  # the clock of the run
    last = frame.iloc[2]
    assert (last["run_id"], last["status"], last["phase"]) == (running, "RUNNING", "confirm")
    assert pd.isna(last["outcome"]) and pd.isna(last["best_val_loss"]) and pd.isna(last["steps"])

    # Every parameter as it was, type for type, also where other runs do not have it.
    for info, row in zip(infos, frame.to_dict("records")[:2], strict=True):
        flat = info.config.flat()
        assert {name: row[name] for name in flat if name != "data.path"} == {
            name: value for name, value in flat.items() if name != "data.path"
        }
        assert row["parameters"] == info.config.parameters and row["flops_per_token"] == info.config.flops_per_token
    assert frame["train.batch_size"].dtype == "Int64" and frame["train.batch_size"].tolist()[1] == 4
    assert frame["train.learning_rate"].dtype == "float64" and frame["model.qkv_bias"].dtype == "bool"
    assert frame["data.path"][1] == paths
    assert frame["train.seed"].tolist()[1] == 2**62

    assert load_runs("frame", store.uri, parent).equals(frame)


def test_frames_without_runs_have_their_columns(store: Store) -> None:
    Tracker("empty", store.uri)
    with pytest.raises(TrackingError, match="found no sweep in the experiment 'empty'"):
        load_runs("empty", store.uri)
    Tracker("empty", store.uri).open_sweep(sweep_info("empty"))
    runs, curves = load_runs("empty", store.uri), load_curves("empty", store.uri)
    assert len(runs) == len(curves) == 0
    assert {"run_id", "arm", "phase", "seed", "outcome", "best_val_loss", "trial_number"} <= set(runs)
    assert list(curves) == ["run_id", "arm", "phase", "seed", "outcome", "step", "tokens", "seconds", "metric", "value"]


def test_curves_as_a_frame(store: Store) -> None:
    tracker = Tracker("curves", store.uri)
    parent = tracker.open_sweep(sweep_info("curves"))
    ids = [tracker.start_run(parent, trial_info(seed=seed)) for seed in (2, 1)]
    tracker.log_point(ids[1], point(0, val__loss=9.0))
    tracker.log_point(ids[0], point(10, val__loss=4.0, train__loss=3.0))
    time.sleep(0.005)  # the order in which points were stored is not that of their steps
    tracker.log_point(ids[0], point(5, val__loss=5.0))
    tracker.flush()
    store.client.log_metric(ids[0], VAL_LOSS, 4.5, timestamp=2**43, step=10)  # the step once more, after a resume
    for run_id in ids:
        tracker.end_run(run_id, Outcome.COMPLETE)
    store.client.delete_tag(ids[0], CHECKSUMS)  # as an older version stored it
    curves = load_curves("curves", store.uri)
    columns = ["run_id", "seed", "metric", "step", "tokens", "value"]
    assert list(curves[columns].itertuples(index=False, name=None)) == [
        (ids[0], 2, "train/loss", 10, 640, 3.0),
        (ids[0], 2, "val/loss", 5, 320, 5.0),
        (ids[0], 2, "val/loss", 10, 640, 4.5),
        (ids[1], 1, "val/loss", 0, 0, 9.0),
    ]
    assert curves[["step", "tokens"]].dtypes.tolist() == ["int64", "int64"]
    assert list(curves["seconds"]) == pytest.approx([0.5, 0.0, 0.5, 0.0])  # 1.0 and 0.5 s after the trainer began
    assert set(curves["arm"]) == {"drop_rate=0.0"} and set(curves["outcome"]) == {"complete"}
    assert list(load_curves("curves", store.uri, only=["train/loss"])["value"]) == [3.0]


def test_without_a_clock_of_its_own_a_run_took_the_time_from_start_to_end(store: Store) -> None:
    tracker = Tracker("clockless", store.uri)
    parent = tracker.open_sweep(sweep_info("clockless"))
    for seed, start, end in ((1, 2000, 3500), (2, 4000, 4000)):
        run_id = tracker.start_run(parent, trial_info(seed=seed), at=start)
        tracker.log_point(run_id, replace(point(10, val__loss=3.0), seconds=math.nan), at=start)
        tracker.end_run(run_id, Outcome.COMPLETE, at=end)
    frame = load_runs("clockless", store.uri)
    seconds = frame.set_index("seed")["seconds"]  # runs of one start are in no fixed order
    assert seconds[1] == 1.5 and pd.isna(seconds[2])  # no run takes no time
    assert set(frame["non_finite"]) == {""}
    assert "perf/seconds" not in frame
