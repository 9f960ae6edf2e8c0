from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower

from harness.analysis.significance import holm, look_levels, paired_t_p, sign_flip_p, sign_flip_seeds
from harness.analysis.statistics import (
    Interval,
    detectable_effect,
    deviation_interval,
    effect_size,
    mean_interval,
    probability_better,
    seed_difference,
    seeds_to_detect,
    unpaired_detectable_effect,
)


def test_interval_worked_by_hand() -> None:
    # 1, 2, 3, 4: mean 2.5, s² = 5/3, s/√4 = 0.6454972; t(0.975, 3) = 3.1824463 (any printed table: 3.182).
    interval = mean_interval([1, 2, 3, 4])
    assert interval.mean == 2.5
    assert interval.half_width == pytest.approx(3.1824463 * 0.6454972, abs=1e-6)
    assert interval.low == pytest.approx(2.5 - 2.0542603, abs=1e-6)


@pytest.mark.parametrize("size", [2, 3, 5, 10, 40])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_interval_equals_scipy(size: int, level: float) -> None:
    values = np.random.default_rng(size).normal(5, 0.1, size)
    expected = stats.ttest_1samp(values, 0).confidence_interval(level)
    mean, low, high = mean_interval(values, level)
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_interval_of_differences_equals_scipys_paired_interval(size: int) -> None:
    generator = np.random.default_rng(size)
    baseline = generator.normal(5, 0.5, size)
    arm = baseline + generator.normal(-0.1, 0.02, size)
    expected = stats.ttest_rel(arm, baseline).confidence_interval(0.95)
    found = mean_interval(arm - baseline)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    # Pairing removes the part that runs with one seed share: an unpaired interval would be much wider.
    assert found.half_width < mean_interval(arm).half_width


def test_interval_has_its_nominal_coverage() -> None:
    # 4,000 draws: the standard error of the share is 0.0034; the tolerance is 4 of them.
    draws = np.random.default_rng(7).normal(2, 3, (4000, 3))
    covered = [interval.low <= 2 <= interval.high for interval in map(mean_interval, draws)]
    assert abs(np.mean(covered) - 0.95) < 0.014


def test_one_value_gives_a_mean_without_an_interval() -> None:
    mean, low, high = mean_interval([5.25])
    assert mean == 5.25 and math.isnan(low) and math.isnan(high)


def test_no_value_gives_nan() -> None:
    assert all(math.isnan(part) for part in mean_interval([]))


def test_equal_values_give_an_interval_of_width_zero() -> None:
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
    with pytest.raises(ValueError, match=r"level: found 95"):
        mean_interval([1, 2], 95)


# tests -----------------------------------------------------------------------------------------------------------


def test_t_test_worked_by_hand() -> None:
    # −1, −2, −3: mean −2, s = 1, t = −2·√3 = −3.4641 with 2 degrees of freedom, where F(t) = 1/2 + t/(2·√(2 + t²)).
    assert paired_t_p([-1, -2, -3]) == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-12)


def test_t_test_equals_scipy_along_the_last_axis() -> None:
    arm, baseline = np.random.default_rng(1).normal(size=(2, 4, 3, 6))
    found = paired_t_p(arm - baseline)
    assert found.shape == (4, 3)
    np.testing.assert_allclose(found, stats.ttest_rel(arm, baseline, axis=-1).pvalue, rtol=1e-10)


def test_t_test_with_equal_differences_or_too_few_pairs() -> None:
    assert paired_t_p([0.0, 0.0, 0.0]) == 1
    assert paired_t_p([0.5, 0.5]) == 0
    assert math.isnan(paired_t_p([0.5])) and math.isnan(paired_t_p([]))


def test_sign_flip_worked_by_hand() -> None:
    # Of the eight sums ±1 ±2 ±3 two are as far from 0 as 6, and all but the two zeros as far as 1 − 2 + 3 = 2.
    assert sign_flip_p([1, 2, 3]) == 2 / 8
    assert sign_flip_p([1, -2, 3]) == 6 / 8
    assert sign_flip_p([0, 0]) == 1
    assert math.isnan(sign_flip_p([1])) and math.isnan(sign_flip_p([]))


@pytest.mark.parametrize("size", [2, 3, 5, 8, 11])
@pytest.mark.parametrize("decimals", [1, 12])  # with one decimal many patterns are tied
def test_sign_flip_equals_scipys_permutation_test(size: int, decimals: int) -> None:
    values = np.random.default_rng(size).normal(0.4, 1, size).round(decimals)
    exact = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True, axis=-1
    )
    assert sign_flip_p(values) == pytest.approx(exact.pvalue, abs=1e-12)


