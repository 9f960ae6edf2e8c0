"""Runs that are read from the database's rows are those that MLflow's client gives."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from harness.core.outcomes import Outcome
from harness.tracking import Tracker
from harness.tracking.queries import trials_of
from harness.tracking.reading import trials as module
from harness.tracking.reading.trials import read_trials
from stored_runs import point, sweep_info, trial_info


def plain(run: Run) -> dict[str, Any]:
    content: dict[str, Any] = run.to_dictionary()
    return {"info": content["info"], "data": content["data"]}


def test_both_ways_give_the_same_runs(any_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RUNS_PER_QUERY", 2)
    tracker = Tracker("runs-both-ways", any_store)
    client: MlflowClient = tracker.experiment.client
    other, parent = (tracker.open_sweep(sweep_info("runs-both-ways", identity)) for identity in ("1" * 64, "2" * 64))
    for seed in range(5):
        run = tracker.start_run(
            other if seed == 4 else parent, trial_info(f"ü {seed}", seed=seed), at=1000 * (9 - seed)
        )
        tracker.log_point(run, point(0, val__loss=5.0 + seed))
        tracker.log_point(run, point(20, val__loss=1e-300, train__loss=2.0))
        if seed:
            tracker.end_run(run, Outcome.DIVERGED, "a reason")
        if seed == 3:
            client.delete_run(run)
        if seed == 2:
            client.log_metric(run, "not a number", float("nan"), step=2)
    found = read_trials(client, tracker.experiment.id, parent)
    expected = trials_of(client, tracker.experiment.id, parent)
    assert [run.info.run_name for run in found] == ["ü 2", "ü 1", "ü 0"]
    for ours, theirs in zip(found, expected, strict=True):
        assert repr(plain(ours)) == repr(plain(theirs))
