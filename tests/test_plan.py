from __future__ import annotations

from pathlib import Path

import pytest

from harness.plan import ArmPlan, RunCost, estimated_seconds, measure_flops, memory, plan_arms, run_cost
from test_specfile import GOOD, load


def test_a_run_costs_what_its_tokens_and_weights_say(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD).base  # 400,000 tokens in steps of 128, one layer of width 16, context 32
    cost = run_cost(config, 4000)
    weights = 12 * 16 * 16 + 16 + 5 * 16 + 4 * 16 + 2 * 16 + 50257 * 16  # block, norms and head; no embeddings
    assert cost.tokens == 400_000
    assert cost.parameters == weights + (50257 + 32) * 16
    assert cost.flops == pytest.approx(400_000 * (6 * weights + 12 * 1 * 16 * 32), rel=1e-12)
    assert cost.seconds is None


def test_a_budget_in_seconds_has_no_tokens(tmp_path: Path) -> None:
    cost = run_cost(load(tmp_path, GOOD, "train.budget.seconds=90").base, 4000)
    assert (cost.tokens, cost.flops, cost.seconds) == (None, None, 90)


def test_epochs_follow_the_corpus(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD, "train.budget.epochs=3").base
    # 4,000 tokens hold 124 windows of 32 (the last needs a target too); 372 windows are 93 steps of four
    assert run_cost(config, 4000).tokens == 93 * 128


def test_a_plan_has_every_arm_with_equal_runs(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD)
    arms = plan_arms(spec, {arm.name: 4000 for arm in spec.arms()})
    assert [(arm.name, arm.trials, arm.seeds, arm.runs) for arm in arms] == [
        ("drop_rate=0.0", 4, 3, 7),
        ("drop_rate=0.1", 4, 3, 7),
    ]


def test_memory_grows_with_what_it_holds(tmp_path: Path) -> None:
    base = load(tmp_path, GOOD).base
    wider = load(tmp_path, GOOD, "model.emb_dim=512").base
    assert memory(wider) - memory(base) > 16 * (wider.parameters - base.parameters)
    assert memory(base) < memory(load(tmp_path, GOOD, "train.batch_tokens=4096").base)


def test_time_is_work_over_the_workers_that_can_help() -> None:
    cost = RunCost(parameters=1, tokens=1, flops=4e9, seconds=None, memory=1)
    four = [ArmPlan("a", 2, 0, cost), ArmPlan("b", 2, 0, cost)]
    assert estimated_seconds(four, 2, 1e10) == pytest.approx(4 * 4e9 / (1e10 * 0.4) / 2)
    assert estimated_seconds(four, 16, 1e10) == pytest.approx(4e9 / (1e10 * 0.4))  # no more workers than runs
    clocked = [ArmPlan("a", 0, 3, RunCost(1, None, None, 60.0, 1))]
    assert estimated_seconds(clocked, 3, 1e10) == 60


def test_the_speed_of_this_machine_is_believable() -> None:
    assert 1e8 < measure_flops(0.05) < 1e13
