from __future__ import annotations

import math

import pandas as pd
import pytest

import example_sweep as example
from harness.analysis.comparison import comparability, verdict_runs
from harness.report import compare, comparison_lines
from harness.report.page.latex import latex_table
from harness.report.tables.comparison import answer_table
from harness.report.tables.runs import best_table, trials_table
from harness.report.tables.table import Cell, Column, Row, Table
from harness.report.text import numbers as formats
from harness.report.text.answer import answer

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


def test_missing_and_infinite_values_are_left_out() -> None:
    runs = example.frame(example.confirm_runs()).drop(columns="test/loss")
    runs.loc[0, "val/loss"] = math.inf
    row = compared(runs).loc[ARM]
    assert row["seeds"] == 2 and row["pairs"] == 2 and row["test_seeds"] == 0
    assert math.isnan(row["test_mean"])


def test_an_arm_without_a_result_keeps_its_row() -> None:
    runs = example.frame([*example.confirm_runs({BASELINE: {2: 5.1}}), *example.explore_runs()])
    table = compare(runs, BASELINE, arms=[ARM, BASELINE])
    assert list(table["arm"]) == [ARM, BASELINE] and list(table["seeds"]) == [0, 1]
    assert f"{ARM}: no complete confirm run" in str(answer(table, comparability(runs)))


def test_errors_name_the_invalid_argument() -> None:
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


def test_arms_with_different_tokenizers_are_compared_by_bits_per_byte() -> None:
    runs = tokenizer_runs()
    ground = comparability(runs)
    assert ground.ranked and ground.metric == "val/bits_per_byte" and "byte and gpt2" in ground.reason
    with pytest.raises(ValueError, match="predict different tokens"):
        compare(runs, BASELINE)
    table = compare(runs, BASELINE, ground.metric)
    assert table["difference"][0] == pytest.approx(0.7 / 9)
    assert table["delta"][0] == pytest.approx(0.02 / 3)  # example runs have a third of a bit per byte for each nat
    words = str(answer(table, ground))
    assert "its validation bits per byte is" in words and "nats" not in words
    assert answer_table(table).lines()[0][3] == "Val bits per byte"


def test_arms_with_different_texts_are_not_ranked() -> None:
    runs = tokenizer_runs(**{"data.corpus": "sotu-early"})
    ground = comparability(runs)
    assert not ground.ranked and "data.corpus" in ground.reason
    for metric in ("val/loss", "val/bits_per_byte"):
        with pytest.raises(ValueError, match="different texts"):
            compare(runs, BASELINE, metric)
    words = str(answer(compare(runs, None, ground.metric), ground))
    assert "not ranked" in words and "higher" not in words and "lower" not in words


@pytest.mark.parametrize(
    ("fields", "ranked"),
    [
        ({"data.val_path": "v.txt", "data.test_path": "t.txt"}, True),
        ({"data.val_path": "v.txt", "data.split.test": 0.0}, True),
        ({"data.val_path": "v.txt", "data.split.test": 0.1}, False),  # the test text is cut from the training text
        ({"data.val_path": "v.txt", "data.test_path": None, "data.split.test": 0.1}, False),
        ({"data.test_path": "t.txt", "data.split.test": 0.0}, False),
    ],
)
def test_training_texts_are_compared_on_one_text_of_its_own(fields: dict[str, object], ranked: bool) -> None:
    runs = tokenizer_runs(**{"data.corpus": "sotu-early"}).assign(**fields)
    ground = comparability(runs)
    assert (ground.ranked, ground.metric) == (ranked, "val/bits_per_byte")
    if ranked:
        assert "trained on different texts (data.corpus differ) and scored on the same one" in ground.reason
        assert len(compare(runs, BASELINE, ground.metric)) > 1
        other = runs.assign(**{"data.separator": runs["data.corpus"]})  # which decides the validation text too
        assert not comparability(other).ranked


@pytest.mark.parametrize(
    ("field", "fields", "ground"),
    [
        ("code.weight", {}, ("val/loss", True)),  # the same validation targets
        ("code.path", {}, ("val/bits_per_byte", False)),
        (
            "code.path",
            {f"data.mix.{name}.val_path": "v.txt" for name in ("books", "code")},
            ("val/bits_per_byte", True),
        ),
        ("code.path", {"data.mix.code.val_path": "v.txt"}, ("val/bits_per_byte", False)),  # books are cut
    ],
)
def test_mixtures_of_other_weights_are_compared_by_loss_and_of_other_texts_not(
    field: str, fields: dict[str, object], ground: tuple[str, bool]
) -> None:
    runs = example.frame(example.confirm_runs()).drop(columns="data.corpus")
    mix = {"data.mix.books.path": "b", "data.mix.code.path": "c", "data.mix.code.weight": 1.0, "data.split.test": 0.0}
    runs = runs.assign(**mix, **fields)
    assert comparability(runs).metric == "val/loss"
    runs[f"data.mix.{field}"] = runs["arm"].map(dict(zip(runs["arm"].unique(), ("1", "2"), strict=True)))
    found = comparability(runs)
    assert (found.metric, found.ranked) == ground


