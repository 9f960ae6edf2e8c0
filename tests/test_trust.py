"""Real attempts on what comes from a store, a cache, a folder or an address, each a row of the threat model.

The threat model is in `mlruns/README.md`. After each command, `Home` checks that no file outside the promised folders
was changed and that no secret was written or printed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sqlite3
from pathlib import Path
from urllib.parse import quote

import pytest

from harness.core.files import json_with_checksum, read_json_with_checksum
from harness.tracking.outbox.journal import Journal
from harness.tracking.schema import describe_trial
from repositories import commit, stage
from sandbox import SPEC
from servers import text_server
from stored_runs import trial_info
from trust import SECRET, Home, finished, finished_project, home

CODED = quote(SECRET, safe="")  # as addresses need it

__all__ = ["finished", "finished_project", "home"]

pytestmark = pytest.mark.slow

# --- folders of the user's own ---------------------------------------------------------------------------------------


def test_a_report_into_a_folder_of_the_users_own(finished: Home) -> None:
    """`--out paper` writes into `paper/tiny`; when that is the user's own, nothing in it is replaced or removed."""
    finished.paper.rename(finished.folder / "tiny")
    done = finished.run("tiny", "--out", str(finished.folder), module="harness.report")
    assert done.returncode == 2 and "tiny" in done.stdout + done.stderr


def test_only_what_a_report_wrote_is_stored_with_the_sweep(finished: Home) -> None:
    """Notes of the user, and a link, stay in the report's folder and do not reach the store."""
    reports = finished.project / "reports" / "tiny"
    (reports / "notes.txt").write_text(SECRET, "utf-8")
    (reports / "tables" / "key.csv").symlink_to(finished.key)
    assert finished.run().returncode == 0
    stored = {path.name for path in (finished.project / "mlruns" / "artifacts").rglob("report/**/*")}
    assert {"report.html", "runs.csv", "answer.csv"} <= stored and not {"notes.txt", "key.csv"} & stored


