"""A sweep on a real MLflow server behind a proxy that demands a login and has a limit on the size of requests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from in_process import call
from sandbox import SPEC, Sandbox
from servers import Answer, Proxy, Request, server_port

__all__ = ["server_port"]

pytestmark = pytest.mark.slow

LOGIN = "me:hunter2~secret"
TOO_LARGE = Answer(413, "<html><h1>413 Request Entity Too Large</h1></html>")
REFUSED = (".safetensors", "/samples.json", "/report.html")


def artifacts(client: MlflowClient, run_id: str) -> set[str]:
    """The paths of a run's artifacts."""
    folders, found = [""], set()
    while folders:
        for one in client.list_artifacts(run_id, folders.pop() or None):
            folders += [one.path] if one.is_dir else []
            found |= set() if one.is_dir else {one.path}
    return found


def test_a_login_and_files_that_are_too_large(
    server_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The login is neither printed nor stored. A refused file is named and left out, and the answer is shown."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sandbox = Sandbox(tmp_path, SPEC.replace("trials: 2, seeds: 2", "trials: 1, seeds: 2"), store=False)
    refused: list[str] = []

    def limited(request: Request) -> Answer | None:
        if request.login != LOGIN:
            return Answer(401, "You are not authenticated.")
        if request.path.endswith(REFUSED):
            refused.append(request.path)
            return TOO_LARGE
        return None

    with Proxy(limited, server_port) as proxy:
        arguments = ["tiny.yaml", "--workers", "2", "--tracking", proxy.address.replace("http://", f"http://{LOGIN}@")]
        done = call(sandbox, *arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Verdict" in done.stdout and f"its page:   {proxy.address}/#/experiments/" in done.stdout
        [line] = done.stderr.splitlines()
        assert re.match(
            r"failed: MLflow did not store \S+ of run \w{12}, .* and \d+ more: the server, or a proxy", line
        )
        assert line.endswith("(413 Request Entity Too Large); raise the limit, such as nginx's client_max_body_size; "
                             "the same command tries again")  # fmt: skip
        assert "disk" not in done.stdout + done.stderr
        assert len(refused) == len(set(refused)) == 4 + 6 + 1  # confirm runs, runs, the report
        status = call(sandbox, *arguments, "--status")
        assert "6 finished runs" in status.stdout, status.stdout

        proxy.rule = lambda request: None if request.login == LOGIN else Answer(401)
        again = call(sandbox, *arguments)
        assert again.returncode == 0, again.stdout + again.stderr
        said = done.stdout + done.stderr + status.stdout + again.stdout
        stored = "".join(str(request.body) for request in proxy.requests)
    files = "".join(path.read_text("latin-1") for path in tmp_path.rglob("*") if path.is_file())
    assert LOGIN.partition(":")[2] not in said + stored + files
    client = MlflowClient(f"http://127.0.0.1:{server_port}")
    [experiment] = client.search_experiments(filter_string="name = 'tiny'")
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 7
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for run_id, run in runs.items():
        kept = artifacts(client, run_id)
        assert ("samples.json" if "mlflow.parentRunId" in run.data.tags else "report/report.html") in kept
    models = client.search_logged_models([experiment.experiment_id])
    assert [model.status.value for model in models] == ["READY"] * 4
    assert not (tmp_path / "mlruns" / "tiny.work").exists()