def test_arms_with_the_same_data_are_compared_by_loss() -> None:
    assert comparability(example.frame(example.confirm_runs())).reason == ""
    lost = example.run(700, ARM, {}, outcome="failed")
    lost |= dict.fromkeys([name for name in lost if name.startswith("data.")])  # failed before it knew its parameters
    assert comparability(example.frame([*example.explore_runs(), lost])).reason == ""


def test_comparability_is_known_before_there_is_a_result() -> None:
    runs = tokenizer_runs().assign(phase="explore")
    assert comparability(runs).metric == "val/bits_per_byte"


def words_for(losses: dict[str, dict[int, float]], baseline: str | None = BASELINE) -> str:
    runs = example.frame(example.confirm_runs(losses))
    return str(answer(compare(runs, baseline), comparability(runs)))


def test_answer_gives_verdict_effect_interval_and_test() -> None:
    # Differences 0.1, 0.3, 0.3: t = 3.5 with 2 degrees of freedom, p = 1 − 3.5/√(2 + 3.5²) = 0.0728.
    words = words_for(example.LOSSES)
    # Their standard error is 0.2/3 = 0.067, so three decimals.
    assert words.startswith(
        f"{ARM} is undecided: its validation loss is 0.233 nats per token higher than that of {BASELINE} (95 % CI "
        "−0.054 to +0.520, 3 paired seeds, paired t test, p = 0.0728)."
    )
    assert "Undecided does not mean that arms are equal." in words and "normal seed noise" not in words
    clear = words_for({ARM: {2: 5.0, 3: 5.0, 4: 5.21}, BASELINE: {2: 5.1, 3: 5.1, 4: 5.3}})
    # Differences −0.1, −0.1, −0.09: mean −0.0967, standard error 0.01/3 = 0.0033, t(0.975, 2) = 4.3027.
    assert clear.startswith(
        f"{ARM} lowers the validation loss by 0.0967 nats per token against {BASELINE} (95 % CI 0.0823 to 0.1110, "
        "3 paired seeds, paired t test, p = 0.0012)."
    )
    assert (
        f"The verdict on {ARM} rests on normal seed noise; 3 more seeds would check it by the sign-flip test." in clear
    )
    assert "significan" not in words + clear and "comparisons" not in words + clear


def test_answer_prints_the_minimum_detectable_effect() -> None:
    # s = 0.2/√3, t(0.975, 2) = 4.3027; scipy.stats.nct gives the noncentrality 5.6535 for a power of 0.8.
    row = compared(example.frame(example.confirm_runs())).loc[ARM]
    assert row["mde"] == pytest.approx(5.65349 * 0.2 / math.sqrt(3) / math.sqrt(3), rel=1e-4)
    words = words_for(example.LOSSES)
    assert "The smallest true difference that 3 pairs of this spread find in 80 % of sweeps is 0.38." in words
    # (z(0.975) + z(0.8))²·(s/δ)² = 7.849·(0.11547/0.02)² = 261.6, and about two more for estimating s.
    assert row["seeds_needed"] == pytest.approx(261.6 + 2, abs=1)
    assert "It takes about 260 seeds per arm to find a difference of 0.02 in 80 % of sweeps." in words


def differing(*shifts: float, noise: tuple[float, ...] = (0.001, -0.001, 0.002)) -> dict[str, dict[int, float]]:
    """A baseline and one arm per shift, whose losses are that much higher, plus noise."""
    base = {seed: 5 + seed / 10 for seed in range(2, 2 + len(noise))}
    arms = {
        f"drop_rate=0.{place + 2}": {seed: base[seed] + shift + noise[(seed + place) % len(noise)] for seed in base}
        for place, shift in enumerate(shifts)
    }
    return {BASELINE: base, **arms}


def test_answer_corrects_for_the_number_of_arms() -> None:
    runs = example.frame(example.confirm_runs(differing(0.005, 0.005)))
    table = compare(runs, BASELINE)
    assert list(table["p_holm"][1:]) == pytest.approx([2 * table["p"][1:].min()] * 2, rel=1e-6)
    words = str(answer(table, comparability(runs)))
    assert words.count(" over 2 comparisons)") == 2
    alone = compare(runs, BASELINE, arms=[BASELINE, "drop_rate=0.2"]).iloc[1]
    assert alone["p_holm"] == alone["p"] == pytest.approx(table["p"][1])


