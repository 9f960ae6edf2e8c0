from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus

from harness.core.outcomes import Outcome, Phase
from harness.tracking import Tracker, checkpoint_folder, page_address
from harness.tracking.models import model_name
from paths import ROOT
from stored_runs import Store, experiment_of, point, sweep_info, trial_info

README = ROOT / "mlruns" / "README.md"


@pytest.fixture(scope="module")
def tracker(store: Store) -> Tracker:
    return Tracker("models", store.uri)


@pytest.fixture
def client(tracker: Tracker) -> MlflowClient:
    return MlflowClient(tracking_uri=tracker.uri)


@pytest.fixture(scope="module")
def parent(tracker: Tracker) -> str:
    return tracker.open_sweep(sweep_info("models"))


def made(folder: Path, *, curve: bool = True) -> Path:
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "model.safetensors").write_bytes(b"weights")
    if curve:
        (folder / "loss_curve.svg").write_text("<svg/>", "utf-8")
    return folder


def models_of(client: MlflowClient, run: str) -> list[LoggedModel]:
    experiment = client.get_run(run).info.experiment_id
    return [one for one in client.search_logged_models([experiment]) if one.source_run_id == run]


def test_a_models_name_has_only_characters_that_mlflow_allows() -> None:
    assert model_name('drop_rate=0.1, x=a/b:"c"\'% seed 2') == "drop_rate=0,1, x=a-b--c--- seed 2"


def test_a_checkpoint_is_stored_once_as_a_model_with_its_losses(
    tracker: Tracker, client: MlflowClient, parent: str, tmp_path: Path
) -> None:
    run = tracker.start_run(parent, trial_info())
    tracker.log_point(run, point(0, val__loss=5.5, train__loss=5.4))
    tracker.log_point(run, point(40, val__loss=3.25, train__loss=3.0, test__loss=3.5, optim__grad_norm=1.0))
    tracker.store_files(run, made(tmp_path))
    tracker.end_run(run, Outcome.COMPLETE)
    (model,) = models_of(client, run)
    assert (model.name, model.status) == ("drop_rate=0,0 seed 7", LoggedModelStatus.READY)
    assert {metric.key: metric.value for metric in model.metrics or []} == {
        "val/loss": 3.25,
        "test/loss": 3.5,
        "train/loss": 3.0,
    }
    assert {metric.dataset_name for metric in model.metrics or []} == {"tiny"}
    assert model.params["model.drop_rate"] == "0.0"
    stored = client.get_run(run)
    assert stored.outputs is not None
    assert [(one.model_id, one.step) for one in stored.outputs.model_outputs] == [(model.model_id, 40)]
    assert [file.path for file in client.list_artifacts(run)] == ["loss_curve.svg"]
    assert [one.value for one in client.get_metric_history(run, "val/loss")] == [5.5, 3.25]  # nothing twice
    folder = checkpoint_folder(run, tracker.uri)
    assert [(file.name, file.read_bytes()) for file in folder.iterdir()] == [("model.safetensors", b"weights")]
    assert "Ended as **complete**. Last: val/loss 3.2500" in stored.data.tags["mlflow.note.content"]


@pytest.mark.slow
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["log_model_artifact", "log_outputs", "log_batch", "finalize_logged_model"])
def test_a_model_that_is_incomplete_is_completed_and_not_created_twice(
    call: str, done: bool, tracker: Tracker, client: MlflowClient, parent: str, tmp_path: Path
) -> None:
    """The process dies before or after each of the calls that store a model."""
    run = tracker.start_run(parent, trial_info(seed=8))
    tracker.log_point(run, point(40, val__loss=3.0))
    tracker.flush()
    files = made(tmp_path, curve=False)
    plain = getattr(MlflowClient, call)

    def killed(*arguments: object, **named: object) -> None:
        created = bool(models_of(client, run))
        if done or not created:
            plain(*arguments, **named)
        if created:
            raise OSError("killed")

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(MlflowClient, call, killed)
        with pytest.raises(OSError, match="killed"):
            tracker.store_files(run, files)
    complete = done and call == "finalize_logged_model"
    reached = LoggedModelStatus.READY if complete else LoggedModelStatus.PENDING
    assert [model.status for model in models_of(client, run)] == [reached]
    for _ in range(2):
        tracker.store_files(run, files)
    (model,) = models_of(client, run)
    assert model.status == LoggedModelStatus.READY
    assert {metric.key: metric.value for metric in model.metrics or []} == {"val/loss": 3.0}
    assert [one.value for one in client.get_metric_history(run, "val/loss")] == [3.0]
    outputs = client.get_run(run).outputs
    assert outputs is not None and len(outputs.model_outputs) == 1
    tracker.end_run(run, Outcome.COMPLETE)


@pytest.mark.slow
def test_a_servers_model_is_downloaded(server_port: int, tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{server_port}"
    tracker = Tracker("remote", uri)
    sweep = tracker.open_sweep(sweep_info("remote"))
    run = tracker.start_run(sweep, trial_info())
    files = made(tmp_path / "made")
    (files / "checkpoint" / "token_losses.json").write_text("[]", "utf-8")
    tracker.store_files(run, files)
    tracker.end_run(run, Outcome.COMPLETE)
    folder = checkpoint_folder(run, uri)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert any(above.name.startswith("gpt-harness-") for above in folder.parents)
    assert checkpoint_folder(run, uri) == folder  # the earlier download is removed
    (tmp_path / "temporary").mkdir()
    code = f"from harness.tracking import checkpoint_folder; print(checkpoint_folder({run!r}, {uri!r}))"
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path / "temporary"))
    assert not list((tmp_path / "temporary").iterdir())
    listed = MlflowClient(tracking_uri=uri).list_artifacts(run, "checkpoint")
    assert [file.path for file in listed] == ["checkpoint/token_losses.json"]  # what a page reads
    assert page_address(run, uri).startswith(f"{uri}/#/experiments/")


def test_the_documented_searches_find_the_runs_that_they_describe(tracker: Tracker, client: MlflowClient) -> None:
    block = re.search(r"<!-- searches -->\n+```\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert block is not None
    searches = [line.split("#")[0].strip() for line in block[1].splitlines()]
    other = Tracker("searched", tracker.uri)
    parent = other.open_sweep(sweep_info("searched"))
    for name, phase, rate, loss, outcome in (
        ("low", Phase.CONFIRM, 0.1, 3.0, Outcome.COMPLETE),
        ("high", Phase.CONFIRM, 0.0, 9.0, Outcome.COMPLETE),
        ("lost", Phase.EXPLORE, 0.0, 8.0, Outcome.DIVERGED),
    ):
        info = trial_info(name, phase)
        model = info.config.model.model_copy(update={"drop_rate": rate})
        object.__setattr__(info, "config", info.config.model_copy(update={"model": model}))
        run = other.start_run(parent, info)
        other.log_point(run, point(40, val__loss=loss))
        other.end_run(run, outcome)
    other.close_sweep(parent, Outcome.COMPLETE)
    experiment = experiment_of(client, "searched").experiment_id
    found = [{run.info.run_name for run in client.search_runs([experiment], search)} for search in searches]
    assert found == [{"low"}, {"low"}, {"lost"}]
