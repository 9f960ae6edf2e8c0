"""The tracker against a real SQLite store, read back by MLflow's plain client and by the harness's own readers.

The store is made once, by two processes that start at the same moment, write to it and die without a word; so the
tests see a store that was raced for, and runs that nobody closed.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import time
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import tracking
from harness.config.fingerprint import digest_of
from harness.core.metrics import SECONDS, TOKENS, VAL_LOSS, VAL_PERPLEXITY, Point
from harness.core.outcomes import Outcome, Phase
from harness.tracking import (
    ArmInfo,
    PlanChange,
    SweepInfo,
    Tracker,
    TrackingError,
    TrialInfo,
    checkpoint_folder,
    load_curves,
    load_passage,
    load_patch,
    load_positions,
    load_runs,
    load_samples,
    load_sweep,
    provenance,
    schema,
    ui_command,
)
from harness.tracking.ownership import LEASE_SECONDS
from harness.tracking.store import SweepBusy
from paths import ROOT
from stored_runs import DATA, PLAN, Store, config, point, sweep_info, trial_info


def ended(store: Store, experiment: str, info: TrialInfo, *points: Point, outcome: Outcome = Outcome.COMPLETE) -> str:
    """A trial from start to end in a sweep of its own; gives its id."""
    tracker = Tracker(experiment, store.uri)
    run_id = tracker.start_trial(tracker.open_sweep(sweep_info(experiment)), info)
    for one in points:
        tracker.log_point(run_id, one)
    tracker.end_trial(run_id, outcome)
    return run_id


# The store.


def test_two_processes_make_one_store_in_silence_and_without_a_network(store: Store) -> None:
    assert store.printed == ["", ""]
    names = {experiment.name for experiment in store.client.search_experiments()}
    assert {"first", "second"} <= names
    assert {path.name for path in (store.folder / "mlruns").iterdir()} == {"mlflow.db", "artifacts"}


def test_importing_the_tracker_imports_nothing_heavy() -> None:
    code = "import sys, harness.tracking; print({'mlflow', 'pandas', 'torch', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_default_place_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert ui_command() == (
        "python -m mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db --host 127.0.0.1 --port 5000"
    )
    with pytest.raises(TrackingError, match=r"found no MLflow store at .*mlflow\.db"):
        load_runs("first")
    assert list(tmp_path.iterdir()) == []  # asking leaves nothing behind
    assert tracking.default_tracking_uri() == "sqlite:///mlruns/mlflow.db"
    assert (tmp_path / "mlruns").is_dir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking.default_tracking_uri() == ui_command() == "http://127.0.0.1:5000"
    assert ui_command("sqlite:////a b/m.db").count("'sqlite:////a b/m.db'") == 1


def test_an_address_that_cannot_be_used_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    before = dict(os.environ)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"  # bound, but nobody listens
        with pytest.raises(TrackingError, match="found no MLflow server that answers at http"):
            Tracker("x", uri)
    assert dict(os.environ) == before  # as patient as it was, wherever else a person uses MLflow
    (tmp_path / "text.db").write_text("not a database, but long enough to have had a header" * 100)
    for uri in ("nonsense://x", f"sqlite:///{tmp_path}/text.db"):
        with pytest.raises(TrackingError) as caught:
            load_runs("x", uri)
        assert "\n" not in str(caught.value)


def test_mlflow_is_as_patient_as_before_wherever_nobody_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    def patience() -> tuple[int, int]:
        return MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), MLFLOW_HTTP_REQUEST_TIMEOUT.get()

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    before = patience()
    with pytest.raises(KeyError), tracking.brief_requests():
        with tracking.brief_requests():
            assert patience() == (2, 30)
        assert patience() == (2, 30)
        raise KeyError
    assert patience() == before != (2, 30)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "9")
    with tracking.brief_requests():
        assert patience() == (9, 30)
    assert patience() == (9, before[1])


@pytest.mark.parametrize("name", ["../x", "a/b", "", "x\n", "a b", "..", "'; DROP TABLE runs; --"])
def test_an_experiment_name_that_is_no_slug_reaches_no_store(store: Store, name: str) -> None:
    with pytest.raises(AssertionError, match="slug"):
        Tracker(name, store.uri)
    with pytest.raises(TrackingError):
        load_runs(name, store.uri)


# One run.


def test_what_mlflow_sees_of_a_run(store: Store) -> None:
    tracker = Tracker("seen", store.uri)
    parent = tracker.open_sweep(sweep_info("seen"))
    info = trial_info(phase=Phase.EXPLORE)
    run_id = tracker.start_trial(parent, info)
    assert store.client.get_run(run_id).info.status == "RUNNING"
    tracker.tag(run_id, {"mlflow.note.content": "a note"}, device="cpu · 2 threads", phase=Phase.SUPERSEDED)
    tracker.log_point(run_id, point(0, "Every üffort", val__loss=5.5, val__perplexity=math.exp(5.5)))
    tracker.log_point(run_id, point(20, "``` <b>", val__loss=4.0, train__loss=3.5))
    tracker.end_trial(run_id, Outcome.COMPLETE)

    run = store.client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "a trial · seed 7")
    params = run.data.params
    assert params["train.learning_rate"] == "1e-05"
    assert params["model.qkv_bias"] == "false"
    assert params["model.vocab_size"] == "256"
    assert params["data.tokenizer"] == "byte"
    assert params["parameters"] == str(info.config.parameters)
    assert set(params) == {*info.config.flat(), "parameters", "flops_per_token"}

    tags = run.data.tags
    expected = {
        "mlflow.parentRunId": parent,
        "mlflow.note.content": "a note",
        "mlflow.source.name": "python -m harness.sweep experiments/x.yaml",
        "harness.arm": "drop_rate=0.0",
        "harness.phase": "superseded",
        "harness.seed": "7",
        "harness.study": "x/drop_rate=0.0",
        "harness.trial_number": "0",
        "harness.outcome": "complete",
        "harness.config_sha256": info.config.digest(),
        "harness.data_sha256": "a1" * 32,
        "harness.data_fingerprint": "b2" * 32,
        "harness.device": "cpu · 2 threads",
        "harness.version.python": sys.version.split()[0],
    }
    assert {name: tags[name] for name in expected} == expected
    assert {"mlflow.user", "harness.git_commit", "harness.git_dirty", "harness.version.mlflow"} <= set(tags)
    assert {"harness.reason", "harness.non_finite"} & set(tags) == set()

    history = store.client.get_metric_history(run_id, VAL_LOSS)
    assert [(one.step, one.value) for one in history] == [(0, 5.5), (20, 4.0)]
    assert [(one.step, one.value) for one in store.client.get_metric_history(run_id, TOKENS)] == [(0, 0), (20, 1280)]

    [used] = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("tiny", ("b2" * 32)[:36])
    assert json.loads(used.dataset.source) == {"uri": "1 file: tiny.txt"}
    assert json.loads(used.dataset.profile)["tokens"] == DATA["tokens"]
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]

    assert {file.path for file in store.client.list_artifacts(run_id)} == {"samples.md", "samples.json"}
    assert load_samples(run_id, store.uri) == [(0, 0, "Every üffort"), (20, 1280, "``` <b>")]
    page = Path(store.client.download_artifacts(run_id, "samples.md")).read_text("utf-8")
    assert "## Step 20 · 1,280 tokens\n\n````text\n``` <b>\n````" in page  # a fence that the text cannot close
    assert page.index("Every üffort") < page.index("Step 20")


def test_points_are_sent_in_batches_and_all_arrive_in_order(store: Store) -> None:
    tracker = Tracker("many", store.uri)
    run_id = tracker.start_trial(tracker.open_sweep(sweep_info("many")), trial_info())
    for step in range(1503):
        tracker.log_point(run_id, point(step, train__batch_loss=1503.0 - step))
        if step == 165:  # 166 points of three metrics
            assert store.client.get_metric_history(run_id, "train/batch_loss") == []
    assert len(store.client.get_metric_history(run_id, "train/batch_loss")) == 1503
    tracker.log_point(run_id, point(1503, train__batch_loss=0.0))
    assert len(store.client.get_metric_history(run_id, "train/batch_loss")) == 1503
    tracker.flush()  # few as they are
    assert len(store.client.get_metric_history(run_id, "train/batch_loss")) == 1504
    # More at once than MLflow takes in one batch.
    wide = {f"layer/{index}": float(index) for index in range(1200)}
    tracker.log_point(run_id, point(1504, train__batch_loss=-1.0, **wide))
    tracker.end_trial(run_id, Outcome.COMPLETE)
    last = store.client.get_run(run_id).data.metrics
    assert {name: value for name, value in last.items() if name.startswith("layer/")} == wide

    history = store.client.get_metric_history(run_id, "train/batch_loss")
    assert [(one.step, one.value) for one in history] == [(step, 1503.0 - step) for step in range(1505)]
    assert all(0 <= later.timestamp - sooner.timestamp < 60_000 for sooner, later in itertools.pairwise(history))
    now = datetime.now(UTC).timestamp() * 1000
    assert 0 <= now - history[-1].timestamp < 60_000
    [row] = load_runs("many", store.uri).to_dict("records")
    assert (row["steps"], row["tokens"], row["train/batch_loss"]) == (1504, 1504 * 64, -1.0)
    curve = load_curves("many", store.uri, only=["train/batch_loss"])
    assert list(curve["step"]) == list(range(1505))


def test_values_that_are_no_numbers_are_named_and_not_stored(store: Store) -> None:
    run_id = ended(
        store,
        "hot",
        trial_info(),
        point(0, val__loss=3.0, optim__grad_norm=math.inf),
        point(1, val__loss=math.nan, val__perplexity=-math.inf),
        outcome=Outcome.DIVERGED,
    )
    run = store.client.get_run(run_id)
    assert run.data.metrics == {VAL_LOSS: 3.0, TOKENS: 64.0, SECONDS: 0.1}
    assert len(store.client.get_metric_history(run_id, VAL_LOSS)) == 1
    assert run.data.tags["harness.non_finite"] == "optim/grad_norm, val/loss, val/perplexity"


TRACEBACK = """Traceback (most recent call last):
  File "a.py", line 1, in <module>
    f()