def test_an_arm_without_a_result_counts_as_a_comparison() -> None:
    runs = example.frame([*example.confirm_runs(differing(0.05)), example.run(1, "late", {}, outcome="failed")])
    table = compared(runs)
    assert table.loc["drop_rate=0.2", "p_holm"] == pytest.approx(2 * table.loc["drop_rate=0.2", "p"])
    assert math.isnan(table.loc["late", "p_holm"]) and table.loc["late", "verdict"] == "undecided"


def test_of_many_arms_only_the_best_is_described() -> None:
    words = words_for(differing(1, -1, 0.0001, 2, noise=(0.001, -0.001, 0.002, -0.002, 0.0005, -0.0005)))
    assert words.startswith("drop_rate=0.3 lowers the validation loss by 1.0")
    assert "raises" not in words  # the table has the others
    assert "The verdicts on drop_rate=0.2, drop_rate=0.3 and drop_rate=0.5 rest on normal seed noise; 2 more seeds" in (
        words
    )
    assert "The verdict on drop_rate=0.4 rests on normal seed noise." in words


def test_no_difference_needs_the_interval_inside_delta() -> None:
    runs = example.frame(example.confirm_runs(differing(0.0, noise=(0.002, -0.002, 0.001, -0.001))))
    row = compared(runs).loc["drop_rate=0.2"]
    assert row["verdict"] == "no difference larger than δ" and row["delta"] == 0.02
    end = max(-row["difference_low"], row["difference_high"])  # with one comparison the verdict uses this interval
    assert compared(runs, delta=end * 1.01).loc["drop_rate=0.2", "verdict"] == "no difference larger than δ"
    assert compared(runs, delta=end * 0.99).loc["drop_rate=0.2", "verdict"] == "undecided"
    two = example.frame(example.confirm_runs(differing(0.0, 0.0, noise=(0.002, -0.002, 0.001, -0.001))))
    assert compared(two, delta=end * 1.01).loc["drop_rate=0.2", "verdict"] == "undecided"  # corrected for two
    assert "shows no difference larger than 0.02" in str(answer(compare(runs, BASELINE), comparability(runs)))


def test_a_significant_difference_may_be_smaller_than_delta() -> None:
    assert "raises the validation loss by 0.00567 nats per token" in words_for(differing(0.005))
    assert "smaller than δ = 0.02, the smallest difference that matters" in words_for(differing(0.005))
    assert "that matters" not in words_for(differing(0.05))


def test_answer_says_where_the_two_tests_disagree() -> None:
    # Seven equal signs out of seven: sign-flip p = 2/128. One far value among them spoils the t test.
    outlier = {BASELINE: dict.fromkeys(range(2, 9), 5.0)}
    outlier[ARM] = {seed: 5.0 + step for seed, step in zip(range(2, 9), [0.01] * 6 + [0.9], strict=True)}
    words = words_for(outlier)
    assert f"{ARM} is undecided" in words
    assert (
        f"The sign-flip test, which does not assume normal noise, finds a difference for {ARM} (p = 0.0156)." in words
    )
    # Six pairs, one of them slightly against the others: t test 0.04, sign-flip test 4 or more of 64.
    other = {BASELINE: dict.fromkeys(range(2, 8), 5.0)}
    other[ARM] = {seed: 5.0 + step for seed, step in zip(range(2, 8), (-0.2, 0.8, 1.0, 1.1, 0.9, 0.7), strict=True)}
    runs = example.frame(example.confirm_runs(other))
    table = compare(runs, BASELINE, method="2")
    row = table.set_index("arm").loc[ARM]
    assert row["p"] <= 0.05 < row["sign_flip_p"]
    words = str(answer(table, comparability(runs)))
    assert f"does not confirm the verdict on {ARM} (p = {row['sign_flip_p']:.4f})." in words
    # The newest method sees that these differences are skewed.
    words = words_for(other)
    assert f"{ARM} is undecided" in words and f"By the paired t test alone {ARM} would be worse. But" in words
    assert "skewness-adjusted t test, p" in words and "sign-flip" not in words


def test_answer_names_undecided_arms_with_enough_seeds_for_delta() -> None:
    noise = (0.016, -0.016, 0.012, -0.012, 0.02, -0.02, 0.008, -0.008)
    words = words_for(differing(0.01, noise=noise))
    assert "is undecided" in words and "had enough seeds to find a difference of 0.02" in words


def test_identical_arms_show_no_difference() -> None:
    losses = {2: 5.1, 3: 5.2, 4: 5.15}
    row = compared(example.frame(example.confirm_runs({ARM: losses, BASELINE: losses}))).loc[ARM]
    assert row["verdict"] == "no difference larger than δ" and row["p"] == 1 and row["probability_better"] == 0.5
    assert f"its validation loss is that of {BASELINE} on average (95 % CI" in words_for(
        {ARM: losses, BASELINE: losses}
    )


