"""Real attempts on what comes from a store, a cache, a folder or an address, each a row of the threat model.

The threat model is in `mlruns/README.md`. After each command, `Home` checks that no file outside the promised folders
was changed and that no secret was written or printed.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import http.server
import json
import logging
import os
import pickle
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from html import unescape
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Metric, Param, RunTag

from damaged_stores import damage, damages, database
from fuzzing import examples
from harness.config.fingerprint import digest_of
from harness.config.run import DataConfig
from harness.core.files import json_list_with_checksum, json_with_checksum, read_json_with_checksum
from harness.data import get_tokenizer, open_dataset
from harness.model.weights import load_checkpoint, save_checkpoint
from harness.report import compare, load_curves, load_runs
from harness.runner import after_training
from harness.tracking import TrackingError
from harness.tracking.checksums import with_checksums
from harness.tracking.outbox.journal import Journal
from harness.tracking.schema import ANSWER, VERDICT, describe_trial
from repositories import commit, stage
from sandbox import SPEC
from servers import text_server
from stored_runs import trial_info
from trust import SECRET, Home, finished, finished_project, home, within

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

_unpickled: list[str] = []  # modules and names that pickles were resolved to while `watched_pickles` is active
_watching = False


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event == "pickle.find_class":
        _unpickled.append(".".join(map(str, arguments)))


@pytest.fixture
def watched_pickles() -> Iterator[list[str]]:
    """What this process loads from pickles, as `module.name`. Python keeps an audit hook until the process ends."""
    global _watching
    sys.addaudithook(_watch)
    _unpickled.clear()
    _watching = True
    yield _unpickled
    _watching = False


class _Planted:
    """An object whose pickle makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def test_pickles_in_a_store_are_never_loaded(tmp_path: Path, watched_pickles: list[str]) -> None:
    """Optuna's CMA-ES keeps its state as a pickle in trials, MLflow's models and tools of others as files."""
    spec = SPEC.replace("compare:\n  model.drop_rate: [0.0, 0.2]\nbaseline: {model.drop_rate: 0.0}\n", "")
    home = Home(tmp_path / "home", spec.replace("random, trials: 2, seeds: 2", "cmaes, trials: 2, seeds: 1"))
    assert home.run().returncode == 0
    marker = home.folder / "marker"
    planted = pickle.dumps(_Planted(marker))
    pickles = home.project / "mlruns" / "optuna.db"
    with closing(sqlite3.connect(pickles)) as database:
        trials = [trial for (trial,) in database.execute("SELECT trial_id FROM trials")]
        attributes = [(trial, f"{kind}:optimizer:0", json.dumps(planted.hex())) for trial in trials for kind in KINDS]
        insert = "INSERT OR REPLACE INTO trial_system_attributes (trial_id, key, value_json) VALUES (?, ?, ?)"
        database.executemany(insert, attributes)
        database.commit()
    for checkpoint in [*home.project.rglob("checkpoint.json"), *home.project.rglob("samples.json")]:
        for name in ("model.pkl", "python_model.pkl", "model.pt", "state.pickle"):
            (checkpoint.parent / name).write_bytes(planted)
        (checkpoint.parent / "MLmodel").write_text("flavors: {python_function: {loader_module: mlflow.sklearn}}\n")
    assert home.run("tiny.yaml", "--set", "study.trials=4").returncode == 0
    assert home.run("tiny", module="harness.report").returncode == 0
    _, runs = home.sandbox.runs()
    confirmed = [run.info.run_id for run in runs if run.data.tags["harness.phase"] != "explore"]
    assert home.run(confirmed[0], "--prompt", "a", module="harness.generate").returncode == 0
    assert not marker.exists()
    assert {name for name in watched_pickles if not name.startswith("harness.")} == set()  # messages of its own workers


KINDS = ("cma", "sepcma", "cmawm")  # of Optuna's CMA-ES

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
    finished.sandbox.client.delete_run(lost.info.run_id)  # so that it would be restored from Optuna
    with sqlite3.connect(finished.project / "mlruns" / "optuna.db") as database:
        query = "update trial_user_attributes set value_json = ? where key = 'run_key'"
        assert database.execute(query, [json.dumps("../../../../paper")]).rowcount
    done = finished.run()
    assert done.returncode == 0, done.stderr
    assert "trials are left out: found '../../../../paper' as the run key" in done.stdout


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