def test_sign_flip_samples_patterns_for_many_pairs() -> None:
    values = np.random.default_rng(3).normal(0.35, 1, 20)
    patterns = 1 - 2 * ((np.arange(2**19)[:, None] >> np.arange(19)) & 1).astype(np.int8)  # the first sign stays fixed
    exact = np.mean(np.abs(values[0] + patterns @ values[1:]) >= abs(values.sum()) * (1 - 1e-12))
    found = sign_flip_p(values)
    assert 0.01 < exact < 0.5
    assert abs(found - exact) < 4 * math.sqrt(exact * (1 - exact) / 65_535)  # four standard errors
    assert found == sign_flip_p(values)
    assert sign_flip_p(np.ones(40)) == 1 / 65_536  # never 0


def test_sign_flip_seeds() -> None:
    assert [sign_flip_seeds(arms) for arms in (1, 3, 5, 10)] == [6, 7, 8, 9]
    for arms in range(1, 12):
        least = sign_flip_seeds(arms)
        smallest = [sign_flip_p(np.arange(1, n + 1)) for n in (least - 1, least)]
        assert arms * smallest[0] > 0.05 >= arms * smallest[1]


def test_holm_worked_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.9 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.9; the adjusted values never decrease.
    np.testing.assert_allclose(holm([0.03, 0.01, 0.9, 0.02]), [0.06, 0.04, 0.9, 0.06])


@pytest.mark.slow
def test_holm_equals_statsmodels() -> None:
    table = np.random.default_rng(5).uniform(0, 0.3, (12, 6)).round(2)
    expected = [multipletests(row, method="holm")[1] for row in table]
    np.testing.assert_allclose(holm(table), expected, rtol=1e-12)


def test_holm_counts_comparisons_that_could_not_be_made() -> None:
    found = holm([0.02, math.nan, 0.5])
    assert found[0] == pytest.approx(0.06) and math.isnan(found[1]) and found[2] == pytest.approx(1.0)


# sizes and seeds ---------------------------------------------------------------------------------------------------


def test_effect_size() -> None:
    assert effect_size([-1, -2, -3]) == -2
    assert effect_size([0, 0]) == 0 and effect_size([0.5, 0.5]) == math.inf and effect_size([-1, -1]) == -math.inf
    assert math.isnan(effect_size([1]))


def test_probability_better_counts_ties_half() -> None:
    assert probability_better([-1, -2, 0, 3]) == (2 + 0.5) / 4
    assert probability_better([-1]) == 1 and math.isnan(probability_better([]))


@pytest.mark.parametrize("pairs", [2, 3, 5, 12, 30, 500])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_detectable_effect_has_its_nominal_power(pairs: int, alpha: float) -> None:
    effect = detectable_effect(0.3, pairs, alpha)
    quantile = stats.t.ppf(1 - alpha / 2, pairs - 1)
    power = stats.nct.sf(quantile, pairs - 1, effect / 0.3 * math.sqrt(pairs))
    assert power == pytest.approx(0.8, abs=1e-4)


def test_detectable_effect_approaches_the_normal_formula_for_many_pairs() -> None:
    # z(0.975) + z(0.8) = 1.959964 + 0.841621
    assert detectable_effect(1, 1_000_000, 0.05) == pytest.approx(2.801585 / 1000, rel=1e-5)
    assert detectable_effect(0, 5, 0.05) == 0 and math.isnan(detectable_effect(1, 1, 0.05))


@pytest.mark.parametrize(("effect", "alpha"), [(5.0, 0.05), (1.0, 0.05), (0.5, 0.01), (0.05, 0.05)])
def test_seeds_to_detect_are_the_fewest(effect: float, alpha: float) -> None:
    seeds = int(seeds_to_detect(effect, 1, alpha))
    assert detectable_effect(1, seeds, alpha) <= effect
    assert seeds == 2 or detectable_effect(1, seeds - 1, alpha) > effect


def test_seeds_to_detect_edge_cases() -> None:
    assert seeds_to_detect(1, 1, 0.05) == 10  # Cohen's table for d = 1, power 0.8: 10 pairs
    assert seeds_to_detect(1, 0, 0.05) == 2 and seeds_to_detect(1e-9, 1, 0.05) == math.inf
    assert math.isnan(seeds_to_detect(1, math.nan, 0.05)) and math.isnan(seeds_to_detect(math.nan, 1, 0.05))


# the spread over seeds ---------------------------------------------------------------------------------------------


def test_deviation_worked_by_hand() -> None:
    # 1, 2, 3, 4: s² = 5/3. Printed tables of χ² with 3 degrees of freedom: 0.216 at 2.5 %, 9.348 at 97.5 %.
    found = deviation_interval([1, 2, 3, 4])
    assert found.mean == pytest.approx(math.sqrt(5 / 3), rel=1e-12)
    assert found.low == pytest.approx(math.sqrt(5 / 9.3484036), rel=1e-7)
    assert found.high == pytest.approx(math.sqrt(5 / 0.2157953), rel=1e-6)