def test_files_of_a_sweep_that_are_links(finished: Home) -> None:
    """The log, the lock and its holder are neither read nor written through a link."""
    stores = finished.project / "mlruns"
    for name in ("tiny.log", "tiny.holder"):
        (stores / name).unlink(missing_ok=True)
        (stores / name).symlink_to(finished.key)
    assert finished.run().returncode == 0
    (stores / "tiny.lock").unlink(missing_ok=True)
    (stores / "tiny.lock").symlink_to(finished.key)
    done = finished.run()
    assert done.returncode == 1 and "tiny.lock" in done.stderr


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_secrets_in_the_address_of_a_text(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """They are used for the download and stored nowhere; with other ones the same command finds the same sweep."""
    text = "Once upon a time there was a house.\n" * 400
    spec, digest = home.project / "tiny.yaml", hashlib.sha256(text.encode()).hexdigest()
    caplog.set_level(logging.INFO)
    with text_server(text, login=f"me:{SECRET}") as host:
        address = f"http://me:{CODED}@{host}/tale.txt?X-Amz-Signature={CODED}&X-Amz-Date=1"
        small = spec.read_text("utf-8").replace("trials: 2, seeds: 2", "trials: 1, seeds: 1")
        spec.write_text(small.replace("corpus: sotu-1820", f"url: '{address}', sha256: {digest}"), "utf-8")
        refused = {
            "data.url=ftp://me:{}@host/tale.txt": "allowed: an address that starts with http",
            "data.url=http://me:{}@[::1": "allowed: an address that starts with http",
            "data.url=[http://me:{}@host]": "allowed: a text",
            "compare.data.url=http://host?token={}": "allowed: a list of values",
            f"data.sha256={'f' * 64}": "found other content at",
        }
        for setting, allowed in refused.items():
            done = home.run("tiny.yaml", "--plan", "--set", setting.format(SECRET))
            assert done.returncode == 2 and allowed in done.stderr, done.stderr
        assert home.run().returncode == 0
        again = home.run("tiny.yaml", "--set", f"data.url=http://{host}/tale.txt?token={CODED}")
    assert again.returncode == 0 and len(home.sandbox.runs()[0]) == 1
    assert f"http://{host}/tale.txt" in (home.project / "reports/tiny/report.md").read_text("utf-8")
    cached = [path.read_text("utf-8") for path in Path(os.environ["GPT_HARNESS_CACHE"]).rglob("*.json")]
    assert not any(form in text for text in (caplog.text, *cached) for form in (SECRET, CODED))


def test_secrets_in_the_addresses_of_stores(finished: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Printed and stored commands name a variable, from which the next command reads the address."""
    tracking = f"sqlite:///mlruns/mlflow.db?password={SECRET}"
    storage = f"sqlite:///file:mlruns/optuna.db?uri=true&password={SECRET}"
    done = finished.run("tiny.yaml", "--tracking", tracking, f"--storage={storage}")
    assert done.returncode == 0, done.stderr
    named = 'tiny.yaml --tracking "$MLFLOW_TRACKING_URI" --storage="$GPT_HARNESS_STORAGE"'
    assert f"python -m harness.sweep {named}" in finished.sandbox.runs()[0][0].data.tags["harness.command"]
    assert 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"' in done.stdout
    wrong = finished.run("tiny.yaml", "--tracking", "", "--storage", f"postgresql+none://me:{SECRET}@host/db")
    assert wrong.returncode == 2 and "--tracking: found nothing" in wrong.stderr and "--storage: found" in wrong.stderr
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    monkeypatch.setenv("GPT_HARNESS_STORAGE", storage)
    assert finished.run("tiny.yaml", "--status").returncode == 0
    assert finished.run("tiny", module="harness.report").returncode == 0


def test_secrets_in_uncommitted_changes(finished: Home) -> None:
    """Files of secrets are left out of the patch by name; the page has the patch only when it is asked for."""
    commit(finished.project, "tiny.yaml")
    for name in (".env", "deploy/id_rsa", "credentials.json"):
        (finished.project / name).parent.mkdir(exist_ok=True)
        (finished.project / name).write_text(f"TOKEN={SECRET}\n", "utf-8")
    with (finished.project / "tiny.yaml").open("a", encoding="utf-8") as spec:
        spec.write(f"# a changed line, from http://me:{SECRET}@host/page?token={SECRET}\n")
    stage(finished.project, ".env", "deploy/id_rsa", "credentials.json")
    assert finished.run().returncode == 0
    page = finished.project / "reports" / "tiny" / "report.html"
    [patch] = (finished.project / "mlruns" / "artifacts").rglob("dirty.patch")
    assert "# a changed line" in patch.read_text("utf-8") and "deploy/id_rsa" in patch.read_text("utf-8")
    assert "# a changed line" not in page.read_text("utf-8")
    assert finished.run("tiny", "--patch", module="harness.report").returncode == 0
    assert "# a changed line" in page.read_text("utf-8")


# --- code in a store -------------------------------------------------------------------------------------------------

# --- names, links and addresses --------------------------------------------------------------------------------------


def test_names_in_a_store_lead_to_no_other_folder(finished: Home) -> None:
    """`sweep.json` names the folder of a report, and Optuna's `run_key` the one of a run's states."""
    small = SPEC.replace("trials: 2", "trials: 1").replace("6_144", "2_048")
    (finished.project / "other.yaml").write_text(small.replace("name: tiny", "name: other"), "utf-8")
    assert finished.run("other.yaml").returncode == 0
    elsewhere = finished.folder / "elsewhere"
    for file in (finished.project / "mlruns" / "artifacts").glob("*/artifacts/sweep.json"):
        content = read_json_with_checksum(file.read_bytes()).content
        file.write_text(json_with_checksum({**content, "name": str(elsewhere / content["name"])}))
    done = finished.run("tiny", "other", module="harness.report")
    assert done.returncode == 0, done.stderr
    assert (finished.project / "reports" / "tiny+other" / "other" / "report.html").is_file()

    lost = next(run for run in finished.sandbox.runs()[1] if run.data.tags["harness.phase"] == "explore")
    finished.sandbox.client.delete_run(lost.info.run_id)  # so that it is restored from Optuna
    with sqlite3.connect(finished.project / "mlruns" / "optuna.db") as database:
        query = "update trial_user_attributes set value_json = ? where key = 'run_key'"
        assert database.execute(query, [json.dumps("../../../../paper")]).rowcount
    done = finished.run()
    assert done.returncode == 0, done.stderr
    assert "restored in MLflow from Optuna" in done.stdout


def test_links_among_the_artifacts_are_not_followed(finished: Home, caplog: pytest.LogCaptureFixture) -> None:
    """A patch that leads to a private key, a checkpoint and a description that lead elsewhere."""
    (parent,), children = finished.sandbox.runs()
    artifacts = finished.project / "mlruns" / "artifacts"
    files = artifacts / parent.info.run_id / "artifacts"
    finished.sandbox.client.set_tag(parent.info.run_id, "harness.git_dirty", "true")
    (files / "dirty.patch").unlink(missing_ok=True)
    (files / "dirty.patch").symlink_to(finished.key)
    done = finished.run("tiny", "--patch", module="harness.report")
    assert done.returncode == 0 and "dirty.patch: found a link; allowed: a regular file" in caplog.text

    shutil.copytree(artifacts / "models", finished.folder / "models")
    for file in (artifacts / "models").glob("*/artifacts/model.safetensors"):
        file.unlink()
        file.symlink_to(finished.folder / file.relative_to(artifacts))
    confirm = next(run.info.run_id for run in children if run.data.tags["harness.phase"] == "confirm")
    done = finished.run(confirm, "--max-new-tokens", "2", module="harness.generate")
    assert done.returncode == 2 and "model.safetensors: found a link" in done.stderr

    (files / "sweep.json").rename(finished.paper / "sweep.json")
    (files / "sweep.json").symlink_to(finished.paper / "sweep.json")
    done = finished.run("tiny", module="harness.report")
    assert done.returncode == 2 and "sweep.json: found a link" in done.stderr
    done = finished.run()  # it writes `sweep.json` again
    assert done.returncode == 1 and "sweep.json: found a link" in done.stderr


def test_an_address_outside_the_store_is_used_only_if_asked_for(finished: Home) -> None:
    """A run's files are recorded as being in another folder of this machine."""
    parent = finished.sandbox.runs()[0][0].info.run_id
    elsewhere = finished.folder / "elsewhere"
    shutil.copytree(finished.project / "mlruns" / "artifacts" / parent, elsewhere / parent)
    (elsewhere / parent / "artifacts" / "dirty.patch").write_text(f"password={SECRET}\n")
    finished.sandbox.client.set_tag(parent, "harness.git_dirty", "true")
    with sqlite3.connect(finished.project / "mlruns" / "mlflow.db") as database:
        query = "update runs set artifact_uri = ? where run_uuid = ?"
        assert database.execute(query, [f"{elsewhere}/{parent}/artifacts", parent]).rowcount
    done = finished.run("tiny", "--patch", module="harness.report")
    assert done.returncode == 2 and f"--artifacts-at {elsewhere}" in done.stderr
    done = finished.run("tiny", "--artifacts-at", str(elsewhere), module="harness.report")
    assert done.returncode == 0, done.stderr


def test_an_experiment_of_somebody_else_gets_no_weights(home: Home) -> None:
    """Somebody has made an experiment under the sweep's name first, with a location of their own."""
    elsewhere = home.folder / "elsewhere"
    elsewhere.mkdir()
    home.sandbox.client.create_experiment("tiny", elsewhere.as_uri())
    done = home.run()
    assert done.returncode == 1 and f"--artifacts-at {elsewhere}" in done.stderr
    home.promised.append(elsewhere)
    done = home.run("tiny.yaml", "--artifacts-at", str(elsewhere), "--set", "study.trials=1", "--quiet")
    assert done.returncode == 0 and list(elsewhere.glob("models/*/artifacts/model.safetensors")), done.stderr


def test_links_in_a_work_folder_are_not_stored(finished: Home) -> None:
    """The folder of a run that has ended, with a link among the files to be stored with it."""
    parent = finished.sandbox.runs()[0][0]
    folder = finished.sandbox.work / parent.data.tags["harness.identity"][:12] / "abc"
    journal = Journal(folder)
    journal.append("begin", describe_trial(trial_info()))
    journal.append("end", {"outcome": "complete", "reason": ""})
    link = folder / "artifacts" / "notes.txt"
    link.parent.mkdir()
    link.symlink_to(finished.key)
    for arguments in (("tiny.yaml",), ("tiny.yaml", "--status")):
        done = finished.run(*arguments)
        assert done.returncode == 1 and "notes.txt: found a link; allowed: what a sweep wrote" in done.stderr


# --- content that cannot be read -------------------------------------------------------------------------------------

# --- ownership and forged results ------------------------------------------------------------------------------------

# --- caches ----------------------------------------------------------------------------------------------------------

# --- sizes and written text ------------------------------------------------------------------------------------------
