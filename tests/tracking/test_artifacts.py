"""Artifacts read back as text."""

from __future__ import annotations

from pathlib import Path

from harness.tracking import Tracker, load_passage, load_patch
from stored_runs import Store, ended, point, trial_info


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
