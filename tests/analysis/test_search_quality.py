from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from harness.analysis.search_quality import (
    crossings,
    edges,
    expected_best,
    expected_best_band,
    learning_rate_sensitivity,
    nearest_diverged,
    place,
)

RATE = {"train.learning_rate": {"log_uniform": [1e-4, 1e-2]}}


@pytest.mark.parametrize(
    ("value", "dimension", "where"),
    [
        (1e-3, {"log_uniform": [1e-4, 1e-2]}, 0.5),
        (1e-4, {"log_uniform": [1e-4, 1e-2]}, 0.0),
        (0.25, {"uniform": [0.0, 1.0]}, 0.25),
        (4, {"int_uniform": [2, 6]}, 0.5),
        (64, {"choice": [128, 32, 64]}, 0.5),
        (128, {"choice": [128, 32, 64]}, 1.0),
        (True, {"choice": [False, True]}, None),
        (32, {"choice": [32, 64]}, None),
        ("adamw", {"choice": ["adamw", "muon", "sgd"]}, None),
    ],
)
def test_position_of_a_value_on_its_own_scale(
    value: object, dimension: dict[str, list[Any]], where: float | None
) -> None:
    assert place(value, dimension) == (None if where is None else pytest.approx(where))


def trials(*rates: float) -> list[dict[str, float]]:
    return [{"train.learning_rate": rate} for rate in rates]


def test_an_optimum_at_an_edge_is_found_and_one_inside_is_not() -> None:
    assert edges(trials(1e-4, 1e-3, 1e-2), [5.0, 4.0, 6.0], RATE) == []
    (edge,) = edges(trials(1e-4, 1e-3, 9e-3), [5.0, 4.5, 4.0], RATE)
    assert (edge.path, edge.side, edge.strong) == ("train.learning_rate", "high", False)
    assert edge.place == pytest.approx(1 + math.log10(0.9) / 2)
    (low,) = edges(trials(1.1e-4, 1e-3), [4.0, 5.0], RATE)
    assert low.side == "low"
    assert edges([], [], RATE) == []


def test_an_edge_is_strong_when_three_of_the_five_best_trials_are_there() -> None:
    crowd = trials(9e-3, 8.5e-3, 1e-3, 9.5e-3, 1e-4, 2e-4)
    assert edges(crowd, [4.0, 4.1, 4.2, 4.3, 4.4, 4.5], RATE)[0].strong
    assert not edges(crowd, [4.0, 4.9, 4.2, 4.3, 4.4, 4.5], RATE)[0].strong  # 8.5e-3 is the sixth now


def test_expected_best_is_the_mean_over_all_possible_draws() -> None:
    losses = [5.0, 4.0, 4.5, 7.0]
    found = expected_best(losses)
    for k in range(1, 5):
        draws = [min(draw) for draw in itertools.product(losses, repeat=k)]
        assert found[k - 1] == pytest.approx(np.mean(draws), abs=1e-12)
    assert expected_best([3.0, 3.0]).tolist() == [3.0, 3.0]
    assert expected_best([]).tolist() == []


def test_the_band_is_a_percentile_bootstrap_of_the_trials() -> None:
    losses = np.random.default_rng(5).gamma(2.0, 0.3, 24) + 5
    low, high = expected_best_band(losses, samples=20_000)
    assert len(low) == len(high) == 8
    # the expected best of one trial is the mean
    options = {"confidence_level": 0.8, "n_resamples": 20_000, "method": "percentile", "rng": 1}
    peer = stats.bootstrap((losses,), np.mean, **options).confidence_interval
    assert (low[0], high[0]) == pytest.approx(tuple(peer), abs=0.03 * (peer.high - peer.low))
    assert (low < expected_best(losses)[:8]).all() and (expected_best(losses)[:8] < high).all()
    moved = expected_best_band(3 * losses - 1, samples=20_000)
    np.testing.assert_allclose(moved, 3 * np.stack([low, high]) - 1, rtol=1e-12)
    assert expected_best_band([5.0] * 8).tolist() == [[5.0, 5.0], [5.0, 5.0]]
    assert expected_best_band(losses[:7]).shape == (2, 0)


def test_the_band_has_about_its_nominal_coverage() -> None:
    rng = np.random.default_rng(0)
    sweeps, k = 400, np.arange(1, 5)
    truth = 1 / (k + 1)  # of the lowest of k numbers between 0 and 1
    bands = np.array([expected_best_band(rng.uniform(size=12), samples=300) for _ in range(sweeps)])
    covered = ((bands[:, 0] <= truth) & (truth <= bands[:, 1])).mean(axis=0)
    assert ((covered > 0.67) & (covered < 0.87)).all()


