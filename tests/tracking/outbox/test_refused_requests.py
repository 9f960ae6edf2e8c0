"""Requests of every kind are refused or lost between the outbox and a real server: no point is lost or doubled."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from harness.core.outcomes import Outcome
from harness.tracking import ARTIFACTS, Outbox, Tracker, TrackingError, unfinished_runs
from servers import LOGIN_PAGE, Answer, Proxy, Request, server_port
from stored_runs import point, sweep_info, trial_info

__all__ = ["server_port"]

pytestmark = pytest.mark.slow

FAULTS = {
    "401": (Answer(401, "not authenticated"), "wants a user name and a password (401 Unauthorized)"),
    "403": (Answer(403, "denied"), "the server denies this user access (403 Forbidden: denied)"),
    "413": (Answer(413), "refuses a request of this size (413 Request Entity Too Large)"),
    "500": (Answer(500), "the server failed (500 Internal Server Error)"),
    "502": (Answer(502), "answers that the server is not available (502 Bad Gateway)"),
    "a page": (Answer(200, LOGIN_PAGE), "a web page answers, such as a login page"),
    "closed": (Answer(), "the connection was closed without an answer"),
    "a lost answer": (Answer(after=True), "the connection was closed without an answer"),
}
names = (f"refused-{number}" for number in itertools.count())


@pytest.fixture
def proxy(server_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    with Proxy(port=server_port) as proxy:
        yield proxy


def opened(name: str, proxy: Proxy, folder: Path) -> Outbox:
    tracker = Tracker(name, proxy.address)
    return Outbox(tracker, tracker.open_sweep(sweep_info(name)), folder)


def record(outbox: Outbox) -> str:
    """Record a whole run with files and a text sample; nothing is sent yet."""
    key = outbox.start(trial_info())
    folder = outbox.folder_of(key) / ARTIFACTS / "checkpoint"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "checkpoint.json").write_text("{}")
    (folder.parent / "curve.svg").write_text("<svg/>")
    for step in range(3):
        outbox.log_point(key, point(step, sample=f"text {step}", val__loss=3.0 - step))
    outbox.end(key, Outcome.COMPLETE, "")
    return key


def check(name: str, client: MlflowClient, key: str) -> None:
    """There is one sweep with one run, each point once, one model and every file."""
    [experiment] = client.search_experiments(filter_string=f"name = '{name}'")
    runs = client.search_runs([experiment.experiment_id])
    [run] = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) == 2
    assert (run.data.tags["harness.key"], run.info.status) == (key, "FINISHED")
    for metric, values in {"val/loss": [3.0, 2.0, 1.0], "tokens": [0.0, 64.0, 128.0]}.items():
        points = client.get_metric_history(run.info.run_id, metric)
        assert [(one.step, one.value) for one in points if not one.model_id] == list(enumerate(values))
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"curve.svg", "samples.json"}
    [model] = client.search_logged_models([experiment.experiment_id])
    assert model.status.value == "READY"
    stored = {file.path for file in client.list_logged_model_artifacts(model.model_id)}
    assert stored == {"model.safetensors", "checkpoint.json"}


def sent(name: str, proxy: Proxy, folder: Path, attempts: int) -> tuple[str, list[str]]:
    """Record a run and send it, each time by a new process; returns its key and every sentence about a fault."""
    key, said = "", []
    for _ in range(attempts):
        try:
            outbox = opened(name, proxy, folder)
            key = key or record(outbox)
            for unfinished in outbox.unfinished_runs():
                outbox.send_unfinished(unfinished)
            outbox.send()
        except TrackingError as error:
            said.append(str(error))
            continue
        said += outbox.tracker.refused_artifacts()
        if not unfinished_runs(folder):
            break
    return key, said


@given(first=st.integers(0, 60), count=st.integers(1, 9), fault=st.sampled_from(sorted(FAULTS)))
@settings(
    max_examples=8,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_refused_and_lost_requests(first: int, count: int, fault: str, proxy: Proxy, tmp_path: Path) -> None:
    """Some requests in a row meet a fault. What is refused is sent again, and the sentence names the cause."""
    name = next(names)
    answer, cause = FAULTS[fault]
    seen = itertools.count()
    proxy.rule = lambda _: answer if first <= next(seen) < first + count else None
    key, said = sent(name, proxy, tmp_path / name / "work", 2 * count + 4)
    proxy.rule = lambda _: None
    assert all(cause in text for text in said), said
    check(name, MlflowClient(proxy.address), key)


@pytest.mark.parametrize(
    "path", ["/experiments/create", "/runs/create", "/runs/log-inputs", "/runs/log-batch", "/logged-models", "/outputs"]
)
def test_an_answer_that_is_lost_stores_nothing_twice(path: str, proxy: Proxy, tmp_path: Path) -> None:
    """MLflow's client repeats such a request by itself."""
    name = next(names)
    lost: list[Request] = []

    def rule(request: Request) -> Answer | None:
        if not request.path.endswith(path) or lost:
            return None
        lost.append(request)
        return Answer(after=True)

    proxy.rule = rule
    key, said = sent(name, proxy, tmp_path / "work", 6)
    assert lost and all(FAULTS["a lost answer"][1] in text for text in said), said
    check(name, MlflowClient(proxy.address), key)


@pytest.mark.parametrize("file", ["sweep.json", "curve.svg", "samples.json", "model.safetensors"])
def test_a_page_in_answer_to_an_upload_is_noticed(file: str, proxy: Proxy, tmp_path: Path) -> None:
    """MLflow's client takes any answer with status 200 for a stored file."""
    name = next(names)
    answered: list[Request] = []

    def rule(request: Request) -> Answer | None:
        if request.method != "PUT" or not request.path.endswith(file) or answered:
            return None
        answered.append(request)
        return Answer(200, LOGIN_PAGE)

    proxy.rule = rule
    key, said = sent(name, proxy, tmp_path / "work", 6)
    assert answered and "a web page answers, such as a login page" in said[0]
    check(name, MlflowClient(proxy.address), key)


def test_files_that_are_refused_again_and_again_are_tried_once_per_process(proxy: Proxy, tmp_path: Path) -> None:
    refused: list[str] = []

    def rule(request: Request) -> Answer | None:
        if request.method != "PUT" or not request.path.endswith(("curve.svg", "model.safetensors", "samples.md")):
            return None
        refused.append(request.path)
        return Answer(413)

    proxy.rule = rule
    name, folder = next(names), tmp_path / "work"
    with opened(name, proxy, folder) as outbox:
        key = record(outbox)
        assert outbox.drain(60)
        assert outbox.error == ""
    assert len(refused) == 3
    [line] = outbox.tracker.refused_artifacts()
    assert all(f"{path} of run " in line for path in ("checkpoint", "curve.svg", "samples.md"))
    assert line.startswith("MLflow did not store ") and "(413 Request Entity Too Large)" in line
    [left] = unfinished_runs(folder)
    assert (left.key, left.outcome) == (key, Outcome.COMPLETE)
    proxy.rule = lambda _: None
    with opened(name, proxy, folder) as later:
        later.send_unfinished(left)
        assert later.drain(60)
    assert not later.tracker.refused_artifacts()
    assert not unfinished_runs(folder)
    check(name, MlflowClient(proxy.address), key)