@pytest.mark.parametrize("delta", [0, -0.1, math.inf, math.nan])
def test_an_invalid_delta_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match=f"delta: found {delta}; allowed: a number of nats above 0"):
        compare(example.frame(example.confirm_runs()), BASELINE, delta=delta)


def test_answer_for_one_seed_one_arm_and_no_run() -> None:
    assert "on the one common seed, so there is no interval" in words_for({ARM: {2: 5.2}, BASELINE: {2: 5.1}})
    alone = words_for({"all": {2: 5.25}}, None)
    assert "The validation loss is 5.2500. With one seed" in alone and "arm" not in alone and "±" not in alone
    runs = example.frame(example.explore_runs())
    assert "nothing is ranked" in str(answer(compare(runs, BASELINE), comparability(runs)))
    no_base = example.frame([*example.confirm_runs({ARM: {2: 5.2}}), *example.explore_runs()])
    assert "baseline drop_rate=0.1 has no complete confirm run" in str(
        answer(compare(no_base, BASELINE), comparability(no_base))
    )


def test_comparison_as_lines_for_the_terminal() -> None:
    lines = comparison_lines(compare(example.frame(example.confirm_runs()), BASELINE))
    assert lines == [
        ["Arm", "Verdict", "Seeds", "Val loss", "Δ to baseline", "p", "Test loss"],
        [BASELINE, "baseline", "3", "5.167 ± 0.287", "–", "–", "5.417 ± 0.287"],
        [ARM, "undecided", "3", "5.400 ± 0.497", "+0.233 ± 0.287", "0.0728", "5.650 ± 0.497"],
    ]
    single = comparison_lines(compare(example.frame(example.confirm_runs({"all": {2: 5.25}}))))
    assert single[1] == ["1", "5.2500", "5.5000"]


def test_the_table_of_runs_lists_all_and_marks_those_without_a_result() -> None:
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
    row = best_table(example.evidence(example.record({ARM: {}}), runs), list(example.TUNE)).rows[0]
    assert [cell.text for cell in row.cells] == [ARM, "1e-3", "5.5000", "0", "not yet"]  # not the pruned 1.0


def test_best_configuration_is_the_confirmed_one() -> None:
    confirm = example.run(500, ARM, {"train.learning_rate": 5e-4}, seed=2, loss=5.4)
    runs = example.frame([*example.explore_runs(), confirm])
    row = best_table(example.evidence(example.record({ARM: {}, "gone": {}}), runs), list(example.TUNE)).rows
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


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0496, "0.0496"), (0.0504, "0.0504"), (0.00317, "0.0032"), (0.00009, "<0.0001"), (0.376, "0.38"), (1, "1.0")],
)
def test_probabilities(p: float, text: str) -> None:
    assert formats.probability(p) == text


def test_numbers() -> None:
    assert formats.number(-0.5, 2) == "−0.50" and formats.signed(0.5, 1) == "+0.5" and formats.signed(-0.5, 1) == "−0.5"
    assert formats.number(math.nan, 3) == formats.signed(math.nan, 3) == "–"
    assert formats.number(-math.inf, 1) == "−∞"
    assert [formats.significant(value) for value in (221.406, 22026.5, 1.5, 0)] == ["221.4", "22026", "1.500", "0"]


def test_the_sign_flip_test_is_corrected_for_several_looks_too() -> None:
    # Sixteen differences whose p is 0.043, by signs 0.045: enough for one look, not for the last of three (0.025).
    above = [25, 77, 62, 61, 106, -35, -6, -41, 20, 75, 24, 50, -71, 32, -20, 114]
    losses = {2 + place: 5 + value / 1000 for place, value in enumerate(above)}
    runs = example.frame(example.confirm_runs({ARM: losses, BASELINE: dict.fromkeys(losses, 5.0)}))
    once, several = compare(runs, BASELINE), compare(runs, BASELINE, looks=(4, 8, 16))
    first, last = once.set_index("arm").loc[ARM], several.set_index("arm").loc[ARM]
    assert (first["verdict"], last["verdict"], last["pairs"]) == ("worse", "undecided", 16)
    assert (first["alpha"], last["alpha"]) == pytest.approx((0.05, 0.025))
    assert last["p"] == first["p"] == first["p_holm"] and last["p_holm"] == pytest.approx(2 * first["p"])
    assert last["sign_flip_p"] == first["sign_flip_p"] < 0.05
    assert "sign-flip" not in str(answer(several, comparability(runs)))  # both tests leave it open
