"""Parent runs: opened, resumed, closed; runs that a dead process left open."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness.core.metrics import VAL_LOSS
from harness.core.outcomes import Outcome
from harness.tracking import ArmInfo, ArmResult, SweepInfo, Tracker, load_sweep
from harness.tracking.schema import milliseconds
from repositories import make_repository
from stored_runs import Store, experiment_of, sweep_info, trial_info


def test_the_same_identity_resumes_the_same_parent_run(store: Store) -> None:
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
    assert (
        "- A2 · drop 0.1 (baseline): drop_rate=0.1\n- A3 · drop 0.2: drop_rate=0.2"
        in run.data.tags["mlflow.note.content"]
    )
    for used in ({}, {"GPU": (50.0, 2.0)}, {"GPU": (25.5, 1.0)}):  # of three processes
        tracker.add_energy(parent, used)
    assert load_sweep("again", store.uri, other).energy == {}
    latest = load_sweep("again", store.uri)  # resumed last, although the other was created later
    assert (latest.run_id, len(latest.arms), latest.outcome) == (parent, 3, None)
    assert latest.energy == {"GPU": (75.5, 3.0)}


def test_a_sweep_is_read_back_as_written(store: Store) -> None:
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


def test_a_sweep_records_the_code_version_of_the_current_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = make_repository(tmp_path / "code")
    monkeypatch.chdir(tmp_path / "code")
    (tmp_path / "code/a.txt").write_text("two\n")
    tracker = Tracker("dirty", store.uri)
    parent = tracker.open_sweep(sweep_info("dirty"))
    run = store.client.get_run(tracker.start_run(parent, trial_info()))
    assert run.data.tags["mlflow.source.git.commit"] == run.data.tags["harness.git_commit"] == commit
    assert run.data.tags["harness.git_dirty"] == "true"
    patch = Path(store.client.download_artifacts(parent, "dirty.patch")).read_text()
    assert "-one\n+two\n" in patch
    found = load_sweep("dirty", store.uri)
    assert (found.commit, found.dirty) == (commit, True)


def test_runs_of_a_dead_process_are_closed_and_own_runs_stay_open(store: Store) -> None:
    abandoned = store.runs[0]
    assert store.client.get_run(abandoned["run"]).info.status == "RUNNING"
    tracker = Tracker("first", store.uri)
    parent = tracker.open_sweep(sweep_info("first"))
    assert parent == abandoned["parent"]
    own = tracker.start_run(parent, trial_info())

    assert tracker.close_abandoned_runs(parent) == 1
    run = store.client.get_run(abandoned["run"])
    assert (run.info.status, run.data.tags["harness.outcome"]) == ("KILLED", "interrupted")
    [last] = store.client.get_metric_history(abandoned["run"], VAL_LOSS)
    assert run.info.end_time == last.timestamp  # not the time at which it was closed
    assert tracker.close_abandoned_runs(parent) == 0
    assert store.client.get_run(own).info.status == "RUNNING"

    # Another tracker closes the runs that this process left open, as after a stopped notebook cell.
    later = Tracker("first", store.uri)
    assert later.close_abandoned_runs(later.open_sweep(sweep_info("first"))) == 1
    assert store.client.get_run(own).info.status == "KILLED"


def test_an_abandoned_sweep_ends_when_it_was_last_heard_of(store: Store) -> None:
    parents = []
    for identity in ("4" * 64, "5" * 64):
        fast_clock = identity.startswith("5")
        tracker = Tracker("late", store.uri)
        parents.append(tracker.open_sweep(sweep_info("late", identity)))
        bare = tracker.start_run(parents[-1], trial_info())  # without a point
        beat = store.client.get_run(bare).info.start_time + 1
        tracker.tag(parents[-1], beat=str(2**43 if fast_clock else beat), process="")
        tracker.runs._open.clear()
        Tracker("late", store.uri).set_aside(identity)
        run = store.client.get_run(bare)
        assert (run.info.status, run.info.end_time) == ("KILLED", run.info.start_time)
        sweep = store.client.get_run(parents[-1])
        assert sweep.info.status == "KILLED"
        assert beat <= sweep.info.end_time <= (milliseconds() if fast_clock else beat)  # not in the future
        assert sweep.data.tags["harness.outcome"] == "interrupted"


def test_an_abandoned_run_is_closed_with_its_outcome_if_that_is_known(store: Store) -> None:
    tracker = Tracker("abandoned", store.uri)
    parent = tracker.open_sweep(sweep_info("abandoned"))
    done = tracker.start_run(parent, trial_info(), key="abc")
    assert Tracker("abandoned", store.uri).close_abandoned_runs(parent, {"abc": Outcome.DIVERGED}) == 1
    run = store.client.get_run(done)
    assert (run.info.status, run.data.tags["harness.outcome"]) == ("FAILED", "diverged")


def test_opening_a_sweep_closes_other_abandoned_sweeps(store: Store) -> None:
    abandoned = store.runs[1]
    assert Tracker("second", store.uri).open_sweep(sweep_info("second", "3" * 64)) != abandoned["parent"]
    for run_id in abandoned.values():
        run = store.client.get_run(run_id)
        assert (run.info.status, run.data.tags["harness.outcome"]) == ("KILLED", "interrupted")


def test_the_report_is_stored_with_the_sweep_and_its_answer_is_in_the_descriptions(
    store: Store, tmp_path: Path
) -> None:
    tracker, client = Tracker("reported", store.uri), store.client
    parent = tracker.open_sweep(sweep_info("reported"))
    (tmp_path / "report.html").write_text("<p>", "utf-8")
    assert "No verdict yet." in client.get_run(parent).data.tags["mlflow.note.content"]
    verdicts = [
        ArmResult("drop_rate=0.0", "drop 0.0", "val/loss", 5.25, 0.25, "worse"),
        ArmResult("drop_rate=0.1", "drop 0.1", "val/loss", 5.0, math.nan, ""),
        ArmResult("drop_rate=0.2", "drop 0.2 · lr 3e-4", "val/loss", 4.75, -0.25, "undecided"),
    ]
    (tmp_path / "notes.txt").write_text("of the user", "utf-8")
    tracker.store_report(parent, "drop_rate=0.0 is worse.", tmp_path, [tmp_path / "report.html"], verdicts)
    tags = client.get_run(parent).data.tags
    assert "> drop_rate=0.0 is worse." in tags["mlflow.note.content"]
    assert tags["harness.verdict"] == "drop_rate=0.0: worse; drop_rate=0.2: undecided"
    assert client.get_run(parent).data.metrics == {
        "arms/undecided": 1.0,
        "arms/worse": 1.0,
        "best/difference": -0.25,
        "best/val_loss": 4.75,
        "best/val_perplexity": pytest.approx(115.584, abs=1e-3),
        "difference/drop 0.0": 0.25,
        "difference/drop 0.2 - lr 3e-4": -0.25,
        "val_loss/drop 0.0": 5.25,
        "val_loss/drop 0.1": 5.0,
        "val_loss/drop 0.2 - lr 3e-4": 4.75,
    }
    assert tags["best arm"] == "drop 0.2 · lr 3e-4"
    assert {name: tags[name] for name in tags if name.startswith("verdict/")} == {
        "verdict/drop 0.0": "worse",
        "verdict/drop 0.1": "baseline",
        "verdict/drop 0.2 - lr 3e-4": "undecided",
    }
    assert [file.path for file in client.list_artifacts(parent, "report")] == ["report/report.html"]
    experiment = experiment_of(client, "reported")
    assert "> drop_rate=0.0 is worse." in experiment.tags["mlflow.note.content"]
    client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", "mine")
    again = Tracker("reported", store.uri)
    assert again.open_sweep(sweep_info("reported")) == parent
    tags = client.get_run(parent).data.tags
    assert "> drop_rate=0.0 is worse." in tags["mlflow.note.content"]  # until there is another answer
    assert experiment_of(client, "reported").tags["mlflow.note.content"] == "mine"
