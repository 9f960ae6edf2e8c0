from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.console import eta
from harness.console.eta import time_left


def test_the_quantiles_equal_scipys() -> None:
    for degrees, value in enumerate(eta._T95, 1):
        assert value == pytest.approx(stats.t.ppf(0.95, degrees), abs=6e-4)
    assert stats.t.ppf(0.95, 20) < eta._T95_MANY < stats.t.ppf(0.95, 11)


def test_no_estimate_without_measurements_and_no_interval_with_one() -> None:
    assert time_left([], [1.0], 1) is None
    one = time_left([(2.0, 10.0)], [4.0, 4.0], 2)
    assert one is not None
    assert (one.seconds, one.low, one.high) == (20.0, None, None)  # 5 s per unit, 8 units, two in parallel


def test_the_prediction_interval_by_hand() -> None:
    found = time_left([(1.0, 4.0), (1.0, 6.0), (1.0, 5.0)], [1.0, 1.0, 1.0, 1.0], 2)
    assert found is not None and found.low is not None and found.high is not None
    assert found.seconds == pytest.approx(10.0)  # mean pace 5, four runs, two in parallel
    half = 2.920 * 1.0 * math.sqrt(4 + 16 / 3) / 2  # s = 1, t with 2 degrees of freedom
    assert found.high - found.seconds == pytest.approx(half)
    assert found.seconds - found.low == pytest.approx(half)


def test_the_estimate_is_at_least_the_largest_run_and_its_interval_is_not_negative() -> None:
    found = time_left([(1.0, 10.0), (1.0, 1.0)], [3.0, 0.1], 4)
    assert found is not None and found.low is not None
    assert found.seconds == pytest.approx(5.5 * 3)
    assert found.low == 0.0


def test_runs_are_recorded_one_after_the_other_and_the_report_follows() -> None:
    measured, left = [(1.0, 4.0), (1.0, 6.0), (1.0, 5.0)], [1.0] * 4
    alone = time_left(measured, left, 2)
    assert alone is not None and alone.low is not None and alone.high is not None
    quick = time_left(measured, left, 2, per_run=0.1, at_end=3.0)  # while others train
    assert quick is not None and quick.low is not None
    assert (quick.seconds, quick.low) == pytest.approx((alone.seconds + 3.0, alone.low + 3.0))
    slow = time_left(measured, left, 2, per_run=50.0, at_end=3.0)
    assert slow is not None
    assert (slow.seconds, slow.low, slow.high) == (203.0, 203.0, 203.0)
    over = time_left(measured, [], 2, per_run=50.0, at_end=3.0)
    assert over is not None and over.seconds == 3.0


def test_nine_of_ten_sweeps_take_a_time_inside_the_interval() -> None:
    generator = np.random.default_rng(1)
    inside = []
    for _ in range(2000):
        paces = np.exp(generator.normal(2.0, 0.3, 16))
        measured = [(1.0, float(pace)) for pace in paces[:6]]
        found = time_left(measured, [1.0] * 10, 1)
        assert found is not None and found.low is not None and found.high is not None
        inside.append(found.low <= paces[6:].sum() <= found.high)
    assert 0.86 < np.mean(inside) < 0.94
