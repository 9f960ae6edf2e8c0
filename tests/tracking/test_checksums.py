"""What decides numbers is under a checksum: a value that was changed in MLflow is named, and its run is left out."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable

import pytest

from harness.core.outcomes import Outcome, Phase
from harness.tracking import Tracker, TrackingError, load_curves, load_frames, load_run, load_runs, load_sweep, schema
from harness.tracking.checksums import altered
from harness.tracking.ownership import find_sweep
from stored_runs import Store, point, sweep_info, trial_info

IDENTITY = "1" * 64


def stored(store: Store, name: str) -> tuple[Tracker, str, str]:
    """A tracker, a sweep, and a complete confirm run of it."""
    tracker = Tracker(name, store.uri)
    parent = tracker.open_sweep(sweep_info(name))
    run_id = tracker.start_run(parent, trial_info(), key="k1")
    tracker.log_point(run_id, point(0, val__loss=9.1))
    tracker.log_point(run_id, point(40, val__loss=math.pi, train__loss=1e-300, test__loss=5.0))
    tracker.end_run(run_id, Outcome.COMPLETE)
    return tracker, parent, run_id


def sentence(store: Store, run_id: str) -> str:
    return altered(store.client.get_run(run_id))


def test_a_stored_run_matches_its_checksums(store: Store) -> None:
    tracker, parent, run_id = stored(store, "intact")
    assert sentence(store, parent) == sentence(store, run_id) == ""
    assert schema.CHECKSUMS in store.client.get_run(run_id).data.tags
    assert len(load_runs("intact", store.uri)) == 1
    tracker.close_sweep(parent, Outcome.COMPLETE)
    assert sentence(store, parent) == ""


def test_a_person_may_edit_descriptions_and_add_tags(store: Store) -> None:
    _, parent, run_id = stored(store, "edited")
    for one in (parent, run_id):
        store.client.set_tag(one, "mlflow.note.content", "what I think of it")
        store.client.set_tag(one, "mine", "good")
        store.client.set_tag(one, "harness.mine", "good")
        store.client.log_param(one, "mine", 3)
        store.client.log_metric(one, "mine", 3.0)
        store.client.update_run(one, name="another name")
        assert sentence(store, one) == ""


TAGS = {"seed": "8", "arm": "drop_rate=0.1", "phase": "explore", "outcome": "diverged", "config_sha256": "0"}
TAGS |= {"data_fingerprint": "0", "trial_number": "3", "study": "x", "key": "k2"}


@pytest.mark.parametrize("name", TAGS)
def test_an_edited_tag_is_named_and_its_run_is_left_out(
    name: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = f"tag-{name.replace('_', '-')}"
    tracker, parent, run_id = stored(store, sweep)
    store.client.set_tag(run_id, f"harness.{name}", TAGS[name])
    what = f"the tag harness.{name} of the run {run_id} (a trial · seed 7) was changed after the harness stored it"
    assert sentence(store, run_id) == what
    assert load_runs(sweep, store.uri).empty and caplog.messages == [f"{what}; the run is left out"]
    runs, curves = load_frames(sweep, store.uri)
    assert runs.empty and curves.empty and runs.attrs["left_out"] == [f"1 run is left out: {what}"]
    assert tracker.confirm_results(parent) == [] and tracker.interrupted_runs(parent) == {}
    assert all(run.left_out for run in tracker.search_trials(parent, None))
    caplog.clear()
    load_run(run_id, store.uri)  # of which there is no other
    assert caplog.messages == [what]


def test_an_edited_loss_or_parameter_is_named(store: Store) -> None:
    _, _, run_id = stored(store, "loss")
    store.client.log_metric(run_id, "val/loss", 1.0, step=41)
    assert sentence(store, run_id).startswith("the metric val/loss of the run")
    _, _, run_id = stored(store, "parameter")
    changed = ("update params set value = '0.5' where key = 'train.learning_rate' and run_uuid = ?", (run_id,))
    with sqlite3.connect(store.folder / "mlruns" / "mlflow.db") as database:
        database.execute(*changed)
    assert sentence(store, run_id).startswith("the parameters of the run")


def test_several_changes_are_named_together(store: Store) -> None:
    _, _, run_id = stored(store, "several")
    store.client.set_tag(run_id, "harness.seed", "8")
    store.client.delete_tag(run_id, "harness.outcome")
    assert sentence(store, run_id).startswith("the tag harness.outcome and tag harness.seed of the run")


def test_tags_that_the_harness_changes_keep_their_checksum(store: Store) -> None:
    tracker, parent, run_id = stored(store, "changed")
    tracker.tag(run_id, phase=Phase.SUPERSEDED)
    assert sentence(store, run_id) == ""
    store.client.set_tag(run_id, "harness.seed", "8")
    tracker.tag(run_id, phase=Phase.CONFIRM)
    assert "harness.seed" in sentence(store, run_id)  # storing one tag does not hide the change of another
    for _ in range(2):
        Tracker("changed", store.uri).open_sweep(sweep_info("changed"))
        assert sentence(store, parent) == ""
    tracker.close_sweep(parent, Outcome.INTERRUPTED)
    Tracker("changed", store.uri).open_sweep(sweep_info("changed"))
    Tracker("changed", store.uri).set_aside(IDENTITY)
    assert sentence(store, parent) == ""
    assert load_sweep("changed", store.uri, parent).identity == f"{IDENTITY} (set aside)"


def test_a_resumed_run_matches_its_checksums_at_every_moment(store: Store) -> None:
    tracker = Tracker("resumed", store.uri)
    parent = tracker.open_sweep(sweep_info("resumed"))
    for loss, outcome in ((9.0, Outcome.INTERRUPTED), (8.0, Outcome.INTERRUPTED), (7.0, Outcome.COMPLETE)):
        tracker = Tracker("resumed", store.uri)
        tracker.open_sweep(sweep_info("resumed"))
        run_id = tracker.start_run(parent, trial_info(), key="k1", reopen=True)
        assert sentence(store, run_id) == ""
        tracker.log_point(run_id, point(0, val__loss=loss))  # of another device: MLflow keeps the first value
        tracker.flush()
        assert sentence(store, run_id) == ""
        if loss == 8.0:  # its process is killed
            Tracker("resumed", store.uri).sweeps.close_abandoned_runs(parent)
        else:
            tracker.end_run(run_id, outcome)
        assert sentence(store, run_id) == ""
    assert store.client.get_run(run_id).data.metrics["val/loss"] == 9.0


ACTIONS: dict[str, Callable[[Store], object]] = {
    "report": lambda store: load_sweep("parent", store.uri),
    "sweep": lambda store: Tracker("parent", store.uri).open_sweep(sweep_info("parent")),
    "status": lambda store: find_sweep("parent", IDENTITY, store.uri),
}


def test_an_edited_identity_is_refused_instead_of_beginning_again(store: Store) -> None:
    _, parent, _ = stored(store, "parent")
    for act in ACTIONS.values():
        act(store)
    store.client.set_tag(parent, "harness.identity", "2" * 64)
    what = rf"the tag harness.identity of the run {parent} \(parent\) was changed .*; set it back in MLflow"
    for act in ACTIONS.values():
        with pytest.raises(TrackingError, match=what):
            act(store)
    store.client.set_tag(parent, "harness.identity", IDENTITY)
    for act in ACTIONS.values():
        act(store)


def test_a_time_that_is_no_number_is_named(store: Store) -> None:
    _, parent, _ = stored(store, "opened")
    store.client.set_tag(parent, "harness.opened", "yesterday")
    with pytest.raises(TrackingError, match=rf"found 'yesterday' as the tag harness.opened of the run {parent}"):
        load_curves("opened", store.uri)


def test_a_run_of_an_older_version_is_not_checked(store: Store) -> None:
    _, _, run_id = stored(store, "older")
    store.client.delete_tag(run_id, schema.CHECKSUMS)
    store.client.set_tag(run_id, "harness.seed", "8")
    assert sentence(store, run_id) == ""
    Tracker("older", store.uri).tag(run_id, phase=Phase.SUPERSEDED)
    assert schema.CHECKSUMS not in store.client.get_run(run_id).data.tags