def ends_well(done: subprocess.CompletedProcess[str]) -> str:
    """Check that a command ended with a result or with printable sentences; returns all that it printed."""
    printed = done.stdout + done.stderr
    assert done.returncode in (0, 1, 2, 3), printed
    assert done.returncode == 0 or done.stderr.strip(), printed
    assert all(line.isprintable() for line in printed.replace("\t", "").splitlines()), printed
    return " ".join(printed.split())


def test_a_run_that_cannot_be_read_stops_nobody(finished: Home, caplog: pytest.LogCaptureFixture) -> None:
    """It is left out, named and counted in the sweep's line, in `--status` and as a warning of the report."""
    confirms = [run for run in finished.sandbox.runs()[1] if run.data.tags["harness.phase"] == "confirm"]
    trials = [run for run in finished.sandbox.runs()[1] if run.data.tags["harness.phase"] == "explore"]
    client = finished.sandbox.client
    changes = (("seed", None), ("seed", "9" * 400), ("outcome", "\x1b[31mgood"), ("config_sha256", None))
    for run, (name, text) in zip(confirms, changes, strict=True):
        client.delete_tag(run.info.run_id, "harness.checksums")  # as in a run of an older version
        client.delete_tag(run.info.run_id, f"harness.{name}")
        if text is not None:
            client.set_tag(run.info.run_id, f"harness.{name}", text)
    client.delete_tag(trials[0].info.run_id, "harness.checksums")
    client.set_tag(trials[0].info.run_id, "harness.trial_number", "first")
    client.log_metric(trials[1].info.run_id, "tokens", float("nan"), step=24)  # the last one
    client.log_metric(trials[2].info.run_id, "tokens", -1.0, step=8)

    status = ends_well(finished.run("tiny.yaml", "--status"))
    assert "6 runs are left out: " in status and "as the tag harness." in status and "; and 1 more" in status
    refused = finished.run("tiny", module="harness.report")  # no confirm run is left
    assert "6 runs are left out: " in ends_well(refused) + (finished.project / "reports/tiny/report.md").read_text()
    caplog.clear()
    assert len(load_runs("tiny", finished.sandbox.uri)) == 2
    assert [message.rpartition("; ")[2] for message in caplog.messages] == [
        *["the run is left out"] * 6,
        "the point is left out",
    ]
    assert all(message.isprintable() for message in caplog.messages)
    for module in ("harness.compare", "harness.generate"):
        pair = [confirms[1].info.run_id, confirms[2].info.run_id][: 2 if module == "harness.compare" else 1]
        done = finished.run(*pair, module=module)
        assert done.returncode == 2 and "as the tag harness.seed of the run" in ends_well(done)
    done = finished.run("tiny.yaml", "--plain")
    assert "6 runs are left out: " in ends_well(done) and done.returncode == 0  # what was left out is trained again
    page = unescape((finished.project / "reports/tiny/report.html").read_text())
    assert "6 runs are left out: " in page and "\x1b" not in page


def test_a_sweep_of_the_same_name_that_cannot_be_read_stops_nobody(finished: Home) -> None:
    client, parent = finished.sandbox.client, finished.sandbox.runs()[0][0]
    tags = {"harness.role": "sweep", "harness.opened": "\x1b[2J9", "harness.identity": "1" * 64}
    client.create_run(parent.info.experiment_id, tags=tags, run_name="two\nlines")
    views = "mlflow.sharedViewState.harness-runs"
    client.set_experiment_tag(parent.info.experiment_id, views, "[" * 4000)
    for arguments in (("tiny.yaml", "--status"), ("tiny.yaml", "--plain")):
        assert "1 sweep is left out: found " in ends_well(finished.run(*arguments))
    done = finished.run("tiny", module="harness.report")
    assert done.returncode == 0 and "1 sweep is left out: found" in ends_well(done)


