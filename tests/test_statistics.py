from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.report.statistics import Interval, mean_interval, paired_difference


def test_interval_worked_by_hand() -> None:
    # 1, 2, 3, 4: mean 2.5, s² = 5/3, s/√4 = 0.6454972; t(0.975, 3) = 3.1824463 (any printed table: 3.182).
    interval = mean_interval([1, 2, 3, 4])
    assert interval.mean == 2.5
    assert interval.half_width == pytest.approx(3.1824463 * 0.6454972, abs=1e-6)
    assert interval.low == pytest.approx(2.5 - 2.0542603, abs=1e-6)


@pytest.mark.parametrize("size", [2, 3, 5, 10, 40])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_interval_is_scipys(size: int, level: float) -> None:
    values = np.random.default_rng(size).normal(5, 0.1, size)
    expected = stats.ttest_1samp(values, 0).confidence_interval(level)
    mean, low, high = mean_interval(values, level)
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_paired_difference_is_scipys_paired_interval(size: int) -> None:
    generator = np.random.default_rng(size)
    baseline = generator.normal(5, 0.5, size)
    arm = baseline + generator.normal(-0.1, 0.02, size)
    expected = stats.ttest_rel(arm, baseline).confidence_interval(0.95)
    found = paired_difference(arm, baseline)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    # Pairing removes what the seeds share: unpaired, the same data would say much less.
    assert found.half_width < mean_interval(arm).half_width


def test_paired_difference_changes_sign_with_its_arguments() -> None:
    there, back = paired_difference([3, 1, 2], [1, 1, 1]), paired_difference([1, 1, 1], [3, 1, 2])
    assert back == pytest.approx((-there.mean, -there.high, -there.low))


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    # 4,000 draws: the standard error of the share is 0.0034, so 4 of them on either side.
    draws = np.random.default_rng(7).normal(2, 3, (4000, 3))
    covered = [interval.low <= 2 <= interval.high for interval in map(mean_interval, draws)]
    assert abs(np.mean(covered) - 0.95) < 0.014


def test_one_value_has_a_mean_and_no_interval() -> None:
    mean, low, high = mean_interval([5.25])
    assert mean == 5.25 and math.isnan(low) and math.isnan(high)


def test_no_value_has_nothing() -> None:
    assert all(math.isnan(part) for part in mean_interval([]))
    assert all(math.isnan(part) for part in paired_difference([], []))


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-1, 1, True), (0, 1, True), (0.1, 1, False), (-2, -1, False), (math.nan, math.nan, False)],
)
def test_includes_zero(low: float, high: float, expected: bool) -> None:
    assert Interval((low + high) / 2, low, high).includes_zero is expected


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=f"values: found {bad}; allowed: finite"):
        mean_interval([1, bad])


def test_shapes_and_levels_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        mean_interval([[1], [2]])
    with pytest.raises(ValueError, match=r"found shapes \(2,\) and \(3,\)"):
        paired_difference([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"level: found 95"):
        mean_interval([1, 2], 95)
