"""Files of a store are read and written inside its own root, unless the user allows another place."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.tracking._tracking_service import utils

from empty_store import copy_empty_store
from harness.core.outcomes import Outcome
from harness.core.paths import ARTIFACTS_VARIABLE
from harness.tracking import Tracker, TrackingError, checkpoint_folder, load_samples, load_sweep
from harness.tracking.locations import _default_roots, refuse_foreign, run_folder, run_folder_to_write
from harness.tracking.places import is_folder
from harness.tracking.store import RefusedFile
from stored_runs import point, sweep_info, trial_info


def uri(folder: Path) -> str:
    return f"sqlite:///{folder}/mlruns/mlflow.db"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with an empty store."""
    copy_empty_store(tmp_path / "project" / "mlruns" / "mlflow.db")
    return tmp_path / "project"


def made(project: Path) -> tuple[Tracker, str, str]:
    """A tracker, and the ids of a sweep and of its run, which has a sample and a checkpoint."""
    tracker = Tracker("placed", uri(project))
    parent = tracker.open_sweep(sweep_info("placed"))
    run = tracker.start_run(parent, trial_info(), key="abc")
    tracker.log_point(run, point(1, "a text", val__loss=3.0))
    (project / "files" / "checkpoint").mkdir(parents=True)
    for name in ("model.safetensors", "checkpoint.json"):
        (project / "files" / "checkpoint" / name).write_bytes(b"weights")
    tracker.store_files(run, project / "files")
    tracker.end_run(run, Outcome.COMPLETE)
    return tracker, parent, run


def change(project: Path, statement: str, *values: str) -> None:
    with sqlite3.connect(project / "mlruns" / "mlflow.db") as database:
        assert database.execute(statement, values).rowcount
    utils._artifact_repos_cache.clear()


def set_address(project: Path, run: str, address: str) -> None:
    change(project, "update runs set artifact_uri = ? where run_uuid = ?", address, run)


