from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.console import eta as timeleft
from harness.console.eta import time_left


def test_the_quantiles_are_students() -> None:
    for degrees, value in enumerate(timeleft._T95, 1):
        assert value == pytest.approx(stats.t.ppf(0.95, degrees), abs=6e-4)
    assert stats.t.ppf(0.95, 20) < timeleft._T95_MANY < stats.t.ppf(0.95, 11)


def test_nothing_seen_nothing_said_and_one_run_has_no_spread() -> None:
    assert time_left([], [1.0], 1) is None
    one = time_left([(2.0, 10.0)], [4.0, 4.0], 2)
    assert one is not None
    assert (one.seconds, one.low, one.high) == (20.0, None, None)  # 5 s a unit, 8 units, two at once


def test_the_interval_is_that_of_a_prediction_worked_by_hand() -> None:
    found = time_left([(1.0, 4.0), (1.0, 6.0), (1.0, 5.0)], [1.0, 1.0, 1.0, 1.0], 2)
    assert found is not None and found.low is not None and found.high is not None
    assert found.seconds == pytest.approx(10.0)  # mean pace 5, four runs, two at once
    half = 2.920 * 1.0 * math.sqrt(4 + 16 / 3) / 2  # s = 1, t with 2 degrees of freedom
    assert found.high - found.seconds == pytest.approx(half)
    assert found.seconds - found.low == pytest.approx(half)


def test_it_never_ends_before_the_largest_run_nor_begins_below_zero() -> None:
    found = time_left([(1.0, 10.0), (1.0, 1.0)], [3.0, 0.1], 4)
    assert found is not None and found.low is not None
    assert found.seconds == pytest.approx(5.5 * 3)
    assert found.low == 0.0


def test_nine_of_ten_sweeps_end_inside_the_interval() -> None:
    generator = np.random.default_rng(1)
    inside = []
    for _ in range(2000):
        paces = np.exp(generator.normal(2.0, 0.3, 16))
        seen = [(1.0, float(pace)) for pace in paces[:6]]
        found = time_left(seen, [1.0] * 10, 1)
        assert found is not None and found.low is not None and found.high is not None
        inside.append(found.low <= paces[6:].sum() <= found.high)
    assert 0.86 < np.mean(inside) < 0.94
