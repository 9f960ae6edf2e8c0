from __future__ import annotations

import math

import pandas as pd
import pytest

import example_sweep as example
from harness.report import compare, comparison_lines, formats
from harness.report.comparison import answer, common_ground, verdict_runs
from harness.report.tables import Cell, Column, Row, Table, answer_table, best_table, latex_table, trials_table

ARM, BASELINE = example.LOSSES


def compared(runs: pd.DataFrame, baseline: str | None = BASELINE, **options: object) -> pd.DataFrame:
    return compare(runs, baseline, **options).set_index("arm")  # type: ignore[arg-type]


def test_comparison_worked_by_hand() -> None:
    # Losses 5.2, 5.4, 5.6 against 5.1, 5.1, 5.3: differences 0.1, 0.3, 0.3 with mean 0.7/3 and s/√3 = 1/15.
    # t(0.975, 2) = 4.3026527.
    table = compared(example.frame(example.confirm_runs()))
    row = table.loc[ARM]
    assert row["seeds"] == row["pairs"] == row["test_seeds"] == 3
    assert row["mean"] == pytest.approx(5.4)
    assert row["high"] - row["mean"] == pytest.approx(4.3026527 * 0.2 / math.sqrt(3), rel=1e-6)
    assert row["difference"] == pytest.approx(0.7 / 3)
    assert row["difference_low"] == pytest.approx(0.7 / 3 - 4.3026527 / 15, rel=1e-6)
    assert row["difference_high"] == pytest.approx(0.7 / 3 + 4.3026527 / 15, rel=1e-6)
    assert row["perplexity"] == pytest.approx(math.exp(5.4))
    assert row["bits_per_byte"] == pytest.approx(1.8)
    assert row["test_mean"] == pytest.approx(5.65)
    assert row["tokens"] == 8192 and row["seconds"] == 61.5
    assert row["run_ids"].split() == [f"0000006{digit}" + "f" * 24 for digit in "678"]
    assert table.loc[BASELINE, "pairs"] == 0 and math.isnan(table.loc[BASELINE, "difference"])
    assert list(table["is_baseline"]) == [False, True]


def test_only_complete_confirm_runs_count() -> None:
    confirmed = example.confirm_runs()
    alone = compare(example.frame(confirmed), BASELINE)
    others = [
        example.run(900, ARM, {}, seed=2, outcome=outcome, loss=0.5)
        for outcome in ("pruned", "diverged", "oom", "failed", "interrupted", None)
    ]
    superseded = example.run(950, ARM, {}, seed=2, phase="superseded", loss=0.4)
    with_others = compare(example.frame([*confirmed, *example.explore_runs(), *others, superseded]), BASELINE)
    pd.testing.assert_frame_equal(alone, with_others)


def test_pairs_are_the_seeds_that_both_arms_have() -> None:
    row = compared(example.frame(example.confirm_runs({ARM: {2: 5.2, 3: 5.4}, BASELINE: {3: 5.1, 4: 9.9}}))).loc[ARM]
    assert row["pairs"] == 1 and row["seeds"] == 2
    assert row["difference"] == pytest.approx(0.3)
    assert math.isnan(row["difference_low"])


def test_the_newest_run_of_a_seed_counts() -> None:
    runs = example.frame([*example.confirm_runs(), example.run(999, ARM, {}, seed=2, loss=5.0)])
    assert len(verdict_runs(runs)) == 6
    assert compared(runs).loc[ARM, "mean"] == pytest.approx((5.0 + 5.4 + 5.6) / 3)


def test_missing_and_infinite_figures_are_left_out() -> None:
    runs = example.frame(example.confirm_runs()).drop(columns="test/loss")
    runs.loc[0, "val/loss"] = math.inf
    row = compared(runs).loc[ARM]
    assert row["seeds"] == 2 and row["pairs"] == 2 and row["test_seeds"] == 0
    assert math.isnan(row["test_mean"])


def test_an_arm_without_result_keeps_its_row() -> None:
    runs = example.frame([*example.confirm_runs({BASELINE: {2: 5.1}}), *example.explore_runs()])
    table = compare(runs, BASELINE, arms=[ARM, BASELINE])
    assert list(table["arm"]) == [ARM, BASELINE] and list(table["seeds"]) == [0, 1]
    assert f"{ARM}: no complete confirm run" in str(answer(table, common_ground(runs)))


