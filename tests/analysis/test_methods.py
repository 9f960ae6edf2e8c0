"""The tests that plans name: differences that look skewed wait for more seeds, and old plans keep their test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

import example_sweep as example
from harness.analysis.comparison import comparability
from harness.analysis.evidence import read_evidence
from harness.analysis.methods import METHODS, skewness_checked_t_test, t_test
from harness.analysis.plan import METHOD_VERSION, TESTS, known_version
from harness.analysis.rule import rule_of
from harness.analysis.significance import paired_t_p, pooled_skewness, skewness_adjusted_t_p, skewness_error
from harness.analysis.verdicts import Verdict, judge
from harness.report import compare
from harness.report.text.answer import answer

ARM, BASELINE = "drop_rate=0.0", "drop_rate=0.1"
DROPOUT = [0.1591, 0.1127, 0.1339, 0.1558]  # the differences of experiments/dropout.yaml
# Small values and one far above: a long tail to the right, and a mean to the left of 0.
SKEWED = np.array([-0.30, -0.29, -0.31, -0.28, -0.30, -0.27, 0.05, -0.29])


def test_skewness_of_one_sample_is_scipys() -> None:
    values = np.random.default_rng(1).exponential(size=9)
    assert pooled_skewness([values]) == pytest.approx(stats.skew(values), rel=1e-12)


def test_skewness_of_several_samples_is_about_their_own_means() -> None:
    one, other = np.array([0.0, 0.0, 3.0]), np.array([10.0, 10.0, 10.0, 14.0])
    deviations = np.array([-1, -1, 2, -1, -1, -1, 3])
    wanted = np.mean(deviations**3) / np.mean(deviations**2) ** 1.5
    assert pooled_skewness([one, other, np.array([1.0, 5.0]), np.empty(0)]) == pytest.approx(wanted)
    assert pooled_skewness([]) == pooled_skewness([np.full(4, 0.1)]) == 0


@pytest.mark.parametrize("n", [3, 4, 16])
def test_standard_error_of_the_skewness(n: int) -> None:
    drawn = stats.skew(np.random.default_rng(n).normal(size=(40_000, n)), axis=-1)
    assert skewness_error(n) == pytest.approx(drawn.std(), rel=0.02)


@pytest.mark.parametrize("arms", [2, 5])
def test_standard_error_of_the_skewness_pooled_over_arms(arms: int) -> None:
    noise = np.random.default_rng(arms).normal(size=(4000, 1 + arms, 16))
    pooled = [pooled_skewness(list(differences)) for differences in noise[:, 1:] - noise[:, :1]]
    assert skewness_error(16, arms) == pytest.approx(np.std(pooled), rel=0.1)


def test_the_adjusted_test_is_halls() -> None:
    # w = −1 and γ = 0.6: T = √4 · (−1 + 0.2 − 0.36/27 + 0.6/24).
    values = np.array([-2.0, 0.0, 0.0, -2.0])
    values = (values + 1) / values.std(ddof=1) - 1
    t = 2 * (-1 + 0.2 - 0.36 / 27 + 0.025)
    assert skewness_adjusted_t_p(values, 0.6) == pytest.approx(2 * stats.t.sf(abs(t), 3), rel=1e-9)
    assert skewness_adjusted_t_p(values, 0.0) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-9)
    assert skewness_adjusted_t_p([0.25, 0.25, 0.25], 0.5) == 0 and math.isnan(skewness_adjusted_t_p([1.0], 0.5))


def test_only_a_mean_away_from_the_long_tail_is_adjusted() -> None:
    plain = float(paired_t_p(SKEWED))
    (away,) = skewness_checked_t_test([SKEWED], False)
    assert away == pytest.approx(skewness_adjusted_t_p(SKEWED, stats.skew(SKEWED))) and away > 3 * plain
    shifted = SKEWED + 0.7  # the same noise, and a mean on the side of its tail
    assert skewness_checked_t_test([shifted], False)[0] == float(paired_t_p(shifted))
    assert (skewness_checked_t_test([-SKEWED], True) == skewness_checked_t_test([SKEWED], True)).all()


def test_the_last_look_needs_clearer_skewness() -> None:
    assert 0.8 * skewness_error(4) < stats.skew([-1.2, -1.0, -1.1, -0.7]) < 1.8 * skewness_error(4)
    early, last = (skewness_checked_t_test([np.array([-1.2, -1.0, -1.1, -0.7])], look)[0] for look in (False, True))
    assert early > last == pytest.approx(stats.ttest_1samp([-1.2, -1.0, -1.1, -0.7], 0).pvalue, rel=1e-9)


def test_skewness_is_seen_in_the_other_arms() -> None:
    """An arm that is found by mistake has small values only; the long tail is in the arms beside it."""
    quiet = np.array([-0.36, -0.24, -0.33, -0.27])
    loud = np.array([-0.3, -0.3, -0.25, 1.4])
    assert skewness_checked_t_test([quiet], False)[0] == float(paired_t_p(quiet))
    assert skewness_checked_t_test([quiet, loud], False)[0] > float(paired_t_p(quiet))
    assert math.isnan(skewness_checked_t_test([np.array([0.1]), loud], False)[0])


def test_a_verdict_waits_where_differences_look_skewed() -> None:
    values = np.array([-0.12, -0.10, -0.11, -0.07])
    waits, before = (judge([values], 0.001, looks=(4, 16), method=method)[0] for method in ("3", "2"))
    assert (waits.verdict, waits.t_verdict, before.verdict) == (Verdict.UNDECIDED, Verdict.BETTER, Verdict.BETTER)
    assert waits.p == before.p < waits.tested_p and waits.skewness == pytest.approx(stats.skew(values))
    assert before.tested_p == before.p and before.t_verdict is before.verdict
    assert judge([values], 0.001)[0].verdict is Verdict.BETTER  # at the only look it is not skewed enough
    clear = judge([np.array([-0.122, -0.12, -0.121, -0.1])], 0.001, looks=(4, 16))[0]
    assert (clear.verdict, clear.pairs) == (Verdict.BETTER, 4)  # as skewed, but far too large to come from the noise


def test_the_numbers_of_the_readme_do_not_change() -> None:
    for looks in (None, (4, 8, 12)):
        one, old = (judge([DROPOUT], 0.02, looks=looks, method=method)[0] for method in ("3", "2"))
        assert (one.verdict, one.pairs, one.p_holm) == (Verdict.WORSE, 4, old.p_holm)


def test_a_sweep_is_judged_by_the_method_of_its_first_plan() -> None:
    assert METHOD_VERSION in METHODS and list(METHODS) == list(TESTS)
    assert [known_version(version) for version in ("2", "3", "1", "99", None)] == ["2", "3", *[METHOD_VERSION] * 3]
    losses = {seed: 5 + value for seed, value in enumerate([-0.12, -0.10, -0.11, -0.07], 2)}
    runs = example.frame(example.confirm_runs({ARM: losses, BASELINE: dict.fromkeys(losses, 5.0)}))
    study = {"seeds": 16, "looks": [4, 16], "delta": 0.001, "trials": 0}
    found = {}
    for version in ("2", "3"):
        record = example.record(study=study, first_plan={"method": version})
        assert rule_of(record).method == version
        found[version] = read_evidence(record, runs).comparison.set_index("arm").loc[ARM]
    assert (found["2"]["verdict"], found["3"]["verdict"]) == ("better", "undecided")
    table = compare(runs, BASELINE, delta=0.001, looks=(4, 16))
    words = str(answer(table, comparability(runs)))
    assert "skewness-adjusted t test, adjusted p" in words
    assert f"By the paired t test alone {ARM} would be better. But the differences look skewed" in words
    assert "skewed" not in str(answer(compare(runs, BASELINE, delta=0.001, method="2"), comparability(runs)))


def test_methods_get_all_arms_at_once() -> None:
    arms = [np.array([0.1, 0.2, 0.15]), np.array([0.3]), np.empty(0)]
    for method in METHODS.values():
        p = method(arms, True)
        assert p.shape == (3,) and p[0] == float(paired_t_p(arms[0])) and np.isnan(p[1:]).all()
    assert (t_test([], True)).shape == (0,)
