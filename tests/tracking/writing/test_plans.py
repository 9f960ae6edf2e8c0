"""The analysis plan, stored before the first trial, and its later changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.config.fingerprint import digest_of
from harness.core.files import read_json_list, read_json_with_checksum
from harness.core.outcomes import Outcome, Phase
from harness.tracking import (
    PlanChange,
    Tracker,
    TrackingError,
    load_runs,
    load_sweep,
    schema,
)
from harness.tracking.places import local_folder
from harness.tracking.writing.experiment import Experiment
from stored_runs import PLAN, Store, sweep_info, trial_info


def plan_bytes(store: Store, parent: str) -> bytes:
    return Path(store.client.download_artifacts(parent, "analysis_plan.json")).read_bytes()


def artifact(store: Store, parent: str, name: str) -> Path:
    """The file itself, not a copy."""
    folder = local_folder(store.client.get_run(parent).info.artifact_uri, store.uri)
    assert folder is not None
    return folder / name


def files_of(store: Store, run_id: str) -> set[str]:
    return {file.path for file in store.client.list_artifacts(run_id)}


def test_the_plan_is_stored_before_any_trial(store: Store) -> None:
    parent = Tracker("planned", store.uri).open_sweep(sweep_info("planned"))
    assert load_runs("planned", store.uri).empty
    assert json.loads(plan_bytes(store, parent)) == PLAN
    assert store.client.get_run(parent).data.tags["harness.plan_sha256"] == digest_of(PLAN)
    assert "analysis_plan_changes.json" not in files_of(store, parent)
    found = load_sweep("planned", store.uri)
    assert (found.first_plan, found.plan_sha256, found.plan_changes) == (PLAN, digest_of(PLAN), ())


def test_no_trial_starts_if_the_plan_cannot_be_stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise TrackingError("the store is full")

    info = sweep_info("unplanned")
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "log_contents", refuse)
        with pytest.raises(TrackingError, match="full"):
            Tracker("unplanned", store.uri).open_sweep(info)
    # Nothing was trained, so the plan of the second attempt counts as the first plan.
    other = replace(info, plan={**PLAN, "seeds": 3})
    parent = Tracker("unplanned", store.uri).open_sweep(other)
    found = load_sweep("unplanned", store.uri, parent)
    assert (found.first_plan, found.plan_sha256) == (other.plan, digest_of(other.plan))
    assert found.plan_changes == ()


def test_the_first_plan_stays_and_later_plans_are_added(store: Store) -> None:
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
        run_id = tracker.start_run(parent, trial_info(seed=seed, phase=phase))
        tracker.end_run(run_id, outcome)
    tracker.start_run(parent, trial_info(seed=14))

    Tracker("replanned", store.uri).open_sweep(replace(info, plan=dict(reversed(PLAN.items()))))
    assert "analysis_plan_changes.json" not in files_of(store, parent)  # the same plan

    more = replace(info, plan={**PLAN, "seeds": 4, "looks": [4]})
    before = datetime.now(UTC)
    for _ in range(2):
        assert Tracker("replanned", store.uri).open_sweep(more) == parent
    [change] = load_sweep("replanned", store.uri).plan_changes
    assert change == PlanChange(change.when, 2, more.plan)
    assert before <= change.when <= datetime.now(UTC)
    [plain] = read_json_list(Path(store.client.download_artifacts(parent, "analysis_plan_changes.json")).read_text())
    assert (plain["confirm_runs"], plain["plan"]) == (2, more.plan)
    assert datetime.fromisoformat(plain["when"]) == change.when and plain["when"].endswith("+00:00")

    # Going back to the first plan is another change. A superseded run counts, because it may have been seen as well.
    tracker.tag(run_id, phase=Phase.SUPERSEDED)
    Tracker("replanned", store.uri).open_sweep(info)
    found = load_sweep("replanned", store.uri)
    assert [(one.confirm_runs, one.plan) for one in found.plan_changes] == [(2, more.plan), (3, PLAN)]
    assert found.plan == PLAN  # of the last start
    assert plan_bytes(store, parent) == first
    assert store.client.get_run(parent).data.tags["harness.plan_sha256"] == digest_of(PLAN)


def test_a_sweep_stored_without_a_plan_can_be_read_and_resumed(store: Store) -> None:
    info = replace(sweep_info("old"), plan={})
    tracker = Tracker("old", store.uri)
    parent = tracker.open_sweep(info)
    written = read_json_with_checksum(schema.describe(info)).content
    del written["plan"]
    tracker.experiment.log_contents(parent, {"sweep.json": json.dumps(written)})
    tracker.end_run(tracker.start_run(parent, trial_info()), Outcome.COMPLETE)
    found = load_sweep("old", store.uri)
    assert (found.plan, found.first_plan, found.plan_sha256, found.plan_changes) == ({}, {}, "", ())
    # Its runs are older than any plan, so a plan stored now is a change and never the first plan.
    Tracker("old", store.uri).open_sweep(sweep_info("old"))
    found = load_sweep("old", store.uri)
    assert (found.first_plan, found.plan_sha256) == ({}, "")
    assert [(one.confirm_runs, one.plan) for one in found.plan_changes] == [(1, PLAN)]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a changed number": lambda content: content.replace(b'"confirm_runs": 0', b'"confirm_runs": 1'),
    "not JSON": lambda content: content[1:],
    "a lost checksum": lambda content: content.replace(b"checksum", b"checksun"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_changes_of_a_plan_are_refused(damage: str, store: Store) -> None:
    name = f"damaged-{list(DAMAGES).index(damage)}"
    info = sweep_info(name)
    parent = Tracker(name, store.uri).open_sweep(info)
    Tracker(name, store.uri).open_sweep(replace(info, plan={**PLAN, "seeds": 4}))
    file = artifact(store, parent, "analysis_plan_changes.json")
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    for reads in (lambda: load_sweep(name, store.uri), lambda: Tracker(name, store.uri).open_sweep(info)):
        with pytest.raises(TrackingError, match=rf"analysis_plan_changes.json of the run {parent} .*damaged file"):
            reads()


def test_a_damaged_first_plan_is_no_change_of_the_plan(store: Store) -> None:
    info = sweep_info("damaged-plan")
    parent = Tracker("damaged-plan", store.uri).open_sweep(info)
    file = artifact(store, parent, "analysis_plan.json")
    file.write_text(file.read_text().replace('"seeds": 2', '"seeds": 9'))
    Tracker("damaged-plan", store.uri).open_sweep(info)
    found = load_sweep("damaged-plan", store.uri)
    assert found.first_plan["seeds"] == 9 and not found.plan_changes
    assert digest_of(dict(found.first_plan)) != found.plan_sha256  # which the report says
    file.write_text(file.read_text()[1:])
    with pytest.raises(TrackingError, match=r"analysis_plan.json .* is not a stored plan"):
        load_sweep("damaged-plan", store.uri)
