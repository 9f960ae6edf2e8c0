"""An experiment that is opened for writing."""

from __future__ import annotations

import pytest

from harness.tracking import SweepState, Tracker, TrackingError, find_sweep, load_runs
from stored_runs import Store, experiment_of


@pytest.mark.parametrize("name", ["../x", "a/b", "", "x\n", "a b", "..", "'; DROP TABLE runs; --"])
def test_a_name_that_is_not_a_slug_is_refused(store: Store, name: str) -> None:
    with pytest.raises(AssertionError, match="slug"):
        Tracker(name, store.uri)
    with pytest.raises(TrackingError):
        load_runs(name, store.uri)


def find(name: str, uri: str) -> SweepState | None:
    return find_sweep(name, "1" * 64, uri)


def test_a_deleted_experiment_is_named_by_what_writes_and_what_reads(store: Store) -> None:
    Tracker("binned", store.uri)
    number = experiment_of(store.client, "binned").experiment_id
    store.client.delete_experiment(number)
    restore = f"MLFLOW_TRACKING_URI='?{store.uri}'? python -m mlflow experiments restore --experiment-id {number};"
    for use in (Tracker, load_runs, find):
        with pytest.raises(TrackingError, match=f"^the experiment 'binned' was deleted .* to restore it: {restore}"):
            use("binned", store.uri)
