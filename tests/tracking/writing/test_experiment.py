"""An experiment that is opened for writing."""

from __future__ import annotations

import pytest

from harness.tracking import Tracker, TrackingError, load_runs
from stored_runs import Store, experiment_of


@pytest.mark.parametrize("name", ["../x", "a/b", "", "x\n", "a b", "..", "'; DROP TABLE runs; --"])
def test_a_name_that_is_not_a_slug_is_refused(store: Store, name: str) -> None:
    with pytest.raises(AssertionError, match="slug"):
        Tracker(name, store.uri)
    with pytest.raises(TrackingError):
        load_runs(name, store.uri)


def test_a_deleted_experiment_is_not_written_to(store: Store) -> None:
    Tracker("binned", store.uri)
    number = experiment_of(store.client, "binned").experiment_id
    store.client.delete_experiment(number)
    with pytest.raises(TrackingError, match=f"deleted; .* restore it: .*--experiment-id {number}"):
        Tracker("binned", store.uri)
    with pytest.raises(TrackingError, match="found no experiment 'binned'"):
        load_runs("binned", store.uri)