def test_arms_whose_order_depends_on_the_number_of_trials_are_named() -> None:
    steady, lucky = [5.0, 5.0, 5.0, 5.0], [9.0, 9.0, 9.0, 4.0]
    assert expected_best(lucky)[0] > 5.0 > expected_best([9.0, 9.0, 9.0, -20.0])[3]
    assert crossings({"steady": steady, "lucky": [9.0, 9.0, 9.0, -20.0]}) == []  # ahead from the first trial on
    # E[min_k] of (6, 6, 6, 3) is 5.25, 4.69, …: behind 5 for one trial, ahead from two on
    assert crossings({"steady": steady, "lucky": [6.0, 6.0, 6.0, 3.0]}) == [("steady", "lucky", 2)]
    assert crossings({"a": steady, "b": lucky, "c": []}) == []
    # equal for one trial, ahead for more: the order never changes
    assert expected_best([4.5, 5.5])[0] == 5.0
    assert crossings({"steady": steady, "wide": [4.5, 5.5]}) == []
    assert crossings({str(n): [10.8] * n for n in range(2, 20)}) == []  # equal except for rounding


def test_sensitivity_worked_by_hand() -> None:
    # log10 η = -4, -3, -2; L = 6, 4, 5; L0 = 5.5 caps the first: excess 1.5, 0, 1; area (0.75 + 0.5) over 2 decades
    found = learning_rate_sensitivity([1e-4, 1e-3, 1e-2], [6.0, 4.0, 5.0], 5.5, 1e-4, 1e-2)
    assert found == pytest.approx(1.25 / 2)
    # a diverged trial counts with the initial loss; trials with the same rate are averaged
    again = learning_rate_sensitivity([1e-2, 1e-3, 1e-4, 1e-3], [math.nan, 4.5, 5.5, 3.5], 5.5, 1e-4, 1e-2)
    assert again == pytest.approx((0.75 + 0.75) / 2)
    # outside the tried rates the loss is constant: excess 1 at 1e-4 and 1e-3, 0 at 1e-2
    wide = learning_rate_sensitivity([1e-3, 1e-2], [5.0, 4.0], 9.0, 1e-4, 1e-2)
    assert wide == pytest.approx((1.0 + 0.5) / 2)
    assert learning_rate_sensitivity([1e-3, 1e-2], [4.0, 4.0], 9.0, 1e-4, 1e-2) == 0
    assert math.isnan(learning_rate_sensitivity([1e-3, 1e-3], [4.0, 5.0], 9.0, 1e-4, 1e-2))


SPACE: Mapping[str, Mapping[str, Sequence[Any]]] = {**RATE, "train.optimizer": {"choice": ["adamw", "muon", "sgd"]}}


def test_an_optimum_is_near_diverged_trials_that_are_its_neighbours() -> None:
    # u = 0, 0.5 (best) and, diverged, 1: every trial is 0.5 from its neighbour, the diverged one too
    near = nearest_diverged(trials(1e-4, 1e-3), [5.0, 4.0], trials(1e-2), RATE)
    assert near and [near.distance, near.threshold] == pytest.approx([0.5, 0.5]) and near.is_near
    # one more at u = 0.45: distances to neighbours 0.45, 0.05, 0.05, 0.5, of median 0.25
    more = nearest_diverged(trials(1e-4, 1e-3, 10**-3.1), [5.0, 4.0, 4.1], trials(1e-2), RATE)
    assert more and more.distance == pytest.approx(0.5) and more.threshold == pytest.approx(0.25) and not more.is_near
    # where trials are dense, a tenth of the range counts as near: 0.09 does, 0.11 does not
    crowd = [10 ** (-3 + 2 * step / 1000) for step in range(10)]
    for u, touches in ((0.09, True), (0.11, False)):
        found = nearest_diverged(trials(*crowd), [4.0, *[5.0] * 9], trials(10 ** (-3 + 2 * u)), RATE)
        assert found and found.threshold == 0.1 and found.distance == pytest.approx(u) and found.is_near is touches


def test_distances_between_trials_worked_by_hand() -> None:
    def at(rate: float, optimizer: str) -> dict[str, object]:
        return {"train.learning_rate": rate, "train.optimizer": optimizer}

    complete = [at(1e-3, "adamw"), at(1e-4, "muon")]
    # another option is 1 away, and 0.5 in the rate: √1.25; the same option and 0.25 in the rate: 0.25
    other = nearest_diverged(complete, [4.0, 5.0], [at(1e-2, "muon")], SPACE)
    assert other and other.distance == pytest.approx(math.sqrt(1.25))
    same = nearest_diverged(complete, [4.0, 5.0], [at(1e-2, "muon"), at(10**-2.5, "adamw")], SPACE)
    assert same and same.distance == pytest.approx(0.25)
    assert nearest_diverged(complete, [4.0, 5.0], [], SPACE) is None
    assert nearest_diverged([], [], complete, SPACE) is None
