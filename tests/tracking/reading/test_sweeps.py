"""Which sweep is read, and losses by position."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.core.outcomes import Outcome
from harness.tracking import Tracker, TrackingError, load_positions, load_runs, load_sweep
from harness.tracking.places import local_folder
from stored_runs import Store, ended, point, sweep_info, trial_info


def test_sweeps_can_be_chosen(store: Store) -> None:
    ids = []
    for identity in ("4" * 64, "5" * 64):
        tracker = Tracker("two", store.uri)
        parent = tracker.open_sweep(sweep_info("two", identity))
        run_id = tracker.start_run(parent, trial_info())
        tracker.end_run(run_id, Outcome.COMPLETE)
        ids.append((parent, run_id))
    (first, first_run), (_, second_run) = ids
    assert list(load_runs("two", store.uri)["run_id"]) == [second_run]
    assert list(load_runs("two", store.uri, first)["run_id"]) == [first_run]
    everything = load_runs("two", store.uri, "all")
    assert list(zip(everything["sweep"], everything["run_id"], strict=True)) == ids
    with pytest.raises(TrackingError, match=f"found no sweep 'x' in the experiment 'two'; allowed: {first}"):
        load_runs("two", store.uri, "x")
    with pytest.raises(TrackingError, match=r"found no experiment 'twoo'; allowed: .*first, .*second, .*two"):
        load_sweep("twoo", store.uri)


def test_a_sweep_has_the_name_that_it_was_asked_for_by_and_its_own_description(store: Store) -> None:
    parent, other = (Tracker(name, store.uri).open_sweep(sweep_info(name, name[0] * 64)) for name in ("named", "odd"))
    number = store.client.get_run(parent).info.experiment_id
    store.client.rename_experiment(number, "renamed")
    assert load_sweep("renamed", store.uri).name == "renamed"
    mine, theirs = (
        Path(str(local_folder(store.client.get_run(run).info.artifact_uri, store.uri))) / "sweep.json"
        for run in (parent, other)
    )
    mine.write_bytes(theirs.read_bytes())
    with pytest.raises(TrackingError, match=rf"sweep.json of the run {parent} does not match the tag harness.identity"):
        load_sweep("renamed", store.uri)


def test_losses_by_position_as_a_frame(store: Store) -> None:
    last = dataclasses.replace(point(20, val__loss=2.0), by_position=(5.5, 4.25, 4.0))
    complete = ended(store, "positions", trial_info(), point(0, val__loss=9.0), last)
    frame = load_positions("positions", store.uri)
    assert frame["run_id"].unique().tolist() == [complete]
    assert frame[["position", "loss"]].to_numpy().tolist() == [[1, 5.5], [2, 4.25], [3, 4.0]]
    ended(store, "no-positions", trial_info(), last, outcome=Outcome.PRUNED)
    empty = load_positions("no-positions", store.uri)
    assert empty.empty
    assert list(empty.columns) == list(frame.columns)


@pytest.mark.parametrize("older", [False, True], ids=["stored now", "stored by an older version"])
def test_a_password_in_the_command_is_neither_stored_nor_read(
    older: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"secret-{older}".lower()
    command = "python -m harness.sweep x.yaml --storage postgresql://me:hunter2@host/db"
    info = dataclasses.replace(sweep_info(name), command=command)
    with monkeypatch.context() as patch:
        if older:
            patch.setattr("harness.tracking.writing.tracker.without_secrets", str)
            source = "http://me:hunter2@host/tale.txt"
            info = dataclasses.replace(info, spec_text=f"url: {source}\n", data={**info.data, "source": source})
        parent = Tracker(name, store.uri).open_sweep(info)
    read = load_sweep(name, store.uri)
    assert read.command == command.replace("hunter2", "***")
    assert "hunter2" not in repr(read)
    stored = str(store.client.get_run(parent).to_dictionary())
    assert ("hunter2" in stored) is older
