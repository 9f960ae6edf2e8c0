from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from harness.config.run import ModelConfig
from harness.cost.calibration import ModelSpeed
from harness.cost.estimate import (
    EVALUATION_SHARE,
    measure_flops,
    memory,
    plan_arms,
    run_cost,
    run_seconds,
    sweep_seconds,
)
from harness.cost.overheads import Overheads, report_seconds
from harness.model.init import build_gpt
from harness.training.model_optimizer import ModelOptimizer
from harness.training.optimizers import OPTIMIZERS, AdamW
from helpers import MODEL_CHANGES, random_tokens, small_config
from specs import GOOD, load


def test_cost_of_a_run_by_hand(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD).base  # 400,000 tokens in steps of 128, one layer of width 16, a context of 32
    cost = run_cost(config, 4000)
    weights = 12 * 16 * 16 + 16 + 5 * 16 + 4 * 16 + 2 * 16 + 50257 * 16  # block, norms and head; no embeddings
    assert cost.tokens == 400_000
    assert cost.parameters == weights + (50257 + 32) * 16
    assert cost.flops == pytest.approx(400_000 * (6 * weights + 12 * 1 * 16 * 32), rel=1e-12)
    assert cost.seconds is None


def test_a_budget_in_seconds_has_no_tokens(tmp_path: Path) -> None:
    cost = run_cost(load(tmp_path, GOOD, "train.budget.seconds=90").base, 4000)
    assert (cost.tokens, cost.flops, cost.seconds) == (None, None, 90)


def test_epochs_are_converted_to_tokens_of_the_corpus(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD, "train.budget.epochs=3").base
    # 4,000 tokens hold 124 windows of 32 (the last needs a target too); 372 windows are 93 steps of four
    assert run_cost(config, 4000).tokens == 93 * 128


def test_a_plan_gives_every_arm_the_same_number_of_runs(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD)
    arms = plan_arms(spec, {arm.name: 4000 for arm in spec.arms()})
    assert [(arm.name, arm.trials, arm.seeds, arm.runs) for arm in arms] == [
        ("drop_rate=0.0", 4, 3, 7),
        ("drop_rate=0.1", 4, 3, 7),
    ]


def test_memory_grows_with_weights_and_batch(tmp_path: Path) -> None:
    base = load(tmp_path, GOOD).base
    wider = load(tmp_path, GOOD, "model.emb_dim=512").base
    assert memory(wider) - memory(base) > 16 * (wider.parameters - base.parameters)
    assert memory(base) < memory(load(tmp_path, GOOD, "train.batch_tokens=4096").base)


def test_the_memory_test_changes_every_field_of_the_model() -> None:
    assert set(MODEL_CHANGES) == set(ModelConfig.model_fields) - {"init_from", "init_sha256"}  # values, no shapes


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("field", MODEL_CHANGES)
def test_memory_covers_weights_gradients_and_optimizer_state(field: str, optimizer: str) -> None:
    config = small_config(model={field: MODEL_CHANGES[field]}, optimizer=optimizer)
    model = build_gpt(config)
    trained = ModelOptimizer(model, config.train)
    model.loss(random_tokens(1, 8), random_tokens(1, 8)).backward()
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    gradients = 4 * sum(parameter.grad.numel() for parameter in model.parameters() if parameter.grad is not None)
    trained.step()
    state = 4 * sum(tensor.numel() for tensor in trained.state_tensors().values() if tensor.dim())
    planned = 4 * (2 + max(algorithm.state_floats() for algorithm in OPTIMIZERS[optimizer])) * config.parameters
    assert weights == gradients == 4 * config.parameters
    assert weights + gradients + state <= planned < memory(config)


def test_an_optimizer_with_more_state_needs_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Larger(AdamW):
        STATE: ClassVar = {**AdamW.STATE, "max_exp_avg_sq": True}

    before, config = memory(small_config()), small_config()
    monkeypatch.setitem(OPTIMIZERS, "adamw", (Larger,))
    assert memory(config) - before == 4 * config.parameters


SPLITS = {"train": 4000, "val": 501, "test": 101}


def test_the_time_of_a_run_is_that_of_its_steps_and_evaluations(tmp_path: Path) -> None:
    config = load(
        tmp_path, GOOD, "train.budget.steps=100", "train.eval_every.steps=20", "train.train_eval_tokens=100"
    ).base  # 128 tokens a step
    measured = ModelSpeed(step_seconds=0.5, eval_seconds=1.8, eval_tokens=900, sample_seconds=0.2)
    # before the first step and after every twentieth: six evaluations
    splits = {"train": 4000, "val": 901 - config.train.train_eval_tokens, "test": 0}
    assert run_seconds(config, splits, measured, 1.0) == pytest.approx(100 * 0.5 + 6 * 2.0)
    # The time of scoring is proportional to the tokens; that of the generated text is not.
    assert run_seconds(config, {**splits, "val": 2601}, measured, 1.0) == pytest.approx(100 * 0.5 + 6 * 5.6)
    flops = config.flops_per_token * 128
    # a step of 128 tokens takes a second, so an evaluation of 1,280 takes 10 times 0.4
    by_flops = run_seconds(config, {**splits, "val": 1181}, None, flops)
    assert by_flops == pytest.approx(100 * 1.0 + 6 * 4.0)


