"""Rounds of confirm runs: which arms get more seeds, when rounds end, and that test losses are never used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.config.spec import SweepSpec
from harness.core.outcomes import Outcome
from harness.runner.adaptive_seeds import AdaptiveSeeds
from specs import GOOD, load

ARMS = ("drop_rate=0.0", "drop_rate=0.1", "drop_rate=0.2")
BASE, CLEAR, OPEN = ARMS
LOSSES = {  # arm → loss of each seed
    BASE: [5.0, 5.1, 4.9, 5.0, 5.2, 4.8, 5.0, 5.0],
    CLEAR: [5.5, 5.61, 5.39, 9.0, 9.0, 9.0, 9.0, 9.0],
    OPEN: [5.0, 5.2, 4.85, 5.01, 5.1, 4.9, 5.1, 4.9],
}


@pytest.fixture
def spec(tmp_path: Path) -> SweepSpec:
    text = GOOD.replace("[0.0, 0.1]", "[0.0, 0.1, 0.2]").replace("baseline: {model.drop_rate: 0.1}", "")
    return load(tmp_path, text.replace("seeds: 3", "seeds: {min: 3, max: 8}"))


def train(
    rounds: AdaptiveSeeds,
    spec: SweepSpec,
    arm: str,
    outcome: Outcome = Outcome.COMPLETE,
    others: Mapping[str, float] | None = None,
    initial: float | None = None,
) -> None:
    """Record an arm's runs of this round, with some other metrics."""
    for seed in rounds.seeds:
        loss = LOSSES[arm][spec.seeds.index(seed)]
        config = spec.arm_config(next(a for a in spec.arms() if a.name == arm), {"train.learning_rate": 1e-3}, seed)
        measured = {"val/loss": loss, "val/bits_per_byte": loss / 3, **(others or {})}
        rounds.record(arm, seed, config, outcome, measured, f"{arm}{seed}", initial)


def test_only_undecided_arms_and_the_baseline_get_more_seeds(spec: SweepSpec) -> None:
    rounds = AdaptiveSeeds(spec)
    assert rounds.seeds == spec.seeds[:3]
    for arm in ARMS:
        train(rounds, spec, arm)
    assert rounds.undecided() == [OPEN]
    assert [arm.name for arm in rounds.next_round()] == [BASE, OPEN]
    assert rounds.seeds == spec.seeds[3:6] and (rounds.before, rounds.after) == (3, 6)
    assert rounds.has(BASE, spec.seeds[2]) and not rounds.has(BASE, spec.seeds[3])
    for arm in (BASE, OPEN):
        train(rounds, spec, arm)
    assert [arm.name for arm in rounds.next_round()] == [BASE, OPEN]
    for arm in (BASE, OPEN):
        train(rounds, spec, arm)
    assert rounds.undecided() == [OPEN]  # 8 pairs with a spread of 0.05
    assert rounds.next_round() == []  # the last look has been taken


def test_rounds_end_when_every_arm_is_decided(spec: SweepSpec) -> None:
    rounds = AdaptiveSeeds(spec)
    for arm in (BASE, CLEAR):
        train(rounds, spec, arm)
    for seed in rounds.seeds:
        config = spec.arm_config(spec.arms()[2], {}, seed)
        place = spec.seeds.index(seed)
        same = {"val/loss": LOSSES[BASE][place] + 1e-4 * place}
        rounds.record(OPEN, seed, config, Outcome.COMPLETE, same, str(seed))
    assert rounds.undecided() == [] and rounds.next_round() == []


def test_test_metrics_are_not_used(spec: SweepSpec) -> None:
    plain, with_test = AdaptiveSeeds(spec), AdaptiveSeeds(spec)
    for arm in ARMS:
        train(plain, spec, arm)
        train(with_test, spec, arm, others={"test/loss": 1.0 if arm == OPEN else 9.0, "test/bits_per_byte": 0.1})
    assert "test/" not in repr(with_test.__dict__["_results"])
    assert with_test.undecided() == plain.undecided()


def test_arms_without_a_pair_get_no_more_seeds(spec: SweepSpec) -> None:
    rounds = AdaptiveSeeds(spec)
    train(rounds, spec, BASE)
    train(rounds, spec, CLEAR)
    train(rounds, spec, OPEN, Outcome.DIVERGED)
    assert rounds.undecided() == []
    alone = AdaptiveSeeds(spec)
    train(alone, spec, OPEN)  # the baseline has no result
    assert alone.undecided() == [] and AdaptiveSeeds(spec).undecided() == []


def test_an_arm_that_diverges_gets_seeds_until_it_is_worse(spec: SweepSpec) -> None:
    rounds = AdaptiveSeeds(spec)
    for wanted in ([BASE, OPEN], []):
        for arm in (BASE, CLEAR):
            train(rounds, spec, arm)
        train(rounds, spec, OPEN, Outcome.DIVERGED, initial=10.8)  # its measured losses do not count
        assert [arm.name for arm in rounds.next_round()] == wanted


def test_arms_with_other_data_are_not_compared_and_get_no_more_seeds(tmp_path: Path) -> None:
    text = GOOD.replace("model.drop_rate: [0.0, 0.1]", "data.split.val: [0.1, 0.2]").replace("baseline: {model", "#")
    spec = load(tmp_path, text.replace("seeds: 3", "seeds: {min: 2, max: 4}"))
    rounds = AdaptiveSeeds(spec)
    for arm in spec.arms():
        for seed in rounds.seeds:
            loss = {"val/loss": 5 + 0.1 * seed * arm.copy + math.sin(seed)}
            rounds.record(arm.name, seed, spec.arm_config(arm, {}, seed), Outcome.COMPLETE, loss, f"{arm.name}{seed}")
    assert rounds.next_round() == []
