"""A diverged confirm run is the worst result of its arm, in verdicts and in everything a report says about them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import example_sweep as example
from harness.analysis.comparison import comparability, undecided_arms
from harness.analysis.divergence import Pairs
from harness.analysis.verdicts import Verdict, judge
from harness.report import compare
from harness.report.combined import arms_table
from harness.report.tables.comparison import answer_table
from harness.report.text.answer import answer

ARM, BASELINE = "drop_rate=0.0", "drop_rate=0.1"
UNTRAINED = 10.8  # initial loss of the example's runs
LOST = math.inf  # marks a diverged run


def runs_of(arm: list[float], baseline: list[float], **changes: Any) -> pd.DataFrame:
    """Confirm runs on seeds 2, 3, …; an infinite loss is a run that diverged after it had measured 4.0."""
    rows = []
    for place, (name, losses) in enumerate({ARM: arm, BASELINE: baseline}.items()):
        for seed, loss in enumerate(losses, 2):
            outcome = "diverged" if math.isinf(loss) else "complete"
            row = example.run(100 * place + seed, name, {}, seed=seed, outcome=outcome, loss=min(loss, 4.0))
            row |= {"val/loss": loss, "val/bits_per_byte": loss / 3} if outcome == "complete" else {}
            rows.append({**row, **changes})
    return example.frame(rows)


def judged(arm: list[float], baseline: list[float], **options: Any) -> pd.Series:
    return compare(runs_of(arm, baseline), BASELINE, **options).set_index("arm").loc[ARM]


BASE = [5.10, 5.20, 5.15, 5.12]


@pytest.mark.parametrize("survivors", [[4.60, 4.70], [5.101, 5.199]])
def test_an_arm_that_diverges_on_half_its_seeds_is_never_better_or_equal(survivors: list[float]) -> None:
    kept = judged(survivors, BASE[:2])
    assert kept["verdict"] in ("better", "no difference larger than δ")
    assert judged([*survivors, LOST, LOST], BASE)["verdict"] == "undecided"


def test_differences_and_means_count_a_diverged_run_as_an_untrained_model() -> None:
    # Differences −0.5, −0.5, 10.8 − 5.15 and 10.8 − 5.12.
    table = compare(runs_of([4.6, 4.7, LOST, LOST], BASE), BASELINE).set_index("arm")
    row = table.loc[ARM]
    assert row["difference"] == pytest.approx((-0.5 - 0.5 + 5.65 + 5.68) / 4)
    assert row["mean"] == pytest.approx((4.6 + 4.7 + 2 * UNTRAINED) / 4) and row["mean"] > table.loc[BASELINE, "mean"]
    assert (row["seeds"], row["diverged"], row["pairs"]) == (2, 2, 4)
    assert row["perplexity"] == pytest.approx(math.exp(row["mean"]))
    assert row[["mde", "seeds_needed"]].isna().all()  # there is no seed noise to compute them from
    assert len(row["run_ids"].split()) == 2


def test_an_arm_that_diverges_on_every_seed_is_worse() -> None:
    row = judged([LOST] * 4, BASE)
    assert (row["verdict"], row["pairs"], row["seeds"], row["diverged"]) == ("worse", 4, 0, 4)
    assert row["p_holm"] == pytest.approx(2 / 4**4)  # not the p of four equal values without noise
    assert judged([LOST] * 2, BASE[:2])["verdict"] == "undecided"


def test_a_worse_arm_stays_worse_if_one_of_its_runs_diverges() -> None:
    worse = [loss + shift for loss, shift in zip(BASE, (0.30, 0.31, 0.29, 0.30), strict=True)]
    row = judged([*worse[:3], LOST], BASE)
    assert (row["verdict"], row["pairs"]) == ("worse", 3)
    assert row["p_holm"] == pytest.approx(stats.ttest_1samp([0.30, 0.31, 0.29], 0).pvalue, rel=1e-6)


@pytest.mark.parametrize("shift", [0.3, 0.0])
def test_against_a_baseline_that_diverged_no_arm_is_worse_or_equal(shift: float) -> None:
    noise = (0.001, -0.001, 0.002)
    arm = [loss + shift + step for loss, step in zip(BASE, noise, strict=False)]
    assert judged(arm, BASE[:3])["verdict"] in ("worse", "no difference larger than δ")
    assert judged([*arm, 5.4], [*BASE[:3], LOST])["verdict"] == "undecided"


def test_an_arm_may_be_better_than_a_baseline_that_diverged() -> None:
    assert judged([loss - 0.3 for loss in BASE], [*BASE[:2], BASE[2] + 0.01, LOST])["verdict"] == "better"
    assert judged(BASE, [LOST] * 4)["verdict"] == "better"


def test_nothing_decides_between_two_arms_that_both_diverged() -> None:
    row = judged([4.0, 4.1, 4.05, LOST], [LOST, 5.2, 5.15, 5.1])
    assert row["verdict"] == "undecided" and row["p_holm"] == 1
    same = judged([4.6, 4.7, 4.65, LOST], [5.1, 5.2, 5.15, LOST])
    assert same["verdict"] == "undecided" and same["difference"] == pytest.approx(-1.5 / 4)  # the last pair is a tie


def test_a_run_that_was_repeated_and_completed_has_not_diverged() -> None:
    runs = runs_of([5.1, 5.2], [5.1, 5.2])
    again = example.frame([example.run(900, ARM, {}, seed=2, outcome="diverged", loss=4.0)])
    pd.testing.assert_frame_equal(compare(pd.concat([runs, again]), BASELINE), compare(runs, BASELINE))


def test_a_diverged_run_is_no_better_than_its_partner() -> None:
    """A run whose final loss is above the initial one is finite, but no reason to call a diverged arm better."""
    row = judged([LOST] * 3, [40.0, 41.0, 40.5])
    assert row["difference"] == 0 and row["verdict"] == "undecided"


def test_without_an_initial_loss_a_diverged_run_still_rules_verdicts_out() -> None:
    for initial in (None, math.nan):
        runs = runs_of([4.6, 4.7, LOST], BASE[:3], initial_val_loss=initial)
        row = compare(runs, BASELINE).set_index("arm").loc[ARM]
        assert (row["verdict"], row["pairs"], row["diverged"]) == ("undecided", 2, 1)


def test_bits_per_byte_of_an_untrained_model() -> None:
    row = judged([4.6, 4.7, LOST], BASE[:3], metric="val/bits_per_byte")
    assert row["mean"] == pytest.approx((4.6 + 4.7 + UNTRAINED) / 9)
    assert row["verdict"] == "undecided"


def test_arms_that_diverged_get_more_seeds_while_they_can_be_decided() -> None:
    arms, looks = [ARM, BASELINE], (2, 4)
    for arm, baseline, wanted in (
        ([LOST, LOST], BASE[:2], [ARM]),
        ([LOST, 5.0], [5.1, LOST], []),
        ([5.0, 5.1], [LOST, 5.2], [ARM]),
    ):
        rows = runs_of(arm, baseline).to_dict("records")
        assert undecided_arms(rows, BASELINE, arms, 0.02, looks) == wanted


def test_a_decided_arm_is_not_undecided_by_later_divergence() -> None:
    better = [-0.50, -0.51, -0.49, 5.7]
    pairs = Pairs(np.array(better), np.array([False] * 3 + [True]), np.zeros(4, dtype=bool))
    (one,) = judge([pairs], 0.02, looks=(3, 4))
    assert (one.verdict, one.pairs) == (Verdict.BETTER, 3)


@given(st.lists(st.tuples(st.floats(-1, 1), st.booleans(), st.booleans()), min_size=1, max_size=12), st.booleans())
def test_verdicts_that_divergence_rules_out(rows: list[tuple[float, bool, bool]], several: bool) -> None:
    values, ours, theirs = (np.array(column) for column in zip(*rows, strict=True))
    values = np.where(ours & theirs, 0.0, values + 5.0 * ours - 5.0 * theirs)
    (one,) = judge([Pairs(values, ours, theirs)], 0.02, looks=(3, 6, 12) if several else None)
    n = 12 if one.verdict is Verdict.UNDECIDED or not several else min(k for k in (3, 6, 12) if k >= one.pairs)
    if ours[:n].any():
        assert one.verdict in (Verdict.WORSE, Verdict.UNDECIDED)
    if theirs[:n].any():
        assert one.verdict in (Verdict.BETTER, Verdict.UNDECIDED)


def test_simulated_arms_that_diverge_equally_often_are_rarely_called_different() -> None:
    generator = np.random.default_rng(31)
    for share in (0.1, 0.5):
        called = 0
        for _ in range(400):
            lost = generator.random((2, 4)) < share
            values = generator.normal(0, 0.01, 4) + 5.8 * lost[0] - 5.8 * lost[1]
            pairs = Pairs(np.where(lost[0] & lost[1], 0.0, values), lost[0], lost[1])
            called += judge([pairs], 0.02)[0].verdict in (Verdict.BETTER, Verdict.WORSE)
        assert called / 400 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


def test_the_answer_says_how_diverged_runs_count() -> None:
    runs = runs_of([4.6, 4.7, LOST, LOST], BASE)
    table = compare(runs, BASELINE)
    words = str(answer(table, comparability(runs)))
    assert f"{ARM} is undecided" in words
    assert f"2 of 4 runs of {ARM} diverged. A diverged run is the worst result of its arm" in words
    assert f"So {ARM} can only be worse or undecided." in words and "seeds per arm" not in words
    headings, *rows = answer_table(table).lines()
    assert [row[headings.index("Seeds")] for row in rows] == ["4", "2 + 2 diverged"]  # the lower loss first
    lost = runs_of(BASE, [LOST] * 4)
    words = str(answer(compare(lost, BASELINE), comparability(lost)))
    assert "lowers the validation loss by 5.6" in words and "no complete confirm run" not in words
    assert "Against a baseline with diverged runs, an arm can only be better or undecided." in words
    alone = str(answer(compare(runs[runs["arm"] == ARM]), comparability(runs)))
    assert "over 4 seeds" in alone and "2 of 4 runs" in alone and "undecided" not in alone


def test_an_arm_that_diverged_is_not_the_first_of_several_sweeps() -> None:
    table = compare(runs_of([4.6, 4.7, LOST, LOST], BASE), BASELINE).assign(sweep="dropout")
    assert [row.cells[1].text for row in arms_table(table).rows] == [BASELINE, ARM]
