from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import example_sweep as example
from harness.analysis.evidence import read_evidence
from harness.analysis.rule import attach_rules, attached_rule, rule_of
from harness.core.outcomes import Outcome
from harness.report import compare, load_runs, pivot
from harness.report.assemble import in_order
from harness.report.notebook import RunsFrame
from harness.report.tables.comparison import answer_table, evidence_table
from harness.tracking import SweepRecord, Tracker
from stored_runs import sweep_info, trial_info

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
            "Arm": [BASELINE, ARM],
            "Verdict": ["baseline", "undecided"],
            "Seeds": ["3", "3"],
            "Val loss": ["5.167 ± 0.287", "5.400 ± 0.497"],
            "Δ to baseline": ["–", "+0.233 ± 0.287"],
            "p": ["–", "0.0728"],
            "Test loss": ["5.417 ± 0.287", "5.650 ± 0.497"],
            "Perplexity": ["175.3", "221.4"],
            "Bits/byte": ["1.7222", "1.8000"],
        }
    )
    pd.testing.assert_frame_equal(texts(answer_table(comparison)), answer)
    evidence = pd.DataFrame(
        {
            "Arm": [ARM],
            "Pairs": ["3"],
            "p": ["0.0728"],
            "Sign-flip p": ["0.25"],
            "d_z": ["2.02"],
            "P(better)": ["0.00"],
            "Detectable": ["0.38"],
            "Seeds for 0.02": ["264"],
        }
    )
    pd.testing.assert_frame_equal(texts(evidence_table(comparison)), evidence)


def adaptive() -> tuple[SweepRecord, pd.DataFrame]:
    """A sweep in rounds whose verdict needs its own baseline, δ and looks, and its runs as `load_runs` returns them."""
    # Sixteen differences with p = 0.043: enough for one look, not for the last of three (0.025).
    above = [25, 77, 62, 61, 106, -35, -6, -41, 20, 75, 24, 50, -71, 32, -20, 114]
    losses = {2 + place: 5 + value / 1000 for place, value in enumerate(above)}
    record = example.record(study={"seeds": 16, "looks": [4, 8, 16], "delta": 0.01, "trials": 0})
    runs = example.frame(example.confirm_runs({ARM: losses, BASELINE: dict.fromkeys(losses, 5.0)}))
    attach_rules(runs, {record.run_id: rule_of(record)})
    return record, runs


def test_compare_gives_the_answer_of_the_report() -> None:
    record, runs = adaptive()
    wanted = read_evidence(record, runs).comparison
    pd.testing.assert_frame_equal(pd.DataFrame(compare(runs)), wanted)
    assert wanted.set_index("arm").loc[ARM, ["verdict", "delta", "alpha"]].tolist() == ["undecided", 0.01, 0.025]
    part = runs[runs["phase"] == "confirm"].sort_values("val/loss").assign(note="").copy()
    pd.testing.assert_frame_equal(compare(part)[["arm", "verdict"]], wanted[["arm", "verdict"]], check_frame_type=False)


def test_compare_takes_what_is_named_instead() -> None:
    _, runs = adaptive()
    once = compare(runs, looks=(), delta=0.05).set_index("arm").loc[ARM]
    assert (once["verdict"], once["delta"], once["alpha"]) == ("worse", 0.05, 0.05)
    swapped = compare(runs, baseline=ARM).set_index("arm")
    assert swapped.loc[ARM, "is_baseline"] and swapped.loc[BASELINE, "difference"] < 0
    bits = compare(runs, metric="val/bits_per_byte").set_index("arm").loc[ARM]
    assert bits["metric"] == "val/bits_per_byte" and bits["delta"] == pytest.approx(0.01 / 3)


def test_compare_chooses_the_metric_of_the_report() -> None:
    record, runs = adaptive()
    runs.loc[runs["arm"] == ARM, "data.tokenizer"] = "byte"
    pd.testing.assert_frame_equal(pd.DataFrame(compare(runs)), read_evidence(record, runs).comparison)
    runs.loc[runs["arm"] == ARM, "data.corpus"] = "sotu-early"  # not ranked
    table = compare(runs)
    pd.testing.assert_frame_equal(pd.DataFrame(table), read_evidence(record, runs).comparison)
    assert table["verdict"].isna().all()


def test_runs_from_elsewhere_are_compared_by_the_defaults() -> None:
    _, runs = adaptive()
    runs.attrs.clear()
    assert compare(runs)["verdict"].isna().all()
    assert compare(runs, BASELINE).set_index("arm").loc[ARM, "verdict"] == "worse"


@pytest.mark.slow
def test_stored_runs_bring_the_rule_of_each_sweep(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = Tracker("rules", uri)
    parents = []
    for digit, delta in (("1", 0.03), ("2", 0.04)):
        info = sweep_info("rules", digit * 64)
        parents.append(tracker.open_sweep(replace(info, study={**info.study, "delta": delta, "looks": [2, 4]})))
        tracker.end_run(tracker.start_run(parents[-1], trial_info(seed=11)), Outcome.COMPLETE)
    every = load_runs("rules", uri, "all")
    for parent, delta in zip(parents, (0.03, 0.04), strict=True):
        rule = attached_rule(every[every["sweep"] == parent])
        assert rule is not None and (rule.delta, rule.looks, rule.baseline) == (delta, (2, 4), "drop_rate=0.1")
    assert attached_rule(every) is None and attached_rule(load_runs("rules", uri)) == rule
    tracker = Tracker("more", uri)
    parent = tracker.open_sweep(sweep_info("more", "3" * 64))
    tracker.end_run(tracker.start_run(parent, trial_info(seed=12)), Outcome.COMPLETE)
    both = load_runs(["rules", "more"], uri)
    assert list(both["arm"]) == ["rules: drop_rate=0.0", "more: drop_rate=0.0"]
    assert list(compare(both)["arm"]) == ["rules: drop_rate=0.0", "more: drop_rate=0.0"]
    with pytest.raises(ValueError, match=r"^experiment: found \['rules', 'rules'\]; allowed: a name, or several"):
        load_runs(["rules", "rules"], uri)


def test_sweeps_are_compared_with_a_baseline_that_is_named() -> None:
    frames = [example.frame(example.confirm_runs({"x": losses})) for losses in ({2: 5.0, 3: 5.2}, {2: 5.1, 3: 5.3})]
    both = pd.concat([runs.assign(arm=name, sweep="a + b") for name, runs in zip("ab", frames, strict=True)])
    row = compare(both, baseline="a").set_index("arm").loc["b"]
    assert (row["pairs"], row["difference"]) == (2, pytest.approx(0.1))
    both.loc[both["arm"] == "b", "data.corpus"] = "sotu-early"
    with pytest.raises(ValueError, match="scored on different texts"):
        compare(both, baseline="a")