def test_mistakes_are_named() -> None:
    runs = example.frame(example.confirm_runs())
    with pytest.raises(ValueError, match=r"baseline: found 'drop_rate=1'; allowed: drop_rate=0.0 \| drop_rate=0.1"):
        compare(runs, "drop_rate=1")
    with pytest.raises(ValueError, match="metric: found 'test/loss'"):
        compare(runs, BASELINE, "test/loss")
    with pytest.raises(ValueError, match="several sweeps"):
        compare(pd.concat([runs, runs.assign(sweep="other")]), BASELINE)


def tokenizer_runs(**other: object) -> pd.DataFrame:
    changes = {ARM: {"data.tokenizer": "byte", **other}, BASELINE: {}}
    return example.frame(
        [
            {**one, **changes[one["arm"]]}  # the parameter as the run has it
            for one in example.confirm_runs()
        ]
    )


def test_other_tokens_are_compared_by_bits_per_byte() -> None:
    runs = tokenizer_runs()
    ground = common_ground(runs)
    assert ground.ranked and ground.metric == "val/bits_per_byte" and "byte and gpt2" in ground.reason
    with pytest.raises(ValueError, match="predict different tokens"):
        compare(runs, BASELINE)
    table = compare(runs, BASELINE, ground.metric)
    assert table["difference"][0] == pytest.approx(0.7 / 9)
    assert "by validation bits per byte" in str(answer(table, ground))
    assert answer_table(table).lines()[0][2] == "Val bits per byte"


def test_other_texts_are_not_ranked() -> None:
    runs = tokenizer_runs(**{"data.corpus": "sotu-early"})
    ground = common_ground(runs)
    assert not ground.ranked and "data.corpus" in ground.reason
    for metric in ("val/loss", "val/bits_per_byte"):
        with pytest.raises(ValueError, match="different texts"):
            compare(runs, BASELINE, metric)
    words = str(answer(compare(runs, None, ground.metric), ground))
    assert "not ranked" in words and "higher" not in words and "lower" not in words


def test_same_data_compares_by_loss() -> None:
    assert common_ground(example.frame(example.confirm_runs())).reason == ""
    lost = example.run(700, ARM, {}, outcome="failed")
    lost |= dict.fromkeys([name for name in lost if name.startswith("data.")])  # failed before it knew its parameters
    assert common_ground(example.frame([*example.explore_runs(), lost])).reason == ""


def test_ground_is_known_before_there_is_a_result() -> None:
    runs = tokenizer_runs().assign(phase="explore")
    assert common_ground(runs).metric == "val/bits_per_byte"


def words_for(losses: dict[str, dict[int, float]], baseline: str | None = BASELINE) -> str:
    runs = example.frame(example.confirm_runs(losses))
    return str(answer(compare(runs, baseline), common_ground(runs)))


def test_answer_says_whether_the_interval_includes_zero() -> None:
    words = words_for(example.LOSSES)
    assert (
        f"{ARM} is 0.233 higher (95 % interval of the paired difference −0.054 to 0.520, 3 pairs, includes 0)" in words
    )
    clear = words_for({ARM: {2: 5.0, 3: 5.0, 4: 5.21}, BASELINE: {2: 5.1, 3: 5.1, 4: 5.3}})
    assert f"{ARM} is 0.097 lower" in clear and "does not include 0" in clear
    assert "significan" not in words + clear and "corrected" not in words


def test_answer_groups_many_arms() -> None:
    arms = {f"drop_rate=0.{place}": {2: 5 + place, 3: 5.1 + place, 4: 5.05 + place} for place in range(1, 6)}
    arms[BASELINE][4] = 6.07
    words = words_for(arms)
    assert "each of drop_rate=0.2, drop_rate=0.3, drop_rate=0.4 and drop_rate=0.5 is higher" in words
    assert "not corrected for 4 comparisons" in words


def test_answer_of_one_seed_one_arm_and_none() -> None:
    assert "on the one common seed, which has no interval" in words_for({ARM: {2: 5.2}, BASELINE: {2: 5.1}})
    alone = words_for({"all": {2: 5.25}}, None)
    assert "The validation loss is 5.2500. It is one seed" in alone and "nothing is compared" in alone
    runs = example.frame(example.explore_runs())
    assert "nothing is ranked" in str(answer(compare(runs, BASELINE), common_ground(runs)))
    no_base = example.frame([*example.confirm_runs({ARM: {2: 5.2}}), *example.explore_runs()])
    assert "baseline drop_rate=0.1 has no complete confirm run" in str(
        answer(compare(no_base, BASELINE), common_ground(no_base))
    )