def test_a_budget_in_seconds_takes_its_seconds_plus_evaluations(tmp_path: Path) -> None:
    config = load(
        tmp_path, GOOD, "train.budget.seconds=60", "train.eval_every.steps=30", "train.train_eval_tokens=100"
    ).base
    measured = ModelSpeed(step_seconds=1.0, eval_seconds=4.0, eval_tokens=1000, sample_seconds=1.0)
    assert run_seconds(config, {"train": 4000, "val": 901, "test": 0}, measured, 1.0) == pytest.approx(60 + 3 * 5.0)


def test_evaluations_on_a_sample_are_cheaper_except_at_both_ends(tmp_path: Path) -> None:
    settings = ("train.budget.steps=100", "train.eval_every.steps=20", "train.train_eval_tokens=100")
    config = load(tmp_path, GOOD, *settings, "train.eval_tokens=200").base
    measured = ModelSpeed(step_seconds=0.5, eval_seconds=1.0, eval_tokens=100, sample_seconds=0.0)
    splits = {"train": 4000, "val": 901, "test": 0}
    # two of 900 whole, 200 sampled and 100 of the training split; four of 200 and 100
    assert run_seconds(config, splits, measured, 1.0) == pytest.approx(50 + 2 * 12 + 4 * 3)


def test_the_time_of_a_sweep_is_divided_by_its_busy_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load(tmp_path, GOOD, "train.budget.steps=100", "train.eval_every.steps=20")  # 2 arms, 4 trials and 3 seeds
    splits = {arm.name: SPLITS for arm in spec.arms()}
    scored = 500 + spec.base.train.train_eval_tokens
    measured = {arm.name: ModelSpeed(0.5, 2.0, scored, 0.0) for arm in spec.arms()}
    tested = 101 * 0.5 / 128 * EVALUATION_SHARE
    alone = 2 * (7 * (100 * 0.5 + 6 * 2.0) + 3 * tested)
    none = Overheads(0.0, 0.0, 0.0, 0.0, 0.0)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert sweep_seconds(spec, splits, 1, measured, 1.0, none) == pytest.approx(alone)
    assert sweep_seconds(spec, splits, 2, measured, 1.0, none) == pytest.approx(alone / 2)
    assert sweep_seconds(spec, splits, 99, measured, 1.0, none) == pytest.approx(alone / 14)
    assert sweep_seconds(spec, splits, 8, measured, 1.0, none, threads=4) == pytest.approx(alone / 4)  # 16 CPUs


def test_ranks_divide_the_rows_of_a_batch_and_the_work_of_a_run(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD, "train.batch_tokens=4096").base
    assert config.sequences_per_step == 128
    more = {ranks: memory(config, ranks) - memory(config, 4) for ranks in (1, 2, 3)}  # than with 32 windows
    assert more[1] / 96 == pytest.approx(more[2] / 32) == pytest.approx(more[3] / 11)
    speed = ModelSpeed(step_seconds=0.5, eval_seconds=2.0, eval_tokens=100, sample_seconds=3.0)
    assert speed.on(2) == ModelSpeed(0.25, 1.0, 100, 3.0)


def test_the_time_of_a_sweep_of_short_runs_is_that_of_their_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load(tmp_path, GOOD, "train.budget.steps=10", "train.eval_every.steps=10")  # 2 arms, 4 trials and 3 seeds
    splits = {arm.name: {**SPLITS, "test": 0} for arm in spec.arms()}
    measured = {arm.name: ModelSpeed(0.01, 0.01, 500 + spec.base.train.train_eval_tokens, 0.0) for arm in spec.arms()}
    known = Overheads(start=5.0, per_run=0.2, per_point=0.01, turnaround=0.1, report=2.0)
    training = 14 * (10 * 0.01 + 2 * 0.01 + 0.1)
    recording = 14 * (0.2 + 12 * 0.01)  # a point for every step, and two with an evaluation
    rest = 5.0 + 2.0 * report_seconds(2, 14)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert sweep_seconds(spec, splits, 1, measured, 1.0, known) == pytest.approx(rest + recording)  # it takes longer
    assert sweep_seconds(spec, splits, 4, measured, 1.0, known) == pytest.approx(rest + recording)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # the worker and the thread that records have to share it
    assert sweep_seconds(spec, splits, 1, measured, 1.0, known) == pytest.approx(rest + training + recording)


def test_the_measured_flops_of_this_machine_are_plausible() -> None:
    assert 1e8 < measure_flops(0.05) < 1e13
