from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import example_sweep as example
from harness.analysis.comparison import compare, intervals
from harness.core import metrics
from harness.report.assemble import assemble
from harness.report.figures.by_position import losses_by_position, octaves
from harness.report.tables.comparison import comparison_lines
from harness.report.write import write_files

FIRST, SECOND = example.ARMS


def test_octaves_are_means_over_bins_of_doubling_width() -> None:
    assert octaves(np.array([8.0])).tolist() == [8.0]
    assert octaves(np.array([8.0, 6.0, 5.0, 3.0, 2.0])).tolist() == [8.0, 6.0, 4.0, 2.0]
    losses = np.arange(64.0)
    found = octaves(losses)
    weights = [1, 1, 2, 4, 8, 16, 32]
    assert np.average(found, weights=weights) == pytest.approx(losses.mean())


def positions(runs: pd.DataFrame, lengths: dict[str, int]) -> pd.DataFrame:
    rows = [
        {"run_id": run["run_id"], "arm": run["arm"], "position": i, "loss": 9 - np.log2(i + 1)}
        for _, run in runs.iterrows()
        for i in range(1, lengths[run["arm"]] + 1)
    ]
    return pd.DataFrame(rows)


def test_the_figure_has_every_arm_and_only_verdict_runs() -> None:
    runs = example.frame(example.confirm_runs())
    drawn = losses_by_position(example.evidence(example.record(), runs, None, positions(runs, {FIRST: 16, SECOND: 64})))
    assert drawn is not None
    assert FIRST in drawn.inline and SECOND in drawn.inline
    assert "tokens of context in the window" in drawn.inline
    explored = example.frame(example.explore_runs())
    found = positions(explored, {FIRST: 16, SECOND: 16})
    assert losses_by_position(example.evidence(example.record(), explored, None, found)) is None
    assert losses_by_position(example.evidence(example.record(), runs)) is None


def test_the_table_shows_the_common_context_loss_where_it_was_scored() -> None:
    runs = example.frame(example.confirm_runs())
    assert not any("Common context" in line for line in comparison_lines(compare(runs, SECOND)))
    runs[metrics.VAL_COMMON_LOSS] = runs["val/loss"] - 1
    found = compare(runs, SECOND)
    for common, plain in zip(intervals(found, "common_context"), intervals(found), strict=True):
        assert common == pytest.approx([value - 1 for value in plain])
    headings, *rows = comparison_lines(found)
    shown = {row[0]: row[headings.index("Common context")] for row in rows}
    assert shown[str(found["arm"][0])].startswith(f"{found['mean'][0] - 1:.2f}"[:3])


@pytest.mark.slow
def test_the_figure_is_on_the_page_and_in_the_markdown(tmp_path: Path) -> None:
    runs, record = example.frame(example.confirm_runs()), example.record()
    found = positions(runs, {FIRST: 16, SECOND: 64})
    content = assemble(example.evidence(record, runs, example.curves_of(runs), found), example.samples_of, "mlflow ui")
    files = write_files(content, example.curves_of(runs), tmp_path)
    assert 'id="figure-loss-by-position"' in files.html.read_text("utf-8")
    assert "figures/loss-by-position.svg" in files.markdown.read_text("utf-8")
    assert (tmp_path / "figures" / "loss-by-position.svg").is_file()
    without = assemble(example.evidence(record, runs, example.curves_of(runs)), example.samples_of, "mlflow ui")
    assert "loss-by-position" not in [drawing.name for drawing in without.figures]