def test_lines_for_the_terminal() -> None:
    lines = comparison_lines(compare(example.frame(example.confirm_runs()), BASELINE))
    assert lines == [
        ["Arm", "Seeds", "Val loss", "Δ to baseline", "Test loss", "Perplexity"],
        [ARM, "3", "5.400 ± 0.497", "+0.233 ± 0.287", "5.650 ± 0.497", "221.4"],
        [BASELINE, "3", "5.167 ± 0.287", "baseline", "5.417 ± 0.287", "175.3"],
    ]
    single = comparison_lines(compare(example.frame(example.confirm_runs({"all": {2: 5.25}}))))
    assert single[1] == ["all", "1", "5.2500 ± –", "5.5000 ± –", "190.6"]


def test_all_runs_are_listed_and_only_results_count_as_such() -> None:
    runs = example.frame([*example.explore_runs(), *example.confirm_runs()])
    table = trials_table(runs, list(example.TUNE))
    assert len(table.rows) == len(runs)
    labels = [column.label for column in table.columns]
    pruned = next(row for row in table.rows if row.cells[labels.index("Outcome")].text == "pruned")
    loss = pruned.cells[labels.index("Val loss")]
    assert not pruned.result and loss == Cell("(1.0000)", None)  # shown, but sorted and read as no result
    assert pruned.cells[labels.index("Reason")].text == "made up: pruned"
    assert [row.result for row in table.rows].count(True) == 4 + 6


def test_best_configuration_is_a_complete_trial() -> None:
    runs = example.frame(example.explore_runs())
    row = best_table(runs, [ARM], list(example.TUNE)).rows[0]
    assert [cell.text for cell in row.cells] == [ARM, "1e-3", "5.5000", "0", "not yet"]  # not the pruned 1.0


def test_best_configuration_is_the_confirmed_one() -> None:
    confirm = example.run(500, ARM, {"train.learning_rate": 5e-4}, seed=2, loss=5.4)
    row = best_table(example.frame([*example.explore_runs(), confirm]), [ARM, "gone"], list(example.TUNE)).rows
    assert [cell.text for cell in row[0].cells] == [ARM, "5e-4", "5.9000", "1", "yes"]
    assert {cell.text for cell in row[1].cells[1:]} == {"–"}


def test_latex_is_escaped() -> None:
    table = Table((Column("Arm_%", numeric=False), Column("n")), (Row((Cell(r"a&b\c{$x^2~#}"), Cell("−1 ± –"))),))
    lines = latex_table(table, "a question\n\\input{x}").splitlines()
    assert r"a\&b\textbackslash{}c\{\$x\textasciicircum{}2\textasciitilde{}\#\} & $-$1 $\pm$ -- \\" in lines
    assert r"Arm\_\% & n \\" in lines
    assert [line for line in lines if "input" in line] == [r"% a question \input{x}"]  # in a comment, on one line


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (8192, "8,192"),
        (400_000, "400 k"),
        (999_600, "1 M"),
        (6_540_000, "6.54 M"),
        (1.24e9, "1.24 G"),
        (math.nan, "–"),
    ],
)
def test_counts(value: float, text: str) -> None:
    assert formats.count(value) == text


@pytest.mark.parametrize(("value", "text"), [(8.25, "8.2 s"), (59.9, "60 s"), (62, "1 min 02 s"), (7320, "2 h 02 min")])
def test_durations(value: float, text: str) -> None:
    assert formats.duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.001, "1e-3"), (0.00123456, "1.23e-3"), (0.1, "0.1"), (0.30000000000000004, "0.3"), (1234.5, "1234"),
        (50257, "50257"), (True, "true"), (None, "null"), ("cosine", "cosine"), (("a.txt", "b.txt"), "a.txt, b.txt"),
        (-0.5, "−0.5"), (400_000.0, "400000"),
    ],
)  # fmt: skip
def test_settings(value: object, text: str) -> None:
    assert formats.setting(value) == text


def test_decimals_follow_the_narrowest_interval() -> None:
    assert formats.decimals_for([0.5, 0.013]) == 3
    assert formats.decimals_for([0.00042]) == 5
    assert formats.decimals_for([3.0]) == 3
    assert formats.decimals_for([math.nan, 0.0]) == 4


def test_numbers() -> None:
    assert formats.number(-0.5, 2) == "−0.50" and formats.signed(0.5, 1) == "+0.5" and formats.signed(-0.5, 1) == "−0.5"
    assert formats.number(math.nan, 3) == formats.signed(math.nan, 3) == "–"
    assert formats.number(-math.inf, 1) == "−∞"
    assert [formats.significant(value) for value in (221.406, 22026.5, 1.5, 0)] == ["221.4", "22026", "1.500", "0"]
