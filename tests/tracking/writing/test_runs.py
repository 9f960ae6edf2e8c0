"""Child runs, read back by MLflow's own client."""

from __future__ import annotations

import itertools
import json
import math
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.core.metrics import SECONDS, TOKENS, VAL_LOSS
from harness.core.outcomes import Outcome, Phase
from harness.core.text import visible
from harness.tracking import Sample, Tracker, load_curves, load_runs, load_samples
from stored_runs import DATA, Store, ended, point, sweep_info, trial_info


@pytest.mark.slow
def test_a_run_as_mlflow_shows_it(store: Store) -> None:
    tracker = Tracker("seen", store.uri)
    parent = tracker.open_sweep(sweep_info("seen"))
    info = trial_info(phase=Phase.EXPLORE)
    run_id = tracker.start_run(parent, info)
    assert store.client.get_run(run_id).info.status == "RUNNING"
    tracker.tag(run_id, {"mlflow.note.content": "a note"}, device="cpu · 2 threads", phase=Phase.SUPERSEDED)
    tracker.log_point(run_id, point(0, "Every üffort", val__loss=5.5, val__perplexity=math.exp(5.5)))
    tracker.log_point(run_id, replace(point(20, "``` <b>", val__loss=4.0, train__loss=3.5), greedy="the the"))
    tracker.end_run(run_id, Outcome.COMPLETE)

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

    assert run.inputs is not None
    [used] = run.inputs.dataset_inputs
    assert used.dataset.profile is not None
    assert (used.dataset.name, used.dataset.digest) == ("tiny", ("b2" * 32)[:36])
    assert json.loads(used.dataset.source) == {"uri": "1 file: tiny.txt"}
    assert json.loads(used.dataset.profile)["tokens"] == DATA["tokens"]
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]

    assert {file.path for file in store.client.list_artifacts(run_id)} == {"samples.md", "samples.json"}
    assert load_samples(run_id, store.uri) == [Sample(0, 0, "Every üffort"), Sample(20, 1280, "``` <b>", "the the")]
    page = Path(store.client.download_artifacts(run_id, "samples.md")).read_text("utf-8")
    greedy = "Greedy:\n```text\nthe the\n```\n"
    sampled = "Sampled at temperature 0.8, top-k 40:\n````text\n``` <b>\n````"  # a fence that the text cannot close
    assert f"## Step 20 · 1,280 tokens\n\n{greedy}\n{sampled}" in page
    assert page.index("Every üffort") < page.index("Step 20")


@pytest.mark.slow
def test_points_are_sent_in_batches_and_all_arrive_in_order(store: Store) -> None:
    tracker = Tracker("many", store.uri)
    run_id = tracker.start_run(tracker.open_sweep(sweep_info("many")), trial_info())
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
    wide: Any = {f"layer/{index}": float(index) for index in range(1200)}
    tracker.log_point(run_id, point(1504, train__batch_loss=-1.0, **wide))
    tracker.end_run(run_id, Outcome.COMPLETE)
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


def test_nan_and_infinite_values_are_named_in_a_tag_and_not_stored(store: Store) -> None:
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
    run_id = tracker.start_run(parent, trial_info())
    tracker.end_run(run_id, outcome, reason)
    run = store.client.get_run(run_id)
    assert (run.info.status, run.data.tags["harness.outcome"]) == (status, outcome)
    assert run.data.tags.get("harness.reason") == line
    files = [file.path for file in store.client.list_artifacts(run_id)]
    assert files == (["traceback.txt"] if "\n" in reason.strip() else [])
    if files:
        assert Path(store.client.download_artifacts(run_id, files[0])).read_text("utf-8") == visible(reason)
    tracker.close_sweep(parent, outcome, reason)
    assert store.client.get_run(parent).info.status == status


def test_a_run_is_resumed_by_its_key_and_no_point_is_stored_twice(store: Store) -> None:
    tracker = Tracker("keyed", store.uri)
    parent = tracker.open_sweep(sweep_info("keyed"))
    run_id = tracker.start_run(parent, trial_info(), key="abc", at=500)
    tracker.log_point(run_id, point(10, val__loss=3.0, train__loss=3.1), at=1000)
    tracker.end_run(run_id, Outcome.INTERRUPTED, "stopped", at=2000)

    later = Tracker("keyed", store.uri)
    assert later.open_sweep(sweep_info("keyed")) == parent
    assert later.start_run(parent, trial_info(), key="abc", reopen=True) == run_id
    run = store.client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert not run.data.tags.keys() & {"harness.outcome", "harness.reason"}
    later.log_point(run_id, point(10, val__loss=3.0, train__loss=3.1), at=5000)  # measured again, after a kill
    later.log_point(run_id, point(20, val__loss=2.0), at=6000)
    later.end_run(run_id, Outcome.COMPLETE, at=7000)
    history = store.client.get_metric_history(run_id, VAL_LOSS)
    assert [(one.step, one.value, one.timestamp) for one in history] == [(10, 3.0, 1000), (20, 2.0, 6000)]
    run = store.client.get_run(run_id)
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", 500, 7000)
    assert later.start_run(parent, trial_info(), key="other", reopen=True) != run_id  # never came to MLflow: made


def test_times_never_decrease_also_if_the_clock_is_set_back(store: Store) -> None:
    tracker = Tracker("clock", store.uri)
    parent = tracker.open_sweep(sweep_info("clock"))
    run_id = tracker.start_run(parent, trial_info(), at=5000)
    for step, at in ((0, 3000), (10, 6000), (20, 4000)):
        tracker.log_point(run_id, point(step, val__loss=1.0), at=at)
    tracker.end_run(run_id, Outcome.COMPLETE, at=1000)
    history = store.client.get_metric_history(run_id, VAL_LOSS)
    assert [(one.step, one.timestamp) for one in history] == [(0, 5000), (10, 6000), (20, 6000)]
    info = store.client.get_run(run_id).info
    assert (info.start_time, info.end_time) == (5000, 6000)
    late = tracker.start_run(parent, trial_info(seed=8), at=2**43)  # on a machine whose clock is ahead
    tracker.end_run(late, Outcome.COMPLETE, at=2**43 + 1)
    tracker.close_sweep(parent, Outcome.COMPLETE)
    assert store.client.get_run(parent).info.end_time == 2**43 + 1
