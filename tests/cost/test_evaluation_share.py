"""The share of evaluation in a run's time, by worked values, and the advice that lowers it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config.spec import SweepSpec
from harness.cost.calibration import ModelSpeed
from harness.cost.evaluation_share import EvaluationShare, evaluation_share, expected_evaluation_share
from specs import GOOD, load

# 100 steps of 0.1 s; six evaluations, of which four lie between the start and the end.
SETTINGS = ("train.budget.steps=100", "train.eval_every.steps=20", "train.train_eval_tokens=1000")
SPEED = ModelSpeed(step_seconds=0.1, eval_seconds=1.0, eval_tokens=100_000, sample_seconds=0.0)


def share_of(spec: SweepSpec, val: int, workers: int = 1) -> EvaluationShare:
    splits = {arm.name: {"train": 8 * val, "val": val, "test": val} for arm in spec.arms()}
    return evaluation_share(spec, splits, workers, {arm.name: SPEED for arm in spec.arms()}, 1.0)


def test_a_small_share_needs_no_advice(tmp_path: Path) -> None:
    found = share_of(load(tmp_path, GOOD, *SETTINGS), val=9_001)  # six times 0.1 s, for 10 s of training
    assert found.share == pytest.approx(0.6 / 10.6)
    assert (found.eval_tokens, found.saved) == (None, 0.0)
    assert found.words == "6% of a run's time"


def test_a_large_share_advises_a_sample_and_says_what_it_saves(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD, *SETTINGS)  # 2 arms, 4 trials and 3 seeds each
    found = share_of(spec, val=1_000_001, workers=2)
    assert found.share == pytest.approx(6 * 10.01 / (10 + 6 * 10.01))
    # The four evaluations between score 11,000 tokens and not 1,001,000; both at the ends also score the sample. With
    # 10,000 tokens a run saves 4 · 9.9 − 2 · 0.1 = 39.4 s, with 50,000 4 · 9.5 − 2 · 0.5 = 37, and with 100,000 34.
    assert found.eval_tokens == 50_000
    assert found.saved == pytest.approx(37.0 * 2 * 7 / 2)
    assert found.share_then == pytest.approx((60.06 - 37) / (70.06 - 37))
    assert found.words == (
        "86% of a run's time; train.eval_tokens=50_000 would save about 4:19 and leave 70%; a longer budget or "
        "train.eval_every, a smaller data.split.val lower it"
    )


def test_the_advice_is_what_the_setting_saves(tmp_path: Path) -> None:
    before = share_of(load(tmp_path, GOOD, *SETTINGS), val=1_000_001)
    after = share_of(load(tmp_path, GOOD, *SETTINGS, f"train.eval_tokens={before.eval_tokens}"), val=1_000_001)
    assert after.share == pytest.approx(before.share_then)


def test_where_a_sample_does_not_help_the_split_is_named(tmp_path: Path) -> None:
    only_ends = share_of(load(tmp_path, GOOD, *SETTINGS, "train.eval_every.steps=100"), val=1_000_001)
    assert only_ends.share == pytest.approx(20.02 / 30.02)
    assert only_ends.eval_tokens is None
    assert only_ends.words.startswith("67% of a run's time; a longer budget or train.eval_every, a smaller data.split")
    short = load(tmp_path, GOOD, *SETTINGS, "train.budget.steps=10", "train.eval_every.steps=2")
    assert share_of(short, val=18_001).eval_tokens is None  # half of it is under 10,000 tokens


def test_arms_count_by_their_time(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD, *SETTINGS)
    first, second = spec.arms()
    sizes = {"train": 8_000, "val": 9_001, "test": 9_001}
    speeds = {first.name: SPEED, second.name: ModelSpeed(0.2, 10.0, 100_000, 0.0)}
    found = evaluation_share(spec, {first.name: sizes, second.name: sizes}, 1, speeds, 1.0)
    assert found.share == pytest.approx((0.6 + 6.0) / (10.6 + 26.0))


def test_before_any_measurement_the_share_follows_from_flops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT_HARNESS_CACHE", str(tmp_path))
    spec = load(tmp_path, GOOD, *SETTINGS)  # 12,800 tokens
    splits = {arm.name: {"train": 8_000, "val": 9_001, "test": 9_001} for arm in spec.arms()}
    found = expected_evaluation_share(spec, splits, 2, 1)
    assert found.share == pytest.approx(
        6 * 10_000 * 0.4 / (12_800 + 6 * 10_000 * 0.4)
    )  # a token costs 0.4 of a trained one
