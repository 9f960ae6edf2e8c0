"""Weights that another machine stores in the artifact store: exactly one right model, whatever fails on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus

from harness.core.outcomes import Outcome
from harness.tracking import Tracker, checkpoint_folder
from harness.tracking.direct import NotStored, Place, Stored, read_note, store_weights, write_note
from stored_runs import Store, point, sweep_info, trial_info

WEIGHTS = b"weights" * 1000


class Run:
    """A run that trains on a node, and its folder on the parent's disk."""

    def __init__(self, tracker: Tracker, folder: Path) -> None:
        self.tracker, self.files, self.weights = tracker, folder / "artifacts", folder / "node" / "model.safetensors"
        self.checkpoint = self.files / "checkpoint"
        self.checkpoint.mkdir(parents=True)
        (self.checkpoint / "checkpoint.json").write_text("{}")
        self.weights.parent.mkdir()
        self.weights.write_bytes(WEIGHTS)
        self.id = tracker.start_run(tracker.open_sweep(sweep_info(tracker.experiment.name)), trial_info())
        tracker.log_point(self.id, point(40, val__loss=3.0))

    def offered(self) -> Place:
        place = self.tracker.offer_place(self.id)
        assert place is not None
        return place

    def end(self, outcome: Outcome = Outcome.COMPLETE) -> None:
        if outcome is Outcome.COMPLETE:
            self.tracker.store_files(self.id, self.files)
        self.tracker.end_run(self.id, outcome)

    def models(self) -> list[LoggedModel]:
        client = MlflowClient(tracking_uri=self.tracker.uri)
        return list(client.search_logged_models([client.get_run(self.id).info.experiment_id]))

    def stored(self) -> dict[str, bytes]:
        """The files of the only model, which is complete."""
        [model] = self.models()
        assert model.status == LoggedModelStatus.READY
        return {file.name: file.read_bytes() for file in checkpoint_folder(self.id, self.tracker.uri).iterdir()}


@pytest.fixture
def run(store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    return Run(Tracker(request.node.name[:80].replace("[", "-").replace("]", ""), store.uri), tmp_path)


def test_weights_are_stored_beside_the_parents_files(run: Run) -> None:
    place = run.offered()
    stored = store_weights(place, run.weights)
    assert stored == Stored(place.model, len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())
    (run.checkpoint / "model.safetensors").write_bytes(b"of an earlier attempt")
    write_note(run.checkpoint, stored)
    assert read_note(run.checkpoint) == stored
    run.end()
    assert run.stored() == {"model.safetensors": WEIGHTS, "checkpoint.json": b"{}"}
    assert [one.name for one in Path(place.folder).parent.iterdir()] == ["artifacts"]


def of_another_disk(place: Place) -> None:
    proof = Path(place.folder).parent / place.proof[0]
    proof.write_text("0" * len(place.proof[1]))


def of_no_disk(place: Place) -> None:
    (Path(place.folder).parent / place.proof[0]).unlink()


def behind_a_link(place: Place) -> None:
    proof = Path(place.folder).parent / place.proof[0]
    proof.rename(proof.with_name("elsewhere"))
    proof.symlink_to(proof.with_name("elsewhere"))


@pytest.mark.parametrize("change", [of_another_disk, of_no_disk, behind_a_link])
def test_an_equal_path_proves_nothing(change: Callable[[Place], None], run: Run) -> None:
    """The node has the same path, on a disk of its own."""
    place = run.offered()
    change(place)
    with pytest.raises(NotStored, match="does not see the folder"):
        store_weights(place, run.weights)
    assert not list(Path(place.folder).iterdir())


def test_an_upload_that_fails_midway_leaves_the_way_through_the_parent(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, written = run.offered(), []

    def breaks(file: Path) -> object:
        written.append(file)
        yield WEIGHTS[:100]
        raise OSError(5, "the network is gone")

    with monkeypatch.context() as broken:
        broken.setattr("harness.tracking.direct._chunks", breaks)
        with pytest.raises(OSError, match="network"):
            store_weights(place, run.weights)
    assert written and not list(Path(place.folder).iterdir())
    (run.checkpoint / "model.safetensors").write_bytes(WEIGHTS)
    run.end()
    assert run.stored() == {"model.safetensors": WEIGHTS, "checkpoint.json": b"{}"}
    assert run.models()[0].model_id != place.model
    assert not Path(place.folder).parent.exists()


def test_a_node_that_was_thought_to_be_dead_changes_nothing(run: Run) -> None:
    """It stores weights at its place after the run was given to another node."""
    late, place = run.offered(), run.offered()
    write_note(run.checkpoint, store_weights(place, run.weights))
    run.weights.write_bytes(b"other weights")
    with pytest.raises(NotStored):
        store_weights(late, run.weights)
    run.end()
    assert run.stored()["model.safetensors"] == WEIGHTS


def test_a_parent_killed_before_its_note_offers_another_place(run: Run) -> None:
    place = run.offered()
    store_weights(place, run.weights)
    again = run.offered()
    assert again.model != place.model
    write_note(run.checkpoint, store_weights(again, run.weights))
    run.end()
    assert run.stored()["model.safetensors"] == WEIGHTS


def test_a_parent_killed_after_its_note_stores_the_model_once(run: Run) -> None:
    write_note(run.checkpoint, store_weights(run.offered(), run.weights))
    run.tracker.store_files(run.id, run.files)
    run.end()
    assert run.stored()["model.safetensors"] == WEIGHTS


def test_a_run_that_fails_leaves_no_model(run: Run) -> None:
    store_weights(run.offered(), run.weights)
    run.end(Outcome.FAILED)
    assert run.models() == []


@pytest.mark.parametrize("change", ["removed", "shorter", "deleted"])
def test_a_note_without_its_weights_is_said(change: str, run: Run) -> None:
    place = run.offered()
    write_note(run.checkpoint, store_weights(place, run.weights))
    if change == "deleted":
        MlflowClient(tracking_uri=run.tracker.uri).delete_logged_model(place.model)
    elif change == "removed":
        (Path(place.folder) / "model.safetensors").unlink()
    else:
        (Path(place.folder) / "model.safetensors").write_bytes(WEIGHTS[1:])
    run.end()
    [line] = run.tracker.refused_artifacts(run.id)
    assert "the weights that a node has stored are gone" in line
    assert all(model.status == LoggedModelStatus.PENDING for model in run.models())


@pytest.mark.slow
def test_weights_are_sent_to_a_server_without_the_parents_password(server_port: int, tmp_path: Path) -> None:
    run = Run(Tracker("direct", f"http://person:secret-of-the-parent@127.0.0.1:{server_port}"), tmp_path)
    place = run.offered()
    assert (place.server, place.folder) == (f"http://127.0.0.1:{server_port}", "")
    assert "secret" not in repr(place)
    write_note(run.checkpoint, store_weights(place, run.weights))
    run.end()
    assert run.stored() == {"model.safetensors": WEIGHTS, "checkpoint.json": b"{}"}
    with pytest.raises(Exception, match=r"refused|retries"):
        store_weights(replace(place, server="http://127.0.0.1:9"), run.weights)
