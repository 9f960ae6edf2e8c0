from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from harness.report.search import crossings, edges, expected_best, learning_rate_sensitivity, place

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
def test_a_value_has_a_place_on_its_own_scale(value: object, dimension: dict[str, list], where: float | None) -> None:
    assert place(value, dimension) == (None if where is None else pytest.approx(where))


def trials(*rates: float) -> list[dict[str, float]]:
    return [{"train.learning_rate": rate} for rate in rates]


def test_an_optimum_inside_raises_no_warning_and_one_at_an_edge_does() -> None:
    assert edges(trials(1e-4, 1e-3, 1e-2), [5.0, 4.0, 6.0], RATE) == []
    (edge,) = edges(trials(1e-4, 1e-3, 9e-3), [5.0, 4.5, 4.0], RATE)
    assert (edge.path, edge.side, edge.strong) == ("train.learning_rate", "high", False)
    assert edge.place == pytest.approx(1 + math.log10(0.9) / 2)
    (low,) = edges(trials(1.1e-4, 1e-3), [4.0, 5.0], RATE)
    assert low.side == "low"
    assert edges([], [], RATE) == []


def test_the_warning_is_strong_when_three_of_the_five_best_crowd_at_one_edge() -> None:
    crowd = trials(9e-3, 8.5e-3, 1e-3, 9.5e-3, 1e-4, 2e-4)
    assert edges(crowd, [4.0, 4.1, 4.2, 4.3, 4.4, 4.5], RATE)[0].strong
    assert not edges(crowd, [4.0, 4.9, 4.2, 4.3, 4.4, 4.5], RATE)[0].strong  # 8.5e-3 is the sixth now


def test_expected_best_is_the_mean_over_every_draw() -> None:
    losses = [5.0, 4.0, 4.5, 7.0]
    found = expected_best(losses)
    for k in range(1, 5):
        draws = [min(draw) for draw in itertools.product(losses, repeat=k)]
        assert found[k - 1] == pytest.approx(np.mean(draws), abs=1e-12)
    assert expected_best([3.0, 3.0]).tolist() == [3.0, 3.0]
    assert expected_best([]).tolist() == []


def test_arms_whose_order_depends_on_the_number_of_trials_are_named() -> None:
    steady, lucky = [5.0, 5.0, 5.0, 5.0], [9.0, 9.0, 9.0, 4.0]
    assert expected_best(lucky)[0] > 5.0 > expected_best([9.0, 9.0, 9.0, -20.0])[3]
    assert crossings({"steady": steady, "lucky": [9.0, 9.0, 9.0, -20.0]}) == []  # ahead from the first trial on
    # E[min_k] of (6, 6, 6, 3) is 5.25, 4.69, …: behind 5 for one trial, ahead from two on
    assert crossings({"steady": steady, "lucky": [6.0, 6.0, 6.0, 3.0]}) == [("steady", "lucky", 2)]
    assert crossings({"a": steady, "b": lucky, "c": []}) == []


def test_sensitivity_by_hand() -> None:
    # log10 η = -4, -3, -2; L = 6, 4, 5; L0 = 5.5 caps the first: excess 1.5, 0, 1; area (0.75 + 0.5) over 2 decades
    found = learning_rate_sensitivity([1e-4, 1e-3, 1e-2], [6.0, 4.0, 5.0], 5.5, 1e-4, 1e-2)
    assert found == pytest.approx(1.25 / 2)
    # a diverged trial counts as never trained, and trials with one rate by their mean
    again = learning_rate_sensitivity([1e-2, 1e-3, 1e-4, 1e-3], [math.nan, 4.5, 5.5, 3.5], 5.5, 1e-4, 1e-2)
    assert again == pytest.approx((0.75 + 0.75) / 2)
    # beyond what was tried the nearest loss is taken: excess 1 at 1e-4 and 1e-3, 0 at 1e-2
    wide = learning_rate_sensitivity([1e-3, 1e-2], [5.0, 4.0], 9.0, 1e-4, 1e-2)
    assert wide == pytest.approx((1.0 + 0.5) / 2)
    assert learning_rate_sensitivity([1e-3, 1e-2], [4.0, 4.0], 9.0, 1e-4, 1e-2) == 0
    assert math.isnan(learning_rate_sensitivity([1e-3, 1e-3], [4.0, 5.0], 9.0, 1e-4, 1e-2))