ValueError: the first

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 2, in <module>
    g()
    ~^^
RuntimeError: the   second\0
of two lines
"""


@pytest.mark.parametrize(
    ("outcome", "reason", "status", "line"),
    [
        (Outcome.COMPLETE, "", "FINISHED", None),
        (Outcome.PRUNED, "step 20: val/loss above the median", "KILLED", "step 20: val/loss above the median"),
        (Outcome.INTERRUPTED, " \n", "KILLED", None),
        (Outcome.DIVERGED, "x" * 600, "FAILED", "x" * 499 + "…"),
        (Outcome.OOM, "CUDA out of memory\n" + TRACEBACK, "FAILED", "CUDA out of memory"),
        (Outcome.FAILED, "\n \nthe worker died\nsignal 9", "FAILED", "the worker died"),
        (Outcome.FAILED, TRACEBACK, "FAILED", "RuntimeError: the second\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_outcome_status_and_reason(store: Store, outcome: Outcome, reason: str, status: str, line: str | None) -> None:
    tracker = Tracker("ends", store.uri)
    parent = tracker.open_sweep(sweep_info("ends"))
    run_id = tracker.start_trial(parent, trial_info())
    tracker.end_trial(run_id, outcome, reason)
    run = store.client.get_run(run_id)
    assert (run.info.status, run.data.tags["harness.outcome"]) == (status, outcome)
    assert run.data.tags.get("harness.reason") == line
    files = [file.path for file in store.client.list_artifacts(run_id)]
    assert files == (["traceback.txt"] if "\n" in reason.strip() else [])
    if files:
        assert Path(store.client.download_artifacts(run_id, files[0])).read_text("utf-8") == reason
    tracker.close_sweep(parent, outcome, reason)
    assert store.client.get_run(parent).info.status == status


json_values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(json_values | st.lists(json_values, max_size=3).map(tuple))
def test_a_parameter_comes_back_with_its_type(value: object) -> None:
    text = schema.encode_param(value)
    back = schema.decode_param(text)
    assert (type(back), back) == (type(value), value)
    assert text.isprintable()


@pytest.mark.parametrize(
    "value", ["1e-3", "true", "null", "NaN", '"quoted"', "[", "[" * 100_000, " 1", "", "a\nb", "é"]
)
def test_a_string_that_looks_like_something_else_stays_a_string(value: str) -> None:
    assert schema.decode_param(schema.encode_param(value)) == value


# Sweeps.


def test_the_same_identity_goes_on_in_the_same_parent(store: Store) -> None:
    info = sweep_info("again")
    tracker = Tracker("again", store.uri)
    parent = tracker.open_sweep(info)
    tracker.close_sweep(parent, Outcome.INTERRUPTED, "Ctrl-C")
    other = Tracker("again", store.uri).open_sweep(replace(info, identity="2" * 64))
    assert other != parent
    assert load_sweep("again", store.uri).run_id == other

    more = replace(info, question="And now?", arms=(*info.arms, ArmInfo("drop_rate=0.2", {"model.drop_rate": 0.2})))
    assert Tracker("again", store.uri).open_sweep(more) == parent
    run = store.client.get_run(parent)
    assert run.info.status == "RUNNING"
    assert not {"harness.outcome", "harness.reason"} & set(run.data.tags)
    assert "And now?" in run.data.tags["mlflow.note.content"]
    assert "- drop_rate=0.1 (baseline)\n- drop_rate=0.2" in run.data.tags["mlflow.note.content"]
    latest = load_sweep("again", store.uri)  # the one resumed last, though the other was created later
    assert (latest.run_id, len(latest.arms), latest.outcome) == (parent, 3, None)


def test_a_sweep_read_back_is_the_sweep_written(store: Store) -> None:
    info = sweep_info("described")
    before = datetime.now(UTC) - timedelta(seconds=1)
    tracker = Tracker("described", store.uri)
    parent = tracker.open_sweep(info)
    tracker.close_sweep(parent, Outcome.COMPLETE)
    found = load_sweep("described", store.uri, parent)
    assert {field.name: getattr(found, field.name) for field in fields(SweepInfo)} == {
        field.name: getattr(info, field.name) for field in fields(SweepInfo)
    }
    assert (found.run_id, found.status, found.outcome) == (parent, "FINISHED", "complete")
    assert before <= found.started <= datetime.now(UTC)
    assert found.versions["mlflow"] and found.versions["harness"]
    spec = Path(store.client.download_artifacts(parent, "spec.yaml"))
    assert spec.read_text("utf-8") == info.spec_text


# Analysis plans.


def plan_bytes(store: Store, parent: str) -> bytes:
    return Path(store.client.download_artifacts(parent, "analysis_plan.json")).read_bytes()


def files_of(store: Store, run_id: str) -> set[str]:
    return {file.path for file in store.client.list_artifacts(run_id)}


def test_the_plan_is_stored_before_there_is_any_trial(store: Store) -> None:
    parent = Tracker("planned", store.uri).open_sweep(sweep_info("planned"))
    assert load_runs("planned", store.uri).empty
    assert json.loads(plan_bytes(store, parent)) == PLAN
    assert store.client.get_run(parent).data.tags["harness.plan_sha256"] == digest_of(PLAN)
    assert "analysis_plan_changes.json" not in files_of(store, parent)
    found = load_sweep("planned", store.uri)
    assert (found.first_plan, found.plan_sha256, found.plan_changes) == (PLAN, digest_of(PLAN), ())


def test_a_plan_that_cannot_be_stored_keeps_trials_from_starting(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise TrackingError("the store is full")

    info = sweep_info("unplanned")
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "_put", refuse)
        with pytest.raises(TrackingError, match="full"):
            Tracker("unplanned", store.uri).open_sweep(info)
    # Nothing was trained, so the plan of the second attempt is still one that came before the first trial.
    other = replace(info, plan={**PLAN, "seeds": 3})
    parent = Tracker("unplanned", store.uri).open_sweep(other)
    found = load_sweep("unplanned", store.uri, parent)
    assert (found.first_plan, found.plan_sha256) == (other.plan, digest_of(other.plan))
    assert found.plan_changes == ()


def test_the_first_plan_stays_and_what_differs_later_is_added(store: Store) -> None:
    info = sweep_info("replanned")
    tracker = Tracker("replanned", store.uri)
    parent = tracker.open_sweep(info)
    first = plan_bytes(store, parent)
    for seed, phase, outcome in [
        (11, Phase.CONFIRM, Outcome.COMPLETE),
        (12, Phase.CONFIRM, Outcome.FAILED),
        (13, Phase.CONFIRM, Outcome.COMPLETE),
        (1, Phase.EXPLORE, Outcome.COMPLETE),
    ]:
        run_id = tracker.start_trial(parent, trial_info(seed=seed, phase=phase))
        tracker.end_trial(run_id, outcome)
    tracker.start_trial(parent, trial_info(seed=14))

    Tracker("replanned", store.uri).open_sweep(replace(info, plan=dict(reversed(PLAN.items()))))
    assert "analysis_plan_changes.json" not in files_of(store, parent)  # the same plan

    more = replace(info, plan={**PLAN, "seeds": 4, "looks": [4]})
    before = datetime.now(UTC)
    for _ in range(2):
        assert Tracker("replanned", store.uri).open_sweep(more) == parent
    [change] = load_sweep("replanned", store.uri).plan_changes
    assert change == PlanChange(change.when, 2, more.plan)
    assert before <= change.when <= datetime.now(UTC)
    [plain] = json.loads(Path(store.client.download_artifacts(parent, "analysis_plan_changes.json")).read_text())
    assert (plain["confirm_runs"], plain["plan"]) == (2, more.plan)
    assert datetime.fromisoformat(plain["when"]) == change.when and plain["when"].endswith("+00:00")

    # Back to the first plan is another change. What a later run has taken the place of may have been seen as well.
    tracker.tag(run_id, phase=Phase.SUPERSEDED)
    Tracker("replanned", store.uri).open_sweep(info)
    found = load_sweep("replanned", store.uri)
    assert [(one.confirm_runs, one.plan) for one in found.plan_changes] == [(2, more.plan), (3, PLAN)]
    assert found.plan == PLAN  # of the last opening
    assert plan_bytes(store, parent) == first
    assert store.client.get_run(parent).data.tags["harness.plan_sha256"] == digest_of(PLAN)


def test_a_sweep_made_before_there_were_plans_has_none_and_can_still_be_read_and_gone_on_with(store: Store) -> None:
    info = replace(sweep_info("old"), plan={})
    tracker = Tracker("old", store.uri)
    parent = tracker.open_sweep(info)
    written = json.loads(schema.describe(info))
    del written["plan"]
    tracker.log_text(parent, json.dumps(written), "sweep.json")
    tracker.end_trial(tracker.start_trial(parent, trial_info()), Outcome.COMPLETE)
    found = load_sweep("old", store.uri)
    assert (found.plan, found.first_plan, found.plan_sha256, found.plan_changes) == ({}, {}, "", ())
    # Its runs came before any plan, so the one of today is a change of it, and never becomes the first.
    Tracker("old", store.uri).open_sweep(sweep_info("old"))
    found = load_sweep("old", store.uri)
    assert (found.first_plan, found.plan_sha256) == ({}, "")
    assert [(one.confirm_runs, one.plan) for one in found.plan_changes] == [(1, PLAN)]


def test_code_version_of_a_sweep_is_that_of_the_current_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = make_repository(tmp_path / "code")
    monkeypatch.chdir(tmp_path / "code")
    (tmp_path / "code/a.txt").write_text("two\n")
    tracker = Tracker("dirty", store.uri)
    parent = tracker.open_sweep(sweep_info("dirty"))
    run = store.client.get_run(tracker.start_trial(parent, trial_info()))
    assert run.data.tags["mlflow.source.git.commit"] == run.data.tags["harness.git_commit"] == commit
    assert run.data.tags["harness.git_dirty"] == "true"
    patch = Path(store.client.download_artifacts(parent, "dirty.patch")).read_text()
    assert "-one\n+two\n" in patch
    found = load_sweep("dirty", store.uri)
    assert (found.commit, found.dirty) == (commit, True)


def test_runs_of_a_dead_process_are_closed_and_those_of_this_one_left(store: Store) -> None:
    left = store.runs[0]
    assert store.client.get_run(left["run"]).info.status == "RUNNING"
    tracker = Tracker("first", store.uri)
    parent = tracker.open_sweep(sweep_info("first"))
    assert parent == left["parent"]
    own = tracker.start_trial(parent, trial_info())

    assert tracker.close_left(parent) == 1
    run = store.client.get_run(left["run"])
    assert (run.info.status, run.data.tags["harness.outcome"]) == ("KILLED", "interrupted")
    [last] = store.client.get_metric_history(left["run"], VAL_LOSS)
    assert run.info.end_time == last.timestamp  # not the time at which it was found
    assert tracker.close_left(parent) == 0
    assert store.client.get_run(own).info.status == "RUNNING"

    # To another tracker, what this process left open is abandoned (a notebook whose cell was stopped).
    later = Tracker("first", store.uri)
    assert later.close_left(later.open_sweep(sweep_info("first"))) == 1
    assert store.client.get_run(own).info.status == "KILLED"


def test_a_run_left_open_is_closed_with_its_real_end_where_that_is_known(store: Store) -> None:
    tracker = Tracker("ends", store.uri)
    parent = tracker.open_sweep(sweep_info("ends"))
    done = tracker.start_trial(parent, trial_info(), key="abc")
    assert Tracker("ends", store.uri).close_left(parent, {"abc": Outcome.DIVERGED}) == 1
    run = store.client.get_run(done)
    assert (run.info.status, run.data.tags["harness.outcome"]) == ("FAILED", "diverged")


def test_a_sweep_is_held_by_one_process_at_a_time(store: Store) -> None:
    tracker = Tracker("held", store.uri)
    parent = tracker.open_sweep(sweep_info("held"))
    assert tracker.beat(parent) is None
    alive = psutil.Process(os.getppid())
    here = f"{socket.gethostname()}:{alive.pid}:{alive.create_time()}"
    now = time.time_ns() // 1_000_000

    def held_by(process: str, beat: int) -> str | None:
        tracker.tag(parent, process=process, beat=str(beat))
        try:
            assert Tracker("held", store.uri).open_sweep(sweep_info("held")) == parent
        except SweepBusy as error:
            return str(error)
        return None

    assert held_by(here, now) == f"held is being run already, by process {here}; wait for it or stop it"
    assert held_by(here, 0) is not None  # a process of this machine is looked for, and there it is
    assert held_by(f"{socket.gethostname()}:{alive.pid}:17.00", now) is None  # its number is another's now
    elsewhere = "another-machine:17:1000.00"
    assert held_by(elsewhere, now) is not None
    assert held_by(elsewhere, now - 1000 * LEASE_SECONDS - 1) is None  # not a word for minutes
    tracker.tag(parent, process=elsewhere)
    assert tracker.beat(parent) == elsewhere  # which the first one hears, and leaves it
    tracker.close_sweep(parent, Outcome.INTERRUPTED)
    assert held_by(elsewhere, now) is None  # it ended


def test_a_run_of_a_known_key_is_gone_on_with_and_no_point_is_stored_twice(store: Store) -> None:
    tracker = Tracker("again", store.uri)
    parent = tracker.open_sweep(sweep_info("again"))
    run_id = tracker.start_trial(parent, trial_info(), key="abc")
    tracker.log_point(run_id, point(10, val__loss=3.0, train__loss=3.1), at=1000)
    tracker.end_trial(run_id, Outcome.INTERRUPTED, "stopped", at=2000)

    later = Tracker("again", store.uri)
    assert later.open_sweep(sweep_info("again")) == parent
    assert later.start_trial(parent, trial_info(), key="abc", again=True) == run_id
    run = store.client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert not run.data.tags.keys() & {"harness.outcome", "harness.reason"}
    later.log_point(run_id, point(10, val__loss=3.0, train__loss=3.1), at=5000)  # measured again, after a kill
    later.log_point(run_id, point(20, val__loss=2.0), at=6000)
    later.end_trial(run_id, Outcome.COMPLETE, at=7000)
    history = store.client.get_metric_history(run_id, VAL_LOSS)
    assert [(one.step, one.value, one.timestamp) for one in history] == [(10, 3.0, 1000), (20, 2.0, 6000)]
    run = store.client.get_run(run_id)
    assert (run.info.status, run.info.end_time) == ("FINISHED", 7000)
    assert later.start_trial(parent, trial_info(), key="other", again=True) != run_id  # never came to MLflow: made


def test_opening_a_sweep_closes_the_abandoned_ones_beside_it(store: Store) -> None:
    left = store.runs[1]
    assert Tracker("second", store.uri).open_sweep(sweep_info("second", "3" * 64)) != left["parent"]
    for run_id in left.values():
        run = store.client.get_run(run_id)
        assert (run.info.status, run.data.tags["harness.outcome"]) == ("KILLED", "interrupted")


def test_confirmed_runs_are_what_a_resume_may_skip(store: Store) -> None:
    tracker = Tracker("confirm", store.uri)
    parent = tracker.open_sweep(sweep_info("confirm"))
    wanted = trial_info(seed=11)
    ids = []
    for info, outcome in [
        (wanted, Outcome.COMPLETE),
        (trial_info(seed=12), Outcome.OOM),
        (trial_info(seed=15), Outcome.DIVERGED),
        (trial_info(seed=13, phase=Phase.EXPLORE), Outcome.COMPLETE),
    ]:
        ids.append(tracker.start_trial(parent, info))
        if info is wanted:
            tracker.log_point(ids[-1], point(20, val__loss=3.0))
            tracker.log_point(ids[-1], point(40, val__loss=2.0, val__perplexity=7.4, train__loss=1.0, test__loss=2.5))
        tracker.end_trial(ids[-1], outcome)
    tracker.start_trial(parent, trial_info(seed=14))
    last = {VAL_LOSS: 2.0, VAL_PERPLEXITY: 7.4}
    assert Tracker("confirm", store.uri).confirmed(parent) == [
        ("drop_rate=0.0", 11, wanted.config.digest(), ids[0], Outcome.COMPLETE, last),
        ("drop_rate=0.0", 15, trial_info(seed=15).config.digest(), ids[2], Outcome.DIVERGED, {}),
    ]


# Frames.


def test_runs_as_a_frame(store: Store) -> None:
    tracker = Tracker("frame", store.uri)
    parent = tracker.open_sweep(sweep_info("frame"))
    paths = ("a.txt", "b.txt")
    by_size = config(batch_tokens=None, batch_size=4, seed=2**62)
    by_size = by_size.model_copy(update={"data": by_size.data.model_copy(update={"corpus": None, "path": paths})})
    infos = [trial_info("one", Phase.EXPLORE), replace(trial_info("two"), config=by_size, seed=2**62)]
    for info, losses in zip(infos, ([5.0, 2.0, 3.0], [4.0]), strict=True):
        run_id = tracker.start_trial(parent, info)
        for index, loss in enumerate(losses):
            tracker.log_point(run_id, point(10 * index, val__loss=loss, val__perplexity=math.exp(loss)))
        tracker.end_trial(run_id, Outcome.COMPLETE)
    running = tracker.start_trial(parent, trial_info("three"))

    frame = load_runs("frame", store.uri)
    assert set(frame["data_sha256"]) == {DATA["sha256"]} and set(frame["data_fingerprint"]) == {DATA["fingerprint"]}
    assert ", python 3.1" in frame["versions"][0] and "mlflow 3." in frame["versions"][0]
    assert set(frame["non_finite"]) == {""}
    assert list(frame["name"]) == ["one", "two", "three"]
    assert list(frame[VAL_LOSS])[:2] == [3.0, 4.0]  # last
    assert list(frame["best_val_loss"])[:2] == [2.0, 4.0]
    assert list(frame["initial_val_loss"])[:2] == [5.0, 4.0]
    assert list(frame[VAL_PERPLEXITY])[:2] == [math.exp(3), math.exp(4)]
    assert list(frame["steps"])[:2] == [20, 0] and list(frame["tokens"])[:2] == [1280, 0]
    assert list(frame["seed"]) == [7, 2**62, 7] and frame["seed"].dtype == "int64"
    assert frame["trial_number"].dtype == "Int64" and frame["trial_number"].isna().tolist() == [False, True, True]
    assert frame["started"].dt.tz is not None
    now = pd.Timestamp.now(tz="UTC")
    assert ((now - frame["started"]) < pd.Timedelta(minutes=5)).all()
    assert frame["seconds"].isna().tolist() == [False, False, True] and frame["seconds"][0] < 60
    last = frame.iloc[2]
    assert (last["run_id"], last["status"], last["phase"]) == (running, "RUNNING", "confirm")
    assert pd.isna(last["outcome"]) and pd.isna(last["best_val_loss"]) and pd.isna(last["steps"])

    # Every parameter as it was, type for type, also where other runs do not have it.
    for info, row in zip(infos, frame.to_dict("records")[:2], strict=True):
        flat = info.config.flat()
        assert {name: row[name] for name in flat if name != "data.path"} == {
            name: value for name, value in flat.items() if name != "data.path"
        }
        assert row["parameters"] == info.config.parameters and row["flops_per_token"] == info.config.flops_per_token
    assert frame["train.batch_size"].dtype == "Int64" and frame["train.batch_size"].tolist()[1] == 4
    assert frame["train.learning_rate"].dtype == "float64" and frame["model.qkv_bias"].dtype == "bool"
    assert frame["data.path"][1] == paths
    assert frame["train.seed"].tolist()[1] == 2**62

    assert load_runs("frame", store.uri, parent).equals(frame)


def test_sweeps_can_be_chosen(store: Store) -> None:
    ids = []
    for identity in ("4" * 64, "5" * 64):
        tracker = Tracker("two", store.uri)
        parent = tracker.open_sweep(sweep_info("two", identity))
        run_id = tracker.start_trial(parent, trial_info())
        tracker.end_trial(run_id, Outcome.COMPLETE)
        ids.append((parent, run_id))
    (first, first_run), (_, second_run) = ids
    assert list(load_runs("two", store.uri)["run_id"]) == [second_run]
    assert list(load_runs("two", store.uri, first)["run_id"]) == [first_run]
    everything = load_runs("two", store.uri, "all")
    assert list(zip(everything["sweep"], everything["run_id"], strict=True)) == ids
    with pytest.raises(TrackingError, match=f"found no sweep 'x' in the experiment 'two'; allowed: {first}"):
        load_runs("two", store.uri, "x")
    with pytest.raises(TrackingError, match=r"found no experiment 'twoo'; allowed: .*first, .*second, .*two"):
        load_sweep("twoo", store.uri)


def test_frames_without_runs_have_their_columns(store: Store) -> None:
    Tracker("empty", store.uri)
    with pytest.raises(TrackingError, match="found no sweep in the experiment 'empty'"):
        load_runs("empty", store.uri)
    Tracker("empty", store.uri).open_sweep(sweep_info("empty"))
    runs, curves = load_runs("empty", store.uri), load_curves("empty", store.uri)
    assert len(runs) == len(curves) == 0
    assert {"run_id", "arm", "phase", "seed", "outcome", "best_val_loss", "trial_number"} <= set(runs)
    assert list(curves) == ["run_id", "arm", "phase", "seed", "outcome", "step", "tokens", "seconds", "metric", "value"]


def test_curves_as_a_frame(store: Store) -> None:
    tracker = Tracker("curves", store.uri)
    parent = tracker.open_sweep(sweep_info("curves"))
    ids = [tracker.start_trial(parent, trial_info(seed=seed)) for seed in (2, 1)]
    tracker.log_point(ids[1], point(0, val__loss=9.0))
    tracker.log_point(ids[0], point(10, val__loss=4.0, train__loss=3.0))
    time.sleep(0.005)  # the order in which points were stored is not that of their steps
    tracker.log_point(ids[0], point(5, val__loss=5.0))
    tracker.flush()
    store.client.log_metric(ids[0], VAL_LOSS, 4.5, timestamp=2**43, step=10)  # the step once more, after a resume
    for run_id in ids:
        tracker.end_trial(run_id, Outcome.COMPLETE)
    curves = load_curves("curves", store.uri)
    columns = ["run_id", "seed", "metric", "step", "tokens", "value"]
    assert list(curves[columns].itertuples(index=False, name=None)) == [
        (ids[0], 2, "train/loss", 10, 640, 3.0),
        (ids[0], 2, "val/loss", 5, 320, 5.0),
        (ids[0], 2, "val/loss", 10, 640, 4.5),
        (ids[1], 1, "val/loss", 0, 0, 9.0),
    ]
    assert curves[["step", "tokens"]].dtypes.tolist() == ["int64", "int64"]
    assert list(curves["seconds"]) == pytest.approx([0.5, 0.0, 0.5, 0.0])  # 1.0 and 0.5 s after the trainer began
    assert set(curves["arm"]) == {"drop_rate=0.0"} and set(curves["outcome"]) == {"complete"}
    assert list(load_curves("curves", store.uri, only=["train/loss"])["value"]) == [3.0]


# Artifacts.


def test_passages_and_patches_are_read_back(store: Store, tmp_path: Path) -> None:
    run_id = ended(store, "passage", trial_info(), point(0, val__loss=9.0))
    assert load_passage(run_id, store.uri) == [] and load_patch(run_id, store.uri) == ""
    (tmp_path / "token_losses.json").write_text('[{"text": " ü", "probability": 0.25}]', "utf-8")
    tracker = Tracker("passage", store.uri)
    tracker.log_artifact(run_id, tmp_path / "token_losses.json", "checkpoint")
    (tmp_path / "dirty.patch").write_bytes(b"+\xff text\n")
    tracker.log_artifact(run_id, tmp_path / "dirty.patch")
    assert load_passage(run_id, store.uri) == [(" ü", 0.25)]
    assert load_patch(run_id, store.uri) == "+\N{REPLACEMENT CHARACTER} text\n"


def test_losses_by_position_as_a_frame(store: Store) -> None:
    last = dataclasses.replace(point(20, val__loss=2.0), by_position=(5.5, 4.25, 4.0))
    complete = ended(store, "positions", trial_info(), point(0, val__loss=9.0), last)
    frame = load_positions("positions", store.uri)
    assert frame["run_id"].unique().tolist() == [complete]
    assert frame[["position", "loss"]].to_numpy().tolist() == [[1, 5.5], [2, 4.25], [3, 4.0]]
    ended(store, "no-positions", trial_info(), last, outcome=Outcome.PRUNED)
    empty = load_positions("no-positions", store.uri)
    assert empty.empty
    assert list(empty.columns) == list(frame.columns)


def test_a_checkpoint_is_found_by_id_prefix_or_name(store: Store, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    tracker = Tracker("files", store.uri)
    parent = tracker.open_sweep(sweep_info("files"))
    name = 'it\'s %_ 100 ± "x"'
    quoted, plain, twin = (tracker.start_trial(parent, trial_info(title)) for title in (name, "twin", "twin"))
    tracker.log_artifact(plain, tmp_path, "checkpoint")
    tracker.log_text(plain, "ü", "notes/a.md")
    folder = checkpoint_folder(plain, store.uri)
    assert [(file.name, file.read_bytes()) for file in folder.iterdir()] == [("model.bin", b"weights")]
    assert checkpoint_folder(plain[:12], store.uri) == folder
    assert (folder.parent / "notes/a.md").read_text("utf-8") == "ü"
    tracker.log_artifact(quoted, tmp_path / "model.bin", "checkpoint")
    assert (checkpoint_folder(quoted, store.uri) / "model.bin").exists()
    with pytest.raises(TrackingError, match="found 2 runs for 'twin'; allowed: the id of one of them"):
        checkpoint_folder("twin", store.uri)
    with pytest.raises(TrackingError, match=f"found no checkpoint in the run {twin}"):
        checkpoint_folder(twin, store.uri)
    single = ended(store, "single", trial_info("it's %_ alone"))
    with pytest.raises(TrackingError, match=single):
        checkpoint_folder("it's %_ alone", store.uri)


@pytest.mark.parametrize("run", ["", "abc", "ffffffffffff", "%", "' OR '1'='1", "../../etc", "\\", "'\"", "nobody\n"])
def test_a_run_that_is_not_there_is_an_error(store: Store, run: str) -> None:
    with pytest.raises(TrackingError):
        checkpoint_folder(run, store.uri)
    with pytest.raises(TrackingError):
        load_samples(run or "x", store.uri)


def test_a_deleted_experiment_is_not_written_to(store: Store) -> None:
    Tracker("binned", store.uri)
    number = store.client.get_experiment_by_name("binned").experiment_id
    store.client.delete_experiment(number)
    with pytest.raises(TrackingError, match=f"deleted; .* restore it: .*--experiment-id {number}"):
        Tracker("binned", store.uri)
    with pytest.raises(TrackingError, match="found no experiment 'binned'"):
        load_runs("binned", store.uri)


# Provenance.


def make_repository(folder: Path) -> str:
    """A git repository with one commit of one file; gives the commit."""
    folder.mkdir()
    (folder / "a.txt").write_text("one\n")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "a.txt"], [*identity, "commit", "-q", "-m", "m"], ["rev-parse", "HEAD"]):
        done = subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_code_version(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    commit = make_repository(folder)
    (folder / "untracked.txt").write_text("x")
    assert provenance.code_version(folder) == provenance.CodeVersion(commit, False, b"")
    (folder / "a.txt").write_text("two\n")
    found = provenance.code_version(folder)
    assert (found.commit, found.dirty) == (commit, True)
    (tmp_path / "p.patch").write_bytes(found.patch)
    subprocess.run(["git", "checkout", "-q", "."], cwd=folder, check=True)
    subprocess.run(["git", "apply", str(tmp_path / "p.patch")], cwd=folder, check=True)
    assert (folder / "a.txt").read_text() == "two\n"  # commit and patch give back the code that ran
    (folder / "a.txt").write_text("a line\n" * 500_000)
    assert provenance.PATCH_LIMIT < len(provenance.code_version(folder).patch) < provenance.PATCH_LIMIT + 100


def test_code_version_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.code_version(tmp_path) == provenance.CodeVersion("unknown", False, b"")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert provenance.code_version(tmp_path).commit == "unknown"  # no commit yet
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.code_version(tmp_path).commit == "unknown"  # no git


def test_a_process_is_known_by_more_than_its_number() -> None:
    own = provenance.process_name()
    host, pid, start = own.split(":")
    assert provenance.is_running(own)
    assert not provenance.is_running(f"{host}:{pid}:{float(start) - 60}")  # the number was given to another
    assert not provenance.is_running(f"elsewhere:{pid}:{start}")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        name = f"{host}:{child.pid}:{psutil.Process(child.pid).create_time()}"
        assert provenance.is_running(name)
        child.communicate(b"\n")
    assert not provenance.is_running(name)
    assert not provenance.is_running("") and not provenance.is_running("a:b:c")
