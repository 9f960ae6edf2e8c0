"""A run found by its id, the start of its id, or its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.tracking import Tracker, TrackingError, checkpoint_folder, load_samples
from stored_runs import Store, ended, sweep_info, trial_info


def test_a_checkpoint_is_found_by_id_prefix_or_name(store: Store, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    tracker = Tracker("files", store.uri)
    parent = tracker.open_sweep(sweep_info("files"))
    name = 'it\'s %_ 100 ± "x"'
    quoted, plain, twin = (tracker.start_run(parent, trial_info(title)) for title in (name, "twin", "twin"))
    tracker.experiment.log_artifact(plain, tmp_path, "checkpoint")
    tracker.experiment.log_contents(plain, {"notes/a.md": "ü"})
    folder = checkpoint_folder(plain, store.uri)
    assert [(file.name, file.read_bytes()) for file in folder.iterdir()] == [("model.bin", b"weights")]
    assert checkpoint_folder(plain[:12], store.uri) == folder
    assert (folder.parent / "notes/a.md").read_text("utf-8") == "ü"
    tracker.experiment.log_artifact(quoted, tmp_path / "model.bin", "checkpoint")
    assert (checkpoint_folder(quoted, store.uri) / "model.bin").exists()
    with pytest.raises(TrackingError, match="found 2 runs for 'twin'; allowed: the id of one of them"):
        checkpoint_folder("twin", store.uri)
    with pytest.raises(TrackingError, match=f"found no checkpoint in the run {twin}"):
        checkpoint_folder(twin, store.uri)
    single = ended(store, "single", trial_info("it's %_ alone"))
    with pytest.raises(TrackingError, match=single):
        checkpoint_folder("it's %_ alone", store.uri)


@pytest.mark.parametrize("run", ["", "abc", "ffffffffffff", "%", "' OR '1'='1", "../../etc", "\\", "'\"", "nobody\n"])
def test_a_run_that_does_not_exist_is_an_error(store: Store, run: str) -> None:
    with pytest.raises(TrackingError):
        checkpoint_folder(run, store.uri)
    with pytest.raises(TrackingError):
        load_samples(run or "x", store.uri)
