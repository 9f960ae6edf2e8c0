from __future__ import annotations

import math

import pandas as pd
import pytest

import example_sweep as example
from harness.report import compare, pivot
from harness.report.assemble import in_order
from harness.report.notebook import RunsFrame
from harness.report.tables.comparison import answer_table, evidence_table

ARM, BASELINE = example.LOSSES


def runs() -> pd.DataFrame:
    return example.frame([*example.explore_runs(), *example.confirm_runs()])


def texts(table: object) -> pd.DataFrame:
    columns, rows = table.columns, table.rows  # type: ignore[attr-defined]
    return pd.DataFrame([[cell.text for cell in row.cells] for row in rows], columns=[one.label for one in columns])


def test_pivot_has_a_row_per_arm_and_a_column_per_seed() -> None:
    wanted = pd.DataFrame(
        {2: [5.2, 5.1], 3: [5.4, 5.1], 4: [5.6, 5.3]}, index=pd.Index([ARM, BASELINE], name="arm")
    ).rename_axis(columns="seed")
    pd.testing.assert_frame_equal(pivot(runs()), wanted, check_index_type=False, check_column_type=False)
    pd.testing.assert_frame_equal(
        pivot(runs(), "test/loss"), wanted + 0.25, check_index_type=False, check_column_type=False
    )
    by_rate = pivot(runs(), columns="model.drop_rate")
    assert by_rate.loc[ARM, 0.0] == pytest.approx(5.4) and math.isnan(by_rate.loc[ARM, 0.1])
    both = pivot(runs(), index=["arm", "model.drop_rate"])
    assert both.loc[(BASELINE, 0.1), 4] == pytest.approx(5.3)


def test_pivot_of_a_search_uses_its_complete_trials() -> None:
    table = pivot(example.frame(example.explore_runs()), columns="trial_number")
    assert table.loc[ARM].tolist() == [5.5, 5.9]


def test_pivot_suggests_similar_columns() -> None:
    with pytest.raises(
        ValueError, match=r"found the column 'val_loss'; allowed: a column of the runs, such as .*val/loss"
    ):
        pivot(runs(), "val_loss")


def test_frames_display_as_short_tables() -> None:
    shown = RunsFrame(in_order(runs(), example.record()))._repr_html_()
    assert shown.count("<tr>") == 15 and "made up: diverged" in shown and "learning_rate" in shown
    assert "emb_dim" not in shown  # the same in every run
    compared = compare(runs(), BASELINE)
    html = compared._repr_html_()
    assert "5.400 ± 0.497" in html and "+0.233 ± 0.287" in html and "undecided" in html
    assert type(compared[compared["pairs"] > 0]) is pd.DataFrame  # parts of it are plain frames


def test_names_in_a_notebook_are_escaped() -> None:
    evil = "<script>alert(1)</script>"
    table = compare(example.frame(example.confirm_runs({evil: {2: 5.2, 3: 5.3}, BASELINE: {2: 5.1, 3: 5.3}})), BASELINE)
    assert "<script>" not in table._repr_html_() and "&lt;script&gt;" in table._repr_html_()


def test_the_tables_of_the_example() -> None:
    comparison = compare(runs(), BASELINE)
    answer = pd.DataFrame(
        {
            "Arm": [ARM, BASELINE],
            "Seeds": ["3", "3"],
            "Val loss": ["5.400 ± 0.497", "5.167 ± 0.287"],
            "Δ to baseline": ["+0.233 ± 0.287", "baseline"],
            "p (Holm)": ["0.0728", "–"],
            "Verdict": ["undecided", "–"],
            "Test loss": ["5.650 ± 0.497", "5.417 ± 0.287"],
            "Perplexity": ["221.4", "175.3"],
            "Bits/byte": ["1.8000", "1.7222"],
        }
    )
    pd.testing.assert_frame_equal(texts(answer_table(comparison)), answer)
    evidence = pd.DataFrame(
        {
            "Arm": [ARM],
            "Pairs": ["3"],
            "p": ["0.0728"],
            "p (Holm)": ["0.0728"],
            "Sign-flip p": ["0.25"],
            "d_z": ["2.02"],
            "P(better)": ["0.00"],
            "Detectable": ["0.38"],
            "Seeds for 0.02": ["264"],
        }
    )
    pd.testing.assert_frame_equal(texts(evidence_table(comparison)), evidence)