def test_a_runs_files_elsewhere_are_left_out_and_not_written(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, parent, run = made(project)
    artifacts = project / "mlruns" / "artifacts"
    elsewhere = tmp_path / "elsewhere" / run / "artifacts"
    elsewhere.parent.mkdir(parents=True)
    (artifacts / run / "artifacts").rename(elsewhere)
    (artifacts / "linked").symlink_to(elsewhere.parent)
    addresses = [
        elsewhere.as_uri(),
        str(elsewhere),
        f"{artifacts}/../../../elsewhere/{run}/artifacts",
        f"{artifacts}/%2e%2e/%2e%2e/%2e%2e/elsewhere/{run}/artifacts",
        f"{artifacts.as_uri()}/%2e%2e/../../elsewhere/{run}/artifacts",
        f"{artifacts}/linked/artifacts",
    ]
    for address in addresses:
        set_address(project, run, address)
        caplog.clear()
        assert load_samples(run, uri(project)) == [], address
        assert f"samples.json of the run {run} is left out: the files of the run {run} (" in caplog.text
        assert f"outside of {artifacts}, where this store keeps its files; if you know that place" in caplog.text
        tracker.experiment._folders.clear()
        tracker.experiment.log_contents(run, {"new.txt": "new"})
        assert not (elsewhere / "new.txt").exists()
        (line,) = tracker.refused_artifacts(run)
        assert line.startswith(f"MLflow did not store new.txt of run {run[:12]}: the files of the run")
    set_address(project, run, (artifacts / parent / "artifacts").as_uri())
    assert load_samples(run, uri(project)) == [] and "in the place of another one" in caplog.text
    set_address(project, run, elsewhere.as_uri())
    monkeypatch.setenv(ARTIFACTS_VARIABLE, str(tmp_path / "elsewhere"))
    assert [one.text for one in load_samples(run, uri(project))] == ["a text"]


def test_a_run_of_the_same_key_elsewhere_is_not_reopened(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker, parent, run = made(project)
    set_address(project, run, f"{tmp_path}/elsewhere/{run}/artifacts")
    assert tracker.start_run(parent, trial_info(), key="abc", reopen=True) != run
    assert "; a new run is stored instead" in caplog.text


def test_a_model_elsewhere_is_refused(project: Path, tmp_path: Path) -> None:
    _, _, run = made(project)
    folder = checkpoint_folder(run, uri(project))
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    (folder / "checkpoint.json").unlink()
    (folder / "checkpoint.json").symlink_to(folder / "model.safetensors")
    with pytest.raises(RefusedFile, match=r"checkpoint\.json: found a link; allowed: a regular file"):
        checkpoint_folder(run, uri(project))
    change(project, "update logged_models set artifact_location = ?", f"{tmp_path}/elsewhere/x/artifacts")
    (tmp_path / "elsewhere" / "x" / "artifacts").mkdir(parents=True)
    with pytest.raises(RefusedFile, match=r"the files of the model m-.* are at .*elsewhere/x/artifacts, outside of"):
        checkpoint_folder(run, uri(project))


def test_links_among_the_artifacts_are_not_written_through(project: Path, tmp_path: Path) -> None:
    tracker, parent, run = made(project)
    own = tmp_path / "own.txt"
    own.write_text("the user's")
    files = project / "mlruns" / "artifacts" / run / "artifacts"
    (files / "link.txt").symlink_to(own)
    (files / "folder").symlink_to(tmp_path)
    (files / "second.txt").hardlink_to(own)
    contents = {"link.txt": "new", "folder/own.txt": "new", "second.txt": "new", "other.txt": "new"}
    tracker.experiment.log_contents(run, contents)
    assert own.read_text() == "the user's"
    assert (files / "second.txt").read_text() == (files / "other.txt").read_text() == "new"
    assert len(tracker.refused_artifacts(run)) == 2
    description = project / "mlruns" / "artifacts" / parent / "artifacts" / "sweep.json"
    description.unlink()
    description.symlink_to(own)
    for use in (lambda: tracker.describe_sweep(parent), lambda: load_sweep("placed", uri(project))):
        with pytest.raises(RefusedFile, match=r"sweep\.json: found a link"):
            use()
    assert own.read_text() == "the user's"


def test_links_are_not_stored(project: Path, tmp_path: Path) -> None:
    tracker, _, run = made(project)
    (tmp_path / "key").write_text("private")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.txt").symlink_to(tmp_path / "key")
    (folder / "text.txt").write_text("text")
    tracker.experiment.log_artifact(run, folder)
    tracker.experiment.log_artifact(run, folder / "link.txt")
    names = {file.path for file in MlflowClient(uri(project)).list_artifacts(run)}
    assert "text.txt" in names and "link.txt" not in names


@pytest.mark.parametrize("location", ["s3://bucket/placed", "mlflow-artifacts:/1", "../elsewhere", "file:///elsewhere"])
def test_an_experiment_of_somebody_else_is_named_and_used_only_if_asked_for(
    project: Path, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    (project.parent / "elsewhere").mkdir()
    location = location.replace("file:///elsewhere", (project.parent / "elsewhere").as_uri())
    client = MlflowClient(uri(project))
    client.create_experiment("placed", location)
    change(project, "update experiments set artifact_location = ? where name = 'placed'", location)
    with pytest.raises(RefusedFile) as caught:
        Tracker("placed", uri(project))
    beside = project / "mlruns" / "artifacts"
    place = location if location.startswith(("s3:", "mlflow")) else str(project.parent / "elsewhere")
    assert str(caught.value) == (
        f"the files of the experiment placed are at {place}, outside of {beside}, where this store keeps its files; "
        f"if you know that place and want to use it: --artifacts-at {place}"
    )
    monkeypatch.setenv(ARTIFACTS_VARIABLE, location)
    assert Tracker("placed", uri(project)).experiment.id


def test_experiments_and_runs_without_an_address_stop_nobody(project: Path) -> None:
    _, _, run = made(project)
    MlflowClient(uri(project)).create_experiment("other")
    change(project, "update experiments set artifact_location = null where name = 'other'")
    change(project, "update runs set artifact_uri = null where run_uuid = ?", run)
    assert load_sweep("placed", uri(project)).name == "placed"
    assert load_samples(run, uri(project)) == []
    assert Tracker("placed", uri(project)).experiment.id
    with pytest.raises(RefusedFile, match="experiment other are at"):
        Tracker("other", uri(project))


PARTS = ["..", ".", "%2e%2e", "%2F", "artifacts", "abc", "linked", "elsewhere", "project", "mlruns", "", " ", "é", "\0"]


@given(
    scheme=st.sampled_from(["", "/", "file:", "file:/", "file://", "file:///", "FILE:///", "s3://", "runs:/", "\t/"]),
    whole=st.booleans(),
    parts=st.lists(st.sampled_from(PARTS) | st.text(max_size=5), max_size=9),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_address_leads_out_of_the_store(scheme: str, whole: bool, parts: list[str], tmp_path: Path) -> None:
    root = tmp_path / "project" / "mlruns" / "artifacts"
    root.mkdir(parents=True, exist_ok=True)
    (tmp_path / "elsewhere" / "abc" / "artifacts").mkdir(parents=True, exist_ok=True)
    if not (root / "linked").is_symlink():
        (root / "linked").symlink_to(tmp_path / "elsewhere")
    client: Any = SimpleNamespace(tracking_uri=uri(tmp_path / "project"))
    address = scheme + "/".join([str(root).lstrip("/"), *parts] if whole else parts)
    run: Any = SimpleNamespace(info=SimpleNamespace(run_id="abc", run_name="x", artifact_uri=address))
    for place_of in (run_folder, run_folder_to_write):
        try:
            place = place_of(client, run)
        except RefusedFile as error:
            assert "\0" not in str(error) and "\n" not in str(error)
        else:
            assert place is not None
            missing = place_of is run_folder and not is_folder(place)  # nothing is read from it
            assert missing or place.resolve().is_relative_to(root), place


def client_of(store: str, default: str, folder: str = "") -> Any:
    """A client of a store whose default experiment is there; `default` "": it has none."""

    def get_experiment(number: str) -> Experiment:
        assert number == "0"
        if not default:
            raise MlflowException("none", RESOURCE_DOES_NOT_EXIST)
        return Experiment("0", "Default", default, "active")

    _default_roots.clear()
    return SimpleNamespace(tracking_uri=store, get_experiment=get_experiment)


SERVER, POSTGRES = "http://host:5000", "postgresql://host/runs"
OWN = [
    (SERVER, "mlflow-artifacts:/0", "mlflow-artifacts:/7"),
    (SERVER, "s3://bucket/runs/0", "s3://bucket/runs/7"),
    (SERVER, "s3://bucket/0", "s3://bucket/7"),
    (SERVER, "s3://bucket/0", "mlflow-artifacts:/7"),
    (SERVER, "mlflow-artifacts://files:5500/0", "mlflow-artifacts://files:5500/7"),
    (SERVER, "/no/such/disk/0", "file:///no/such/disk/7"),
    (POSTGRES, "s3://bucket/0", "s3://bucket/7"),
    (POSTGRES, "/no/such/disk/mlruns/0", "/no/such/disk/mlruns/7"),
    (POSTGRES, "/no/such/disk/mlruns/0", "mlruns/7"),
    (POSTGRES, "", "mlruns/7"),
]
FOREIGN = [
    (SERVER, "mlflow-artifacts:/0", "mlflow-artifacts://evil/7"),
    (SERVER, "mlflow-artifacts:/0", "mlflow-artifacts:/../7"),
    (SERVER, "mlflow-artifacts:/0", "s3://bucket/7"),
    (SERVER, "s3://bucket/runs/0", "s3://bucket/other/7"),
    (SERVER, "s3://bucket/runs/0", "s3://bucket/runs/../7"),
    (SERVER, "s3://bucket/runs/0", "s3://bucket/runs/7?x=y"),
    (SERVER, "s3://bucket/runs/0", "ftp://bucket/runs/7"),
    (SERVER, "s3://bucket/runs/0", "http://["),
    (SERVER, "s3://bucket/own", "s3://bucket/7"),
    (SERVER, "", "s3://bucket/7"),
    (POSTGRES, "/no/such/disk/mlruns/0", "/"),
    (POSTGRES, "/no/such/disk/mlruns/0", "mlflow-artifacts:/7"),
    (POSTGRES, "", "."),
]


@pytest.mark.parametrize(("store", "default", "location"), OWN)
def test_the_places_of_other_stores(store: str, default: str, location: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        client = client_of(store, default)
        experiment = Experiment("7", "placed", location, "active")
        refuse_foreign(client, experiment)
        run: Any = SimpleNamespace(info=SimpleNamespace(run_id="abc", run_name="x", artifact_uri=""))
        run.info.artifact_uri = f"{location}/abc/artifacts"
        folder = run_folder(client, run)
        assert (folder is None) == ("://" in location.replace("file:///", "") or location.startswith("mlflow"))


@pytest.mark.parametrize(("store", "default", "location"), FOREIGN)
def test_places_outside_of_other_stores(
    store: str, default: str, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    client = client_of(store, default)
    experiment = Experiment("7", "placed", location, "active")
    with pytest.raises(TrackingError, match=r"placed are at .*, outside of the place where this store keeps its files"):
        refuse_foreign(client, experiment)
    if "?" not in location and ".." not in location and location != "http://[":
        monkeypatch.setenv(ARTIFACTS_VARIABLE, location)
        refuse_foreign(client, experiment)


def test_a_server_that_fails_is_no_answer_about_its_place(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    client = client_of(SERVER, "")
    client.get_experiment = lambda _: (_ for _ in ()).throw(MlflowException("down"))
    with pytest.raises(MlflowException, match="down"):
        refuse_foreign(client, Experiment("7", "placed", "s3://bucket/7", "active"))
    assert not _default_roots
