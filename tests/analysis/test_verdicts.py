"""Verdicts with several looks, against values worked by hand and against single looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.analysis.verdicts import Verdict, judge, verdicts

LOOKS = (3, 6, 12)  # levels 0.0125, 0.0125 and 0.025
LARGE = [0.50, 0.51, 0.49]  # t = 0.5·√3/0.01 = 86.6 with 2 degrees of freedom: p = 0.000133
MIXED = [0.05, -0.02, 0.01]


def test_one_look_equals_no_looks() -> None:
    data = np.random.default_rng(0).normal(0.02, 0.03, (4, 5))
    assert judge(list(data), 0.02, looks=(5,)) == judge(list(data), 0.02)


def test_an_arm_is_decided_at_the_first_look_that_decides_it() -> None:
    later = [-9.0, 9.0, 4.0]  # would change the verdict if they counted
    (one,) = judge([[*LARGE, *later]], 0.02, looks=LOOKS)
    assert (one.verdict, one.pairs) == (Verdict.WORSE, 3)
    assert one.p == pytest.approx(2 * stats.t.sf(0.5 * math.sqrt(3) / 0.01, 2), rel=1e-9)
    assert one.p_holm == pytest.approx(one.p * 0.05 / 0.0125, rel=1e-9)  # in the unit of α
    low, high = stats.t.interval(1 - 0.0125, 2, 0.5, 0.01 / math.sqrt(3))
    assert (one.interval.mean, one.interval.low, one.interval.high) == pytest.approx((0.5, low, high), rel=1e-9)


def test_an_undecided_arm_is_tested_again_with_all_its_pairs() -> None:
    more = [0.5] * 6
    assert judge([MIXED], 0.02, looks=LOOKS)[0].verdict is Verdict.UNDECIDED
    values = [0.20, 0.25, 0.02, 0.22, 0.24, 0.21]
    at_three = judge([values[:3]], 0.02, looks=LOOKS, method="2")[0]
    at_six = judge([[*values, *more]], 0.02, looks=LOOKS, method="2")[0]
    assert (at_three.verdict, at_three.pairs) == (Verdict.UNDECIDED, 3)
    assert (at_six.verdict, at_six.pairs) == (Verdict.WORSE, 6)
    assert at_six.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-9)
    # One value far below the others: with the method that looks at skewness, the verdict waits for more seeds.
    waits = judge([[*values, *more]], 0.02, looks=LOOKS)[0]
    assert (waits.verdict, waits.pairs) == (Verdict.WORSE, 12)


def test_each_look_uses_its_own_level() -> None:
    # p = 0.02 of three pairs: enough at one look, not at the first of three, whose level is 0.0125.
    t = stats.t.isf(0.01, 2)
    values = np.array([-1.0, 0.0, 1.0]) + t / math.sqrt(3)
    assert judge([values], 0.02)[0].p == pytest.approx(0.02, rel=1e-9)
    assert judge([values], 0.02)[0].verdict is Verdict.WORSE
    first = judge([values], 0.02, looks=LOOKS)[0]
    assert first.verdict is Verdict.UNDECIDED and first.p_holm == pytest.approx(0.08, rel=1e-9)


def test_holm_continues_after_a_difference_found_at_an_earlier_look() -> None:
    # Two arms: the first is decided at once. At six seeds the other's p is compared with 0.0125, not with half of it.
    t = stats.t.isf(0.01 / 2, 5)
    second = np.array([-1.0, 1.0, 0.0, 0.5, -0.5, 0.0])
    second += t * second.std(ddof=1) / math.sqrt(6)
    first = [*LARGE, math.nan, math.nan, math.nan]
    together = judge([first, second], 0.02, looks=LOOKS)
    assert together[1].p == pytest.approx(0.01, rel=1e-9)
    assert [one.verdict for one in together] == [Verdict.WORSE, Verdict.WORSE]
    assert together[1].p_holm == pytest.approx(0.01 * 0.05 / 0.0125, rel=1e-9)
    undecided = [*MIXED, *MIXED]
    beside = judge([undecided, second], 0.02, looks=LOOKS)[1]
    assert beside.verdict is Verdict.UNDECIDED and beside.p_holm == pytest.approx(2 * 0.04, rel=1e-9)


def test_an_arm_that_does_not_differ_still_counts_as_a_comparison() -> None:
    t = stats.t.isf(0.01 / 2, 5)
    second = np.array([-1.0, 1.0, 0.0, 0.5, -0.5, 0.0])
    second += t * second.std(ddof=1) / math.sqrt(6)
    same = [0.0001, -0.0001, 0.0, math.nan, math.nan, math.nan]
    found = judge([same, second], 0.02, looks=LOOKS)
    assert found[0].verdict is Verdict.NO_DIFFERENCE and found[0].pairs == 3
    assert found[1].p_holm == pytest.approx(0.08, rel=1e-9)


def test_missing_pairs_are_left_out_and_other_seeds_stay_in_their_looks() -> None:
    values = [0.5, math.nan, -0.1, 0.1, 0.2, 0.3]
    (one,) = judge([values], 0.02, looks=LOOKS)
    assert (one.verdict, one.pairs) == (Verdict.UNDECIDED, 5)
    assert one.p == pytest.approx(stats.ttest_1samp([0.5, -0.1, 0.1, 0.2, 0.3], 0).pvalue, rel=1e-9)
    (none,) = judge([[math.nan] * 3], 0.02, looks=LOOKS)
    assert none.pairs == 0 and math.isnan(none.p_holm) and none.verdict is Verdict.UNDECIDED


def test_verdicts_equal_those_of_judge() -> None:
    data = np.random.default_rng(1).normal(0.015, 0.03, (40, 3, 12))
    for sweep in data:
        judged = judge(list(sweep), 0.02, looks=LOOKS)
        assert verdicts(list(sweep), 0.02, looks=LOOKS) == [(one.verdict, one.pairs) for one in judged]
