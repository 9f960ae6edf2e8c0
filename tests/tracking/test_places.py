"""Where files are after a store was moved or copied."""

from __future__ import annotations

import os
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.tracking._tracking_service import utils

from empty_store import copy_empty_store
from harness.core.outcomes import Outcome
from harness.core.paths import ARTIFACTS_VARIABLE
from harness.tracking import Tracker, TrackingError, checkpoint_folder, load_samples, load_sweep
from harness.tracking.places import correct_addresses, local_folder, missing_folder
from harness.tracking.provenance import process_name
from harness.tracking.store import SweepBusy, connect
from stored_runs import point, sweep_info, trial_info


def uri(folder: Path) -> str:
    return f"sqlite:///{folder}/mlruns/mlflow.db"


def made(folder: Path, process: str = "") -> str:
    """Make a store with one sweep of one run; returns the run's id."""
    if not (folder / "mlruns").exists():
        copy_empty_store(folder / "mlruns" / "mlflow.db")
    tracker = Tracker("moving", uri(folder))
    parent = tracker.open_sweep(sweep_info("moving"))
    run = tracker.start_run(parent, trial_info())
    tracker.log_point(run, point(1, "a text", val__loss=3.0))
    weights = folder / "files" / "checkpoint"
    weights.mkdir(parents=True)
    (weights / "model.safetensors").write_bytes(b"weights")
    tracker.store_files(run, weights.parent)
    tracker.end_run(run, Outcome.COMPLETE)
    if process:
        tracker.tag(parent, process=process)
    else:
        tracker.close_sweep(parent, Outcome.COMPLETE)
    return run


@pytest.fixture(autouse=True)
def _new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow keeps the addresses of runs that this process has used."""
    monkeypatch.setattr(utils, "_artifact_repos_cache", _Forgetful())


class _Forgetful(OrderedDict[str, Any]):
    def get(self, *_: Any) -> None:
        """Nothing is known."""


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def addresses(folder: Path) -> set[str]:
    client = connect(uri(folder))
    experiment = client.get_experiment_by_name("moving")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    models = client.search_logged_models([experiment.experiment_id])
    return {
        experiment.artifact_location,
        *(run.info.artifact_uri for run in runs),
        *(model.artifact_location for model in models),
    }


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_files_are_read_beside_the_database_and_a_sweep_corrects_their_addresses(tmp_path: Path, how: str) -> None:
    old, new = tmp_path / "an öld place", tmp_path / "new"
    run = made(old)
    (shutil.move if how == "moved" else shutil.copytree)(old, new)
    before, other = everything(new), everything(old)
    assert load_sweep("moving", uri(new)).question == sweep_info("moving").question
    assert [sample.text for sample in load_samples(run, uri(new))] == ["a text"]
    assert new in checkpoint_folder(run, uri(new)).parents
    assert everything(new) == before  # reading changes nothing

    tracker = Tracker("moving", uri(new))
    said = f"this store was made in {old}/mlruns and is now in {new}/mlruns: corrected the addresses of its files"
    assert tracker.experiment.moved == said
    assert all(address.startswith((new / "mlruns" / "artifacts").as_uri()) for address in addresses(new))
    client = MlflowClient(uri(new))
    assert "samples.md" in {file.path for file in client.list_artifacts(run)}
    tracker.tag(tracker.start_run(tracker.open_sweep(sweep_info("moving")), trial_info(seed=8)), device="cpu")
    tracker.experiment.log_contents(run, {"later.txt": "in its own place"})
    assert (new / "mlruns" / "artifacts" / run / "artifacts" / "later.txt").is_file()
    assert everything(old) == other
    assert Tracker("moving", uri(new)).experiment.moved == ""


def test_a_folder_that_the_user_chose_and_a_link_to_the_store_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ARTIFACTS_VARIABLE, str(tmp_path / "disk"))
    store, link, chosen = tmp_path / "store", tmp_path / "link", tmp_path / "disk" / "artifacts"
    chosen.mkdir(parents=True)
    copy_empty_store(store / "mlruns" / "mlflow.db")
    MlflowClient(uri(store)).create_experiment("chosen", chosen.as_uri())
    tracker = Tracker("chosen", uri(store))
    parent = tracker.open_sweep(sweep_info("chosen"))
    made(store)
    link.symlink_to(store)
    for place in (store, link):
        assert Tracker("chosen", uri(place)).experiment.moved == ""
        assert load_sweep("chosen", uri(place)).run_id == parent
    assert (chosen / parent).is_dir()


def test_addresses_are_not_corrected_while_another_process_uses_them(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    alive = psutil.Process(os.getppid())
    made(old, f"{process_name().split(':')[0]}:{alive.pid}:{alive.create_time()}")
    shutil.copytree(old, new)
    before = addresses(new)
    with pytest.raises(SweepBusy, match=f":{alive.pid}:.* runs moving in this store; wait for it or stop it"):
        Tracker("moving", uri(new))
    assert addresses(new) == before


def test_files_that_were_left_behind_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    run = made(old)
    (new / "mlruns").mkdir(parents=True)
    shutil.copy(old / "mlruns" / "mlflow.db", new / "mlruns")
    assert correct_addresses(connect(uri(new))) == ""  # the files are where they were
    for use in (lambda: load_sweep("moving", uri(new)), lambda: Tracker("moving", uri(new))):
        with pytest.raises(TrackingError, match=f"--artifacts-at .*{old}/mlruns/artifacts"):
            use()
    with monkeypatch.context() as allowed:
        allowed.setenv(ARTIFACTS_VARIABLE, str(old / "mlruns" / "artifacts"))
        assert load_sweep("moving", uri(new)).name == "moving"
    shutil.rmtree(old)
    artifacts, beside = old / "mlruns" / "artifacts", new / "mlruns" / "artifacts"
    lost = f"the files of moving were stored in {artifacts}, which does not exist here; if they were moved, "
    with pytest.raises(TrackingError) as caught:
        Tracker("moving", uri(new))
    assert str(caught.value) == f"{lost}put them beside the database, in {beside}"
    for read in (lambda: load_sweep("moving", uri(new)), lambda: checkpoint_folder(run, uri(new))):
        with pytest.raises(TrackingError, match=f"^found no .*; {lost}put them beside the database"):
            read()
    assert not old.exists()


def test_a_store_that_decides_itself_where_files_are(tmp_path: Path) -> None:
    postgres = "postgresql://host/runs"
    gone = tmp_path / "gone" / "mlruns" / "3"
    experiment = Experiment("3", "moving", str(gone), "active")
    assert local_folder(f"{gone}/abc/artifacts", postgres) == gone / "abc" / "artifacts"
    mend = f"make {gone} a symbolic link to the folder where they are now, and name that one by --artifacts-at"
    assert mend in missing_folder(experiment, postgres)
    gone.mkdir(parents=True)
    assert missing_folder(experiment, postgres) == ""
    for elsewhere in ("mlflow-artifacts:/3", "s3://bucket/3"):
        assert local_folder(f"{elsewhere}/abc/artifacts", "http://host:5000") is None
        assert missing_folder(Experiment("3", "moving", elsewhere, "active"), "http://host:5000") == ""