@pytest.mark.parametrize("size", [2, 3, 8, 40])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_deviation_interval_equals_scipys_chi_square(size: int, level: float) -> None:
    values = np.random.default_rng(size).normal(5, 0.1, size)
    found = deviation_interval(values, level)
    ends = stats.chi2.interval(level, size - 1)
    assert (found.high, found.low) == pytest.approx(np.sqrt((size - 1) * values.var(ddof=1) / ends), rel=1e-10)


def test_deviation_edge_cases() -> None:
    assert all(math.isnan(part) for part in (*deviation_interval([5.2]), *deviation_interval([])))
    assert deviation_interval([0.1] * 3) == (0, 0, 0)  # whose mean is not quite 0.1
    with pytest.raises(ValueError, match="values: found inf"):
        deviation_interval([1, math.inf])


def test_seed_difference_worked_by_hand() -> None:
    # t(0.975, 3) = 3.1824463, times √2.
    assert seed_difference(0.5, 4) == pytest.approx(0.5 * 3.1824463 * 1.4142136, rel=1e-7)
    assert seed_difference(2, 9, 0.8) == pytest.approx(2 * math.sqrt(2) * stats.t.ppf(0.9, 8), rel=1e-12)
    assert math.isnan(seed_difference(0.5, 1))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_deviation_interval_and_prediction_bound_have_their_nominal_coverage(size: int) -> None:
    # 40,000 draws: the standard error of the share is 0.0011; the tolerance is 4 of them.
    draws = np.random.default_rng(size).normal(5, 0.03, (40_000, size + 2))
    spread = draws[:, :size].std(axis=1, ddof=1)
    new = np.abs(draws[:, size] - draws[:, size + 1])
    assert abs(np.mean(new < seed_difference(1, size) * spread) - 0.95) < 0.0044
    unit = deviation_interval(draws[0, :size])  # its ends are multiples of s that only depend on n
    low, high = unit.low / unit.mean, unit.high / unit.mean
    assert abs(np.mean((low * spread < 0.03) & (high * spread > 0.03)) - 0.95) < 0.0044


@pytest.mark.parametrize("seeds", [2, 3, 5, 8, 12, 20, 100])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_unpaired_effect_equals_statsmodels(seeds: int, alpha: float) -> None:
    found = unpaired_detectable_effect(0.3, seeds, alpha)
    assert TTestIndPower().power(found / 0.3, seeds, alpha) == pytest.approx(0.8, abs=1e-5)
    if found < 3:  # its solver does not converge for effects of 10 standard deviations and more
        expected = TTestIndPower().solve_power(nobs1=seeds, alpha=alpha, power=0.8)
        assert found / 0.3 == pytest.approx(expected, abs=1e-4)
    freedom = 2 * seeds - 2
    power = stats.nct.sf(stats.t.ppf(1 - alpha / 2, freedom), freedom, found / 0.3 * math.sqrt(seeds / 2))
    assert power == pytest.approx(0.8, abs=1e-4)


def test_unpaired_effect_edge_cases() -> None:
    assert math.isnan(unpaired_detectable_effect(1, 1, 0.05)) and unpaired_detectable_effect(0, 3, 0.05) == 0
    # (z(0.975) + z(0.8))·√(2/n) = 2.801585·√(2/n)
    assert unpaired_detectable_effect(1, 500_000, 0.05) == pytest.approx(2.801585 * 0.002, rel=1e-5)


@pytest.mark.parametrize("effect", [2.0, 1.0, 0.5, 0.2])
def test_unpaired_seeds_equal_statsmodels(effect: float) -> None:
    found = seeds_to_detect(effect, 1, 0.05, detectable=unpaired_detectable_effect)
    assert found == math.ceil(TTestIndPower().solve_power(effect, alpha=0.05, power=0.8))
    assert found > seeds_to_detect(effect, 1, 0.05)


def test_unpaired_seeds_equal_cohens_table() -> None:
    # Cohen 1988, table 2.4.1, power 0.8, two-sided 0.05: d = 0.5 takes 64 a group, d = 0.8 takes 26.
    assert seeds_to_detect(0.5, 1, 0.05, detectable=unpaired_detectable_effect) == 64
    assert seeds_to_detect(0.8, 1, 0.05, detectable=unpaired_detectable_effect) == 26


def test_look_levels_worked_by_hand() -> None:
    assert look_levels((3, 6, 12)) == pytest.approx((0.0125, 0.0125, 0.025))
    assert look_levels((4,)) == (0.05,)
    for looks in ((2, 4, 8, 11), (3, 4)):
        assert sum(look_levels(looks, 0.01)) == pytest.approx(0.01)