def test_artifacts_that_cannot_be_read(finished: Home, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged file that decides something is refused in one sentence; any other is left out."""
    folder = finished.project / "mlruns" / "artifacts"
    deep = json.dumps({"checksum": "0"})[:-1].encode() + b', "arms": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    [plan], [sweep] = folder.rglob("analysis_plan.json"), folder.glob("*/artifacts/sweep.json")
    for file, content in ((sweep, deep), (sweep, b"[" * 100_000), (plan, b"[]"), (plan, b'{"looks": "\\u001b"}')):
        before = file.read_bytes()
        file.write_bytes(content)
        done = finished.run("tiny", module="harness.report")
        assert done.returncode == 2 and "(damaged file); restore it from a backup" in ends_well(done)
        file.write_bytes(before)
    lists: dict[str, list[Any]] = {
        "samples.json": [{"step": "x", "tokens": 1, "text": "a"}],
        "token_losses.json": [{"text": 1}],
    }
    for name, items in lists.items():
        for file in folder.rglob(name):
            file.write_text(json_list_with_checksum(items))
    caplog.clear()
    done = finished.run("tiny", module="harness.report")
    assert done.returncode == 0 and ends_well(done)
    assert any("has another content than expected (damaged file); it is left out" in one for one in caplog.messages)


def test_a_trial_of_optuna_that_cannot_be_read(finished: Home) -> None:
    file = finished.project / "mlruns" / "optuna.db"
    with database(file) as connection:
        statement = "update trial_user_attributes set value_json = ? where key = ? and trial_id = ?"
        for trial, (key, text) in enumerate((("outcome", '"\\u001b[31m"'), ("run_key", '"../../paper"')), 1):
            connection.execute(statement, (text, key, trial))
    assert "2 trials are left out: found " in ends_well(finished.run("tiny.yaml", "--status"))
    done = finished.run("tiny.yaml", "--plain")
    assert "2 trials are left out: found " in ends_well(done) and done.returncode == 0
    for statement in (
        "update trial_values set value = null where trial_id = 3",
        "update trial_user_attributes set value_json = '[' where trial_id = 4",
    ):
        with database(file) as connection:
            connection.execute(statement)
        for arguments in (("tiny.yaml", "--status"), ("tiny.yaml",)):
            done = finished.run(*arguments)
            assert done.returncode == 1 and "the storage holds a value that cannot be read" in ends_well(done)


@given(found=st.lists(damages, min_size=1, max_size=4), data=st.data())
@examples(2, shrink=False)
def test_any_damage_ends_in_a_result_or_in_a_sentence(
    found: list[tuple[Any, ...]], data: st.DataObject, finished: Home, finished_project: Path
) -> None:
    """`FUZZ=100 pytest tests/test_trust.py -k damage` tries 100 times as many examples."""
    shutil.rmtree(finished.project)
    shutil.copytree(finished_project, finished.project)
    pair = [run.info.run_id for run in finished.sandbox.runs()[1]]
    for one in found:
        damage(finished.project, one)
    commands = [
        ("harness.sweep", "tiny.yaml", "--status"),
        ("harness.report", "tiny"),
        ("harness.compare", *data.draw(st.permutations(pair))[:2]),
        ("harness.generate", data.draw(st.sampled_from(pair)), "--max-new-tokens", "2"),
        ("harness.sweep", "tiny.yaml", "--plain"),
        ("harness.report", "tiny"),
    ]
    with mock.patch.object(after_training, "DRAIN_PATIENCE", 3.0):
        for module, *arguments in commands:
            ends_well(finished.run(*arguments, module=module))
    with suppress(TrackingError):
        runs = load_runs("tiny", finished.sandbox.uri)
        compare(runs)
        load_curves("tiny", finished.sandbox.uri)


# --- ownership and forged results ------------------------------------------------------------------------------------


def test_forged_owners_and_opening_times(finished: Home) -> None:
    """A sweep that seems to run elsewhere for ever can be taken over; of two sweeps of one name both are named."""
    (parent,), _ = finished.sandbox.runs()
    client, run_id = finished.sandbox.client, parent.info.run_id
    future = str(time.time_ns() // 1_000_000 + 10**13)
    client.update_run(run_id, status="RUNNING")
    client.set_tag(run_id, "harness.process", "elsewhere\x1b[31m:17:1000.00")
    client.set_tag(run_id, "harness.beat", future)
    refused = finished.run()
    assert refused.returncode == 3 and "in the future" in refused.stdout + refused.stderr
    assert "--take-over" in refused.stdout + refused.stderr
    taken = finished.run("tiny.yaml", "--take-over")
    assert taken.returncode == 0 and "taking tiny over from process elsewhere" in taken.stdout
    tags = {**client.get_run(run_id).data.tags, "harness.identity": "0" * 64, "harness.opened": future}
    forged = client.create_run(parent.info.experiment_id, 1, with_checksums(tags), "tiny").info.run_id
    report = finished.run("tiny", module="harness.report")
    assert report.returncode == 0 and f"this is {run_id}" in report.stdout and forged in report.stdout
    tags["harness.opened"] = str(time.time_ns() // 1_000_000)
    client.log_batch(forged, tags=[RunTag(name, value) for name, value in with_checksums(tags).items()])
    report = finished.run("tiny", module="harness.report")  # the forged sweep has no description
    assert report.returncode != 0 and forged in report.stderr and f"--sweep RUN_ID reads {run_id}" in report.stderr


def forge_run(home: Home, arm: str, seed: int, loss: float, **params: str) -> str:
    """Add a copy of a confirm run to the store, with another seed, loss and parameters and with valid checksums."""
    client, (_, runs) = home.sandbox.client, home.sandbox.runs()
    one = next(
        run for run in runs if (run.data.tags["harness.phase"], run.data.tags["harness.arm"]) == ("confirm", arm)
    )
    changed = {**one.data.params, "train.seed": str(seed), **params}
    values = {**one.data.metrics, "val/loss": loss}
    tags = {name: value for name, value in one.data.tags.items() if name != "mlflow.runName"}
    tags = with_checksums({**tags, "harness.seed": str(seed)}, params=changed, losses={"val/loss": loss})
    run_id = str(client.create_run(one.info.experiment_id, tags=tags, run_name="forged").info.run_id)
    now = time.time_ns() // 1_000_000
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, now, 24) for name, value in values.items()],
        params=[Param(name, value) for name, value in changed.items()],
    )
    client.set_terminated(run_id)
    return run_id


def test_runs_that_no_plan_asked_for_decide_nothing(finished: Home) -> None:
    """A seed or values outside the plan, a second result of a seed: left out, in report, notebook and MLflow alike."""
    arm = "drop_rate=0.2"
    assert finished.run("tiny", module="harness.report").returncode == 0
    table = finished.project / "reports" / "tiny" / "comparison.csv"
    before = table.read_text("utf-8"), compare(load_runs("tiny", finished.sandbox.uri))
    (parent,), _ = finished.sandbox.runs()
    forged = [forge_run(finished, arm, seed, 0.5) for seed in (2, 50, 51, 0)]
    forged.append(forge_run(finished, arm, 3, 0.5, **{"train.learning_rate": "0.0123"}))
    forged.append(forge_run(finished, arm, 3, 0.5, **{"model.drop_rate": "0.0"}))
    report = finished.run("tiny", module="harness.report")
    assert report.returncode == 0 and "6 confirm runs are outside the plan" in report.stdout
    assert table.read_text("utf-8") == before[0]
    pd.testing.assert_frame_equal(compare(load_runs("tiny", finished.sandbox.uri)), before[1])
    assert finished.run().returncode == 0
    tags = finished.sandbox.client.get_run(parent.info.run_id).data.tags
    assert {name: tags[name] for name in (VERDICT, ANSWER)} == {
        name: parent.data.tags[name] for name in (VERDICT, ANSWER)
    }


# --- caches ----------------------------------------------------------------------------------------------------------

SHOW = ("show", "sotu-1820")  # of the command `harness.data`


@pytest.fixture
def cache(home: Home, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder's cache, with the tokens of one text."""
    cache = home.folder / ".cache" / "gpt-harness"
    monkeypatch.setenv("GPT_HARNESS_CACHE", str(cache))
    open_dataset(DataConfig(corpus="sotu-1820"), cache=cache)
    return cache


def test_a_cache_that_others_can_write(home: Home, cache: Path) -> None:
    """What others may have put there is neither read nor replaced, and the sentence says how to get a cache."""
    assert home.run(*SHOW, module="harness.data").returncode == 0
    [tokens] = (cache / "tokens").iterdir()
    group = os.getegid() or 12345  # not root's own
    attempts: list[tuple[Path, int, int, str]] = [
        (cache, 0o777, os.getegid(), "everybody can write to"),
        (tokens, 0o707, os.getegid(), "everybody can write to"),
        (tokens / "train.npy", 0o606, os.getegid(), "everybody can write to"),
    ]
    if os.geteuid() == 0:
        attempts.append((tokens, 0o770, group, f"the group {group} can write to"))
    for place, mode, owner, sentence in attempts:
        before = place.stat()
        os.chown(place, -1, owner)
        place.chmod(mode)
        done = home.run(*SHOW, module="harness.data")
        assert done.returncode == 2 and sentence in done.stdout + done.stderr
        assert "chmod -R go-w" in done.stdout + done.stderr
        os.chown(place, -1, before.st_gid)
        place.chmod(before.st_mode & 0o777)
    if os.geteuid() == 0:
        os.chown(cache, 12345, -1)
        done = home.run("tiny.yaml")
        assert done.returncode == 2 and "belongs to the user 12345" in done.stdout + done.stderr
        os.chown(cache, 0, -1)
    assert home.run(*SHOW, module="harness.data").returncode == 0


def test_planted_tokens(home: Home, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Tokens of another text, or other tokens of this one, are found although their checksums fit."""
    data = open_dataset(DataConfig(corpus="sotu-1820"))
    [folder] = (cache / "tokens").iterdir()
    honest = {path: path.read_bytes() for path in folder.iterdir()}
    text = get_tokenizer("gpt2").decode(data.train)
    by_letter = [get_tokenizer("gpt2").pieces.index(bytes([value])) for value in range(256)]
    plants: list[tuple[str, list[int], str]] = [
        ("train", data.train[::-1].tolist(), "train.npy has other tokens"),
        ("val", [*data.val[:-1].tolist(), int(data.val[-2])], "val.npy has other tokens"),
        ("train", [by_letter[value] for value in text.encode()], "train.npy has other tokens"),
        ("test", data.train.tolist(), "test.npy has other tokens"),
        ("test", [*data.test.tolist(), 13], "the splits have other sizes"),
    ]
    for name, ids, found in plants:
        np.save(folder / f"{name}.npy", np.array(ids, np.uint16))
        meta = json.loads((folder / "meta.json").read_text())
        meta["content"]["files"] = {path.name: digest(path) for path in folder.glob("*.npy")}
        meta["sha256"] = digest_of(meta["content"])
        (folder / "meta.json").write_text(json.dumps(meta))
        caplog.clear()
        assert home.run(*SHOW, module="harness.data").returncode == 0
        assert found in caplog.text and "encoding them again" in caplog.text
        assert {path: path.read_bytes() for path in folder.iterdir()} == honest, found
    for make in (os.mkfifo, sparse):
        (folder / "train.npy").unlink()
        make(folder / "train.npy")
        with within(20):
            assert home.run(*SHOW, module="harness.data").returncode == 0
        assert {path: path.read_bytes() for path in folder.iterdir()} == honest


def sparse(path: Path) -> None:
    """Make a file of 4 TB that takes no space."""
    path.touch()
    os.truncate(path, 1 << 42)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- sizes and written text ------------------------------------------------------------------------------------------


@contextmanager
def served(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """The address of a web server that answers every request by a function."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self)
            except OSError:  # the client has hung up
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/text.txt"
        server.shutdown()
        thread.join()


def endless(request: http.server.BaseHTTPRequestHandler, status: int = 200, **headers: str) -> None:
    """Answer with text that never ends."""
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    while True:
        request.wfile.write(b"Every effort moves you. " * 1000)


def test_a_download_without_an_end(home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download stops at what fits into memory and on the disk, whatever the server names, sends or compresses."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("harness.data.corpora._main_memory", lambda: 1_000_000)
    bomb = gzip.compress(b" " * 10_000_000)
    answers: list[Callable[[http.server.BaseHTTPRequestHandler], None]] = [
        endless,
        lambda request: endless(request, Content_Length=str(10**15)),
        lambda request: send_compressed(request, bomb),
        lambda request: endless(request, 200 if "here" in request.path else 302, Location="/here"),
    ]
    (home.project / "tiny.yaml").write_text(
        (home.project / "tiny.yaml").read_text().replace("corpus: sotu-1820", f"url: ADDRESS, sha256: {'f' * 64}")
    )
    spec = (home.project / "tiny.yaml").read_text()
    for answer in answers:
        with served(answer) as address, within(20):
            (home.project / "tiny.yaml").write_text(spec.replace("ADDRESS", address))
            done = home.run()
        assert done.returncode == 2 and "data.url: found more than 0.0 GB at" in done.stdout + done.stderr
        assert list((cache / "downloads").iterdir()) == []


def send_compressed(request: http.server.BaseHTTPRequestHandler, content: bytes) -> None:
    request.send_response(200)
    request.send_header("Content-Encoding", "gzip")
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


def test_files_that_never_end(finished: Home) -> None:
    """Pipes, devices and sparse files are refused before they are read: as a text, a spec and a checkpoint."""
    project = finished.project
    os.mkfifo(project / "pipe")
    (project / "zero").symlink_to("/dev/zero")
    sparse(project / "sparse")
    texts = {"pipe": "is a FIFO", "zero": "is a device", "sparse": "found 4,398.0 GB in 1 file"}
    for name, sentence in texts.items():
        with within(20):
            done = finished.run("show", f"./{name}", module="harness.data")
        assert done.returncode == 2 and sentence in done.stdout + done.stderr
    for name, sentence in {"pipe": "it is a FIFO", "zero": "it is a device", "sparse": "larger than"}.items():
        with within(20):
            done = finished.run(name)
        assert done.returncode == 2 and sentence in done.stdout + done.stderr
    checkpoint = a_checkpoint(finished)
    for part in ("checkpoint.json", "model.safetensors"):
        kept = (checkpoint / part).read_bytes()
        for name in ("pipe", "zero", "sparse"):
            (checkpoint / part).unlink()
            (project / name).rename(checkpoint / part)
            with within(20):
                done = finished.run(str(checkpoint), module="harness.generate")
            assert done.returncode == 2 and part in done.stdout + done.stderr
            (checkpoint / part).rename(project / name)
            (checkpoint / part).write_bytes(kept)


def a_checkpoint(home: Home) -> Path:
    """The folder of a run's checkpoint in the store."""
    return next((home.project / "mlruns").rglob("model.safetensors")).parent


def test_a_checkpoint_with_weights_that_are_not_finite(finished: Home) -> None:
    """NaN weights are a sentence, not a text."""
    checkpoint = a_checkpoint(finished)
    model, config = load_checkpoint(checkpoint)
    with torch.no_grad():
        model.final_norm.weight[3] = float("nan")
    save_checkpoint(checkpoint, model, config, step=1)
    for options in ((), ("--temperature", "1")):
        done = finished.run(str(checkpoint), *options, module="harness.generate")
        assert done.returncode == 2 and "NaN or infinite, in final_norm" in done.stdout + done.stderr
    with torch.no_grad():
        model.final_norm.weight.fill_(3e38)  # finite, but the logits are not
    save_checkpoint(checkpoint, model, config, step=1)
    done = finished.run(str(checkpoint), "--temperature", "1", module="harness.generate")
    assert done.returncode == 2 and "probabilities that are not finite" in done.stdout + done.stderr


def test_a_report_of_many_token_losses(finished: Home) -> None:
    """The page has the first of them and says so: it is sent around, and a browser has to show it."""
    for file in (finished.project / "mlruns").rglob("token_losses.json"):
        file.write_text(json_list_with_checksum({"text": f"t{n}" * 50, "probability": 0.5} for n in range(20_000)))
    assert finished.run("tiny", module="harness.report").returncode == 0
    page = finished.project / "reports" / "tiny" / "report.html"
    assert "Only the first 1,000 of 20,000 stored tokens are shown." in page.read_text("utf-8")
    assert page.stat().st_size < 3_000_000


def test_written_text_is_no_formula_and_no_control_character(home: Home) -> None:
    """A spreadsheet runs no cell, no file looks like another text, and no `cat` of it changes a terminal."""
    text = home.project / "@SUM(A1)\u202e\x1b[31m.txt"
    text.write_text("Every effort moves you \x1b[31m\u202e forward. " * 400)
    spec = (home.project / "tiny.yaml").read_text()
    spec = spec.replace("corpus: sotu-1820", f'path: "{home.project}/@SUM(A1)\\u202e\\e[31m.txt"')
    spec = spec.replace("sample: {", 'sample: {prompt: "=1+1\\u202e\\e[31m", ').replace("question: ", "question: =1+1 ")
    (home.project / "tiny.yaml").write_text(spec)
    before = home.snapshot()
    done = home.run()
    assert done.returncode == 0, done.stderr
    written = {path: content for path, content in home.snapshot().items() if before.get(path) != content}
    texts = {path: content.decode() for path, content in written.items() if path.suffix in TEXT}
    assert {path.suffix for path in texts} == TEXT
    hidden = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
    assert "'=1+1" in texts[home.project / "reports/tiny/runs.csv"]
    assert [path for path, content in texts.items() if hidden.search(content)] == []
    for path in written:
        for row in csv.reader(texts[path].splitlines()) if path.suffix == ".csv" else ():
            assert not any(re.match(r"\s*[=@]|\s*[-+](?![\d.,\s±–−e%]*$)", cell) for cell in row), (path, row)


TEXT = {".csv", ".html", ".json", ".log", ".md", ".svg", ".tex", ".yaml"}
