"""Error rates and power of the verdicts, on simulated sweeps of a baseline and five arms with known differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.analysis import simulation as audit
from harness.analysis.significance import holm, paired_t_p
from harness.analysis.simulation import ARMS, SPREAD, Check, Noise, simulate
from harness.analysis.statistics import detectable_effect
from harness.report.__main__ import app

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("seeds", "noise"), [(3, "normal"), (5, "t(3)")])
def test_reports_of_sweeps_without_a_difference_have_few_false_alarms(seeds: int, noise: Noise) -> None:
    alarms, naive = audit.false_alarms(60, seeds, noise, np.random.default_rng(11))
    assert alarms.at_most == pytest.approx(0.05 + 2 * math.sqrt(0.05 * 0.95 / 60)) and alarms.passed, alarms
    assert naive.found > 0.7  # in 5 of 6 sweeps another arm than the baseline has the lowest mean


def test_the_fast_path_gives_the_verdicts_of_the_report() -> None:
    generator = np.random.default_rng(12)
    for seeds, effect in ((2, 0.0), (5, 0.05), (8, -0.03)):
        losses = simulate(generator, 8, seeds, effect=effect)
        words = audit.judged(losses)
        assert words == audit.reported(losses)
        if effect:
            assert [sweep[0] for sweep in words].count("worse" if effect > 0 else "better") >= 6


def adjusted(losses: audit.Losses) -> np.ndarray:
    """Holm-adjusted p of every arm, shape (sweeps, ARMS), as used by the verdicts."""
    return holm(paired_t_p(losses[:, 1:] - losses[:, :1]))


@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
@pytest.mark.parametrize("noise", audit.NOISES)
def test_familywise_error_rate_over_many_sweeps(seeds: int, noise: Noise) -> None:
    losses = simulate(np.random.default_rng(seeds), 20_000, seeds, noise)
    alarms = (adjusted(losses) <= 0.05).any(axis=-1).mean()
    assert alarms <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 20_000)
    # Without Holm's correction the rate is higher, so the assertion above can fail.
    assert (paired_t_p(losses[:, 1:] - losses[:, :1]) <= 0.05).any(axis=-1).mean() > 2 * alarms


@pytest.mark.parametrize("seeds", [3, 5, 8, 12])
def test_the_detectable_effect_is_found(seeds: int) -> None:
    effect = detectable_effect(math.sqrt(2) * SPREAD, seeds, 0.05 / ARMS)
    generator = np.random.default_rng(seeds)
    found = (adjusted(simulate(generator, 20_000, seeds, effect=-effect))[:, 0] <= 0.05).mean()
    assert found >= 0.8 - 2 * math.sqrt(0.8 * 0.2 / 20_000)
    # Half of it is not found: the printed effect is not just an upper bound.
    assert (adjusted(simulate(generator, 20_000, seeds, effect=-effect / 2))[:, 0] <= 0.05).mean() < 0.5


def test_the_detectable_effect_is_found_by_the_verdicts() -> None:
    assert audit.power(400, 5, np.random.default_rng(13)).passed


@pytest.mark.parametrize("noise", audit.NOISES)
def test_a_difference_of_delta_is_rarely_called_no_difference(noise: Noise) -> None:
    assert audit.false_equivalence(300, 12, noise, np.random.default_rng(14)).passed
    # With this many seeds, most arms without a true difference get this verdict.
    words = audit.judged(simulate(np.random.default_rng(15), 50, 12, noise))
    assert np.mean([word == "no difference larger than δ" for sweep in words for word in sweep]) > 0.5


@pytest.mark.parametrize("seeds", audit.COVERED_SEEDS)
def test_intervals_have_their_nominal_coverage(seeds: int) -> None:
    check = audit.coverage(4000, seeds, "normal", np.random.default_rng(seeds))
    assert (check.at_least, check.at_most) == pytest.approx((0.93, 0.97)) and check.passed, check
    heavy = audit.coverage(2000, seeds, "t(3)", np.random.default_rng(seeds))
    assert 0.93 < heavy.found < 0.98  # no bound is set; heavy tails make the t interval somewhat wide


@pytest.mark.parametrize("noise", audit.NOISES)
def test_several_looks_have_as_few_false_alarms(noise: Noise) -> None:
    alarms, uncorrected = audit.adaptive_false_alarms(80, noise, np.random.default_rng(17))
    assert alarms.at_most == pytest.approx(0.05 + 2 * math.sqrt(0.05 * 0.95 / 80)) and alarms.passed, alarms
    assert uncorrected.found > alarms.found


def test_several_looks_at_the_full_level_have_too_many_false_alarms() -> None:
    _, uncorrected = audit.adaptive_false_alarms(120, "normal", np.random.default_rng(18))
    assert uncorrected.found > 0.05 + 2 * math.sqrt(0.05 * 0.95 / 120)


@pytest.mark.parametrize("noise", audit.SKEWED)
def test_skewed_noise_gives_few_false_alarms(noise: Noise) -> None:
    found, fixed, alone = audit.skewed_false_alarms(400, noise, np.random.default_rng(21))
    assert found.passed and found.at_most < 0.11, found
    assert alone.found >= found.found and math.isnan(fixed.at_most)
    if noise == "exponential arms":
        assert alone.found > 0.12 > found.found


def test_normal_noise_rarely_looks_skewed_enough_to_change_a_verdict() -> None:
    losses = simulate(np.random.default_rng(22), 600, 16, effect=-0.0131, arms=audit.SKEW_ARMS)
    rates = [
        np.mean([words[0] == "better" for words in audit.judged(losses, audit.SKEW_LOOKS, math.nan, method)])
        for method in ("2", "3")
    ]
    assert 0.7 < rates[0] < 0.9 and rates[0] - 0.02 <= rates[1] <= rates[0]


def test_power_and_coverage_with_several_looks() -> None:
    generator = np.random.default_rng(19)
    found, trained = audit.adaptive_power(300, generator)
    assert found.passed and 0.5 < trained.found < 1, (found, trained)
    held = audit.adaptive_coverage(2000, "normal", generator)
    assert held.at_least == pytest.approx(0.95 - 2 * math.sqrt(0.95 * 0.05 / 2000)) and held.passed, held


def test_the_fast_path_gives_the_verdicts_of_the_report_with_several_looks() -> None:
    losses = simulate(np.random.default_rng(20), 8, 12, effect=0.02)
    assert audit.judged(losses, audit.LOOKS) == audit.reported(losses, audit.LOOKS)


def test_skewed_noise_has_the_same_spread_and_no_effect() -> None:
    for noise in audit.SKEWED:
        losses = simulate(np.random.default_rng(23), 20_000, 4, noise, arms=2)
        own = losses - losses.mean(axis=1, keepdims=True)
        differences = losses[:, 1:] - losses[:, :1]
        assert abs(differences.mean()) < 2e-4
        assert differences.std() == pytest.approx(SPREAD * math.sqrt(2 if noise == "exponential" else 1), rel=0.05)
        assert (np.abs(own[:, 0]).max() > 0) and losses.shape == (20_000, 3, 4)


def test_both_noises_have_the_same_spread() -> None:
    for noise in audit.NOISES:
        losses = simulate(np.random.default_rng(16), 40_000, 3, noise, effect=0.5)
        own = losses[:, 2] - losses[:, 3]
        assert own.std() == pytest.approx(math.sqrt(2) * SPREAD, rel=0.05)
        assert (losses[:, 1] - losses[:, 2]).mean() == pytest.approx(0.5, abs=1e-3)
        assert losses[:, 0].std() > 4 * own.std() / math.sqrt(2)  # most of a run's loss is shared by its seed


def test_the_command_prints_the_checks_and_fails_if_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    few = list(audit.audit(10))
    assert len(few) == 2 * 2 * 2 + 3 * 3 + 2 + 3 + 2 * len(audit.COVERED_SEEDS) + 4 + 2 + 2
    passing = Check("an error rate", "normal", 3, 0.04, at_most=0.06)
    monkeypatch.setattr(audit, "audit", lambda: iter([passing]))
    done = CliRunner().invoke(app, ["audit"])
    assert done.exit_code == 0 and "4.0 %" in done.output and "≤ 6.0 %" in done.output and "ok" in done.output
    monkeypatch.setattr(audit, "audit", lambda: iter([passing, Check("another", "t(3)", 3, 0.07, at_most=0.06)]))
    done = CliRunner().invoke(app, ["audit"])
    assert done.exit_code == 1 and "FAILED" in done.output and "1 of 2 checks" in done.stderr
