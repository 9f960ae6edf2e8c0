"""Artifacts read back as text."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.files import json_list_with_checksum, read_json_with_checksum
from harness.tracking import (
    Tracker,
    TrackingError,
    load_passage,
    load_patch,
    load_positions,
    load_samples,
    load_sweep,
)
from harness.tracking.artifacts import with_patch_line
from harness.tracking.places import local_folder
from repositories import make_repository
from stored_runs import DATA, Store, ended, point, sweep_info, trial_info


def test_passages_and_patches_are_read_back(store: Store, tmp_path: Path) -> None:
    run_id = ended(store, "passage", trial_info(), point(0, val__loss=9.0))
    assert load_passage(run_id, store.uri) == [] and load_patch(run_id, store.uri) == ""
    (tmp_path / "token_losses.json").write_text('[{"text": " ü", "probability": 0.25}]', "utf-8")
    tracker = Tracker("passage", store.uri)
    tracker.experiment.log_artifact(run_id, tmp_path / "token_losses.json", "checkpoint")
    (tmp_path / "dirty.patch").write_bytes(b"+\xff text\n")
    tracker.experiment.log_artifact(run_id, tmp_path / "dirty.patch")
    assert load_passage(run_id, store.uri) == [(" ü", 0.25)]
    assert load_patch(run_id, store.uri) == "+\N{REPLACEMENT CHARACTER} text\n"


def artifact(store: Store, run_id: str, path: str) -> Path:
    """The file itself, not a copy."""
    folder = local_folder(store.client.get_run(run_id).info.artifact_uri, store.uri)
    assert folder is not None
    return folder / path


def test_damaged_artifacts_are_left_out_by_name(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    last = replace(point(0, val__loss=9.0), sample="a text", by_position=(2.5, 1.5))
    run_id = ended(store, "left-out", trial_info(), last)
    (tmp_path / "token_losses.json").write_text(json_list_with_checksum([{"text": "a", "probability": 0.25}]))
    Tracker("left-out", store.uri).experiment.log_artifact(run_id, tmp_path / "token_losses.json", "checkpoint")
    assert [one.text for one in load_samples(run_id, store.uri)] == ["a text"]
    assert load_positions("left-out", store.uri)["loss"].tolist() == [2.5, 1.5]
    assert load_passage(run_id, store.uri) == [("a", 0.25)]
    changes = {
        "samples.json": ("a text", "b text"),
        "val_loss_by_position.json": ("2.5", "3.5"),
        "checkpoint/token_losses.json": ("0.25", "0.75"),
    }
    for path, (before, after) in changes.items():
        file = artifact(store, run_id, path)
        assert before in file.read_text()
        file.write_text(file.read_text().replace(before, after))
    assert not caplog.messages
    assert load_samples(run_id, store.uri) == []
    assert load_positions("left-out", store.uri).empty
    assert load_passage(run_id, store.uri) == []
    artifact(store, run_id, "samples.json").write_bytes(b"")
    assert load_samples(run_id, store.uri) == []
    assert caplog.messages[-1] == f"samples.json of the run {run_id} is not valid JSON (damaged file); it is left out"
    assert caplog.messages[:-1] == [
        f"{path} of the run {run_id} does not match its checksum (damaged file); it is left out" for path in changes
    ]


CHANGES = [("Does", "does"), ('"baseline"', '"baseling"'), ('"checksum"', '"checksun"'), ("{", "[")]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_damaged_description_of_a_sweep_is_refused(before: str, after: str, store: Store) -> None:
    name = f"damaged-sweep-{CHANGES.index((before, after))}"
    tracker = Tracker(name, store.uri)
    parent = tracker.open_sweep(sweep_info(name))
    file = artifact(store, parent, "sweep.json")
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after, 1))
    with pytest.raises(TrackingError, match=rf"sweep.json of the run {parent} .* \(damaged file\); restore it"):
        load_sweep(name, store.uri)
    tracker.open_sweep(sweep_info(name))
    assert load_sweep(name, store.uri).question == sweep_info(name).question


def test_a_description_of_an_older_version_is_compared_with_the_tags(store: Store) -> None:
    info = sweep_info("no-checksum")
    tracker = Tracker("no-checksum", store.uri)
    parent = tracker.open_sweep(info)
    file = artifact(store, parent, "sweep.json")
    plain = read_json_with_checksum(file.read_text()).content
    file.write_text(json.dumps(plain))
    assert load_sweep("no-checksum", store.uri).question == info.question
    for changed, tag in (({"identity": "2" * 64}, "identity"), ({"data": {**DATA, "sha256": ""}}, "data_sha256")):
        file.write_text(json.dumps(plain | changed))
        with pytest.raises(TrackingError, match=rf"does not match the tag harness.{tag} \(damaged file\)"):
            load_sweep("no-checksum", store.uri)


def test_a_patch_has_a_checksum_and_can_be_applied(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = ended(store, "patch", trial_info(), point(0, val__loss=9.0))
    make_repository(tmp_path / "code")
    patch = b"--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-one\n+two\n"
    file = tmp_path / "dirty.patch"
    file.write_bytes(with_patch_line(patch))
    subprocess.run(["git", "apply", str(file)], cwd=tmp_path / "code", check=True)
    assert (tmp_path / "code" / "a.txt").read_text() == "two\n"
    Tracker("patch", store.uri).experiment.log_artifact(run_id, file)
    assert load_patch(run_id, store.uri) == patch.decode()
    stored = artifact(store, run_id, "dirty.patch")
    content = stored.read_bytes()
    for damaged in (content.replace(b"+two", b"+too"), b"S" + content[1:], content.replace(b"\n---", b" ---")):
        stored.write_bytes(damaged)
        assert load_patch(run_id, store.uri) == ""
    message = f"dirty.patch of the run {run_id} does not match its checksum (damaged file); it is left out"
    assert caplog.messages == [message] * 3
