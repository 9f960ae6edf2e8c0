"""Confirm runs outside the plan of a sweep are found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

import example_sweep as example
from harness.analysis.planned import set_aside, unplanned_runs
from harness.analysis.rule import rule_of
from harness.tracking import PlanChange, SweepRecord

PLAIN, DROPPED = example.ARMS
RATE = "train.learning_rate"
UNKNOWN_SEED, REPEATED = "the plan does not have this seed", "the seed has an earlier result"


def record(**changes: Any) -> SweepRecord:
    """The example's description; its plan has the seeds 2, 3 and 4."""
    return example.record(spec_text="train: {seed: 2}\n", **changes)


def reasons(rows: list[dict[str, Any]], described: SweepRecord | None = None) -> dict[tuple[str, int], str]:
    """Arm and seed of each run outside the plan → why."""
    runs = example.frame(rows)
    found = unplanned_runs(runs, rule_of(described or record()))
    return {(row["arm"], row["seed"]): found[row["run_id"]] for row in rows if row["run_id"] in found}


def added(arm: str = DROPPED, seed: int = 3, **facts: Any) -> list[dict[str, Any]]:
    """The example's confirm runs, and one more that started after them."""
    values = facts.pop("values", example.ARMS.get(arm, {}))
    return [*example.confirm_runs(), example.run(900, arm, values, seed=seed, **{"loss": 1.0, **facts})]


def test_the_planned_runs_of_a_sweep_are_in_its_plan() -> None:
    assert reasons(example.confirm_runs()) == {}
    assert reasons(added(seed=50), example.record()) == {}  # its plan is not known
    repeated = example.confirm_runs()[-1]
    again = {**repeated, "run_id": "another", "started": repeated["started"] + pd.Timedelta(days=1), "seconds": 1.0}
    assert reasons([*example.confirm_runs(), again]) == {}  # trained twice with the same result


def test_runs_that_no_plan_asked_for_are_named_with_the_reason() -> None:
    assert reasons(added(seed=50)) == {(DROPPED, 50): UNKNOWN_SEED}
    assert reasons(added(seed=50, outcome="failed")) == {(DROPPED, 50): UNKNOWN_SEED}
    assert reasons(added(arm="other")) == {("other", 3): "the plan has no such arm"}
    assert reasons(added(trial=7)) == {(DROPPED, 3): "it has the number of a search trial"}
    assert reasons(added()) == {(DROPPED, 3): REPEATED}
    assert reasons(added(outcome="diverged")) == {(DROPPED, 3): REPEATED}
    other = {"model.drop_rate": 0.0}
    assert reasons(added(values=other)) == {(DROPPED, 3): "its model.drop_rate is not that of the arm"}
    rows = added()
    rows[-1]["train.seed"] = 77
    assert reasons(rows) == {(DROPPED, 3): "it was trained with the seed 77"}


def test_seeds_of_any_plan_of_the_sweep_count() -> None:
    more = PlanChange(example.START, 6, {"seeds": 5})
    assert reasons(added(seed=6)) == {(DROPPED, 6): UNKNOWN_SEED}
    assert reasons(added(seed=6), record(plan_changes=(more,))) == {}
    assert reasons(added(seed=6), record(first_plan={"seeds": 5})) == {}


def test_only_the_chosen_values_of_an_arm_count() -> None:
    searched = [row for row in example.explore_runs() if row["arm"] == DROPPED]
    described = replace(record(tune=example.TUNE), spec_text="train: {seed: 1}\ntune: {train.learning_rate: {}}\n")
    best, other, third = 1e-3, 5e-4, 7e-4

    def found(*rates: float) -> set[int]:
        """Seeds of the runs outside the plan, of runs with these learning rates on the seeds 2, 3 and 4."""
        rows = [
            example.run(900 + place, DROPPED, {"model.drop_rate": 0.1, RATE: rate}, seed=2 + place, loss=5.0 + place)
            for place, rate in enumerate(rates)
        ]
        outside = reasons([*searched, *rows], described)
        assert set(outside.values()) <= {"its tuned values are not the chosen ones"}
        return {seed for _, seed in outside}

    assert found(best, best, best) == set()
    assert found(other, other, other) == set()  # a warning of its own says that the best trial was not confirmed
    assert found(other, best, best) == {2}
    assert found(other, third, other) == {3}  # no run has the best values: the first decides


def test_copies_of_an_arm_have_seeds_of_their_own() -> None:
    arms = {"a": {"model.drop_rate": 0.1}, "a (2)": {"model.drop_rate": 0.1}}
    rows = example.confirm_runs({"a": {2: 5.0, 3: 5.1}, "a (2)": {2: 5.2, 3: 5.3}})
    for row in rows:
        row["train.seed"] = row["seed"] + 1_000_000 * (row["arm"] == "a (2)")
    assert reasons(rows, record(arms=arms)) == {}
    rows[-1]["train.seed"] = 3
    assert reasons(rows, record(arms=arms)) == {("a (2)", 3): "it was trained with the seed 3"}


def test_rows_of_runs_outside_the_plan_get_a_phase_of_their_own() -> None:
    runs = example.frame(added(seed=50))
    aside = set_aside(runs, {runs["run_id"].iloc[-1]: UNKNOWN_SEED})
    assert aside["phase"].tolist() == ["confirm"] * (len(runs) - 1) + ["unplanned"]
    assert runs["phase"].eq("confirm").all()
    assert set_aside(runs, {}) is runs
