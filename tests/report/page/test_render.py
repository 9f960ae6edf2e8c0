"""The order of the page, and what it says about many arms, factors and single runs."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

import example_sweep as example
from example_grid import DEEP, drawn, record_of, runs_of
from harness.analysis.labelled import with_labels
from harness.report.assemble import assemble
from harness.report.page.content import Content
from harness.report.page.render import _byline, render_html, render_markdown
from harness.tracking import SweepRecord


def content_of(record: SweepRecord, runs: pd.DataFrame) -> Content:
    shown, labels = with_labels(example.evidence(record, runs))
    return assemble(shown, example.samples_of, "python -m mlflow ui", labels=labels)


@pytest.fixture(scope="module")
def twelve() -> Content:
    """Twelve arms of three factors on four seeds; the highest dropout is worse."""
    effect = np.zeros((2, 3, 2, 1))
    effect[1] = 0.3
    record = record_of(DEEP, study={"trials": 0, "seeds": 4, "delta": 0.02})
    return content_of(record, runs_of(record, drawn(DEEP, 4, 5, 0.05) + effect))


def test_the_factors_come_before_the_arms(twelve: Content) -> None:
    page, text = render_html(twelve), render_markdown(twelve)
    assert page.index('id="factors"') < page.index("Comparison of the arms") < page.index('id="warnings"')
    assert text.index("## Effect of each factor") < text.index("## The arms") < text.index("| Arm | Verdict |")
    assert page.count('id="factors"') == 1 and "\\#" not in text


def test_the_arms_are_sorted_by_loss_with_the_verdict_second_and_the_baseline_marked(twelve: Content) -> None:
    table = twelve.answer_table
    assert [column.label for column in table.columns][:4] == ["Arm", "Verdict", "Seeds", "Val loss"]
    losses = [row.cells[3].value or 0.0 for row in table.rows]
    assert losses == sorted(losses) and len(losses) == 12
    assert [row.cells[0].text for row in table.rows if row.cells[1].text == "baseline"] == [twelve.record.baseline]
    labels = [row.cells[0].text for row in table.rows]
    assert len(set(labels)) == 12 and "drop 0.2 · lr 3e-3 · bias on" in labels


def test_the_answer_is_short_and_says_what_to_do_next(twelve: Content) -> None:
    assert len(str(twelve.answer)) < 1200  # twelve names of 30 characters in each sentence would be twice as long
    page = render_html(twelve)
    assert re.search(r"<b>Next:</b> To decide about the \d open arms, study\.seeds=", page)
    assert "drop is model.drop_rate, lr is train.learning_rate, bias is model.qkv_bias." in page


def test_equal_warnings_are_folded(twelve: Content) -> None:
    (few,) = (one for one in twelve.warnings if one.each)
    assert re.match(r"\d arms: too few seeds", few.text) and len(few.each) >= 3
    page, text = render_html(twelve), render_markdown(twelve)
    assert page.count("<summary>Each of them</summary>") == 1
    assert text.count("<details><summary>Each of them</summary>") == 1
    assert text.index("Each of them") < text.index("pairs could only detect")


def test_every_arm_has_a_colour_and_shape_of_its_own(twelve: Content) -> None:
    page = render_html(twelve)
    table = page[page.index("<caption>Comparison of the arms") :].split("</table>")[0]
    assert len(set(re.findall(r'class="swatch (c\d s\d)"', table))) == 12


def test_a_single_run_is_no_arm_and_has_no_interval() -> None:
    record = example.record({"all": {}}, study={"trials": 0, "seeds": 1})
    content = content_of(record, example.frame([example.run(1, "all", {}, seed=2, loss=5.2, test=5.4)]))
    text = render_markdown(content)
    answer = text[: text.index("## Training budget")]
    assert "5.2000" in answer and "±" not in answer and not re.search(r"\barms?\b", answer, re.IGNORECASE)
    assert not re.search(r"^\|.*\bArm\b", text, re.MULTILINE) and "selected" not in text


def test_the_head_has_date_machine_and_cost() -> None:
    runs = example.frame(example.confirm_runs())
    record = example.record(host="kiwi")
    assert _byline(record, runs)[-3:] == ["2025-03-01", "kiwi", "6 min 09 s of training on CPU"]  # 6 runs of 61.5 s
    assert _byline(record, runs.assign(device="cuda:0"))[-1].endswith(" on GPU")
    assert _byline(record, runs.drop(columns="seconds"))[-1] == "kiwi"
