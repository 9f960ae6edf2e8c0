"""Sweeps in a notebook: data frames that display as short tables, and `pivot` for one value per arm and seed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import pandas as pd

from harness import tracking
from harness.analysis import comparison
from harness.analysis.columns import constant, parameters
from harness.analysis.comparison import verdict_runs
from harness.core import metrics
from harness.core.text import listed
from harness.report.page.notebook_table import html_table
from harness.report.tables.comparison import answer_table
from harness.report.tables.runs import trials_table


class RunsFrame(pd.DataFrame):  # type: ignore[misc]
    """The frame of `load_runs`. A notebook displays its table of runs with only the parameters that vary."""

    def _repr_html_(self) -> str:
        varying = [path for path, values in parameters(self) if not constant(values)]
        return html_table(trials_table(self, varying))


def load_runs(experiment: str, uri: str | None = None, sweep: str | None = None) -> RunsFrame:
    """One row per trial of a sweep, oldest first; columns and arguments are those of `harness.tracking.load_runs`."""
    return RunsFrame(tracking.load_runs(experiment, uri, sweep))


def pivot(
    runs: pd.DataFrame, values: str = metrics.VAL_LOSS, index: str | list[str] = "arm", columns: str = "seed"
) -> pd.DataFrame:
    """One value of the runs behind the verdicts as a wide table, by default with a row per arm and a column per seed.

    Args:
        runs: as `load_runs` returns them. Uses the newest complete confirm run of each arm and seed; if there is none,
            every complete run.
        values: the column that fills the table, such as `val/loss`, `test/loss` or `seconds`.
        index: the column or columns whose values are the rows, in order of appearance.
        columns: the column whose values are the columns, sorted.

    Returns:
        A frame of floats: the mean if several runs share a cell, NaN if there is none.

    Raises:
        ValueError: the runs do not have such a column.
    """
    rows = [index] if isinstance(index, str) else list(index)
    for wanted in (values, *rows, columns):
        if wanted not in runs:
            near = difflib.get_close_matches(wanted, map(str, runs), 3, 0.4)
            raise ValueError(
                f"found the column {wanted!r}; allowed: a column of the runs, such as {listed(near or ['arm'])}"
            )
    chosen = verdict_runs(runs)
    if chosen.empty:
        chosen = runs[runs["outcome"] == "complete"]
    numbers = pd.to_numeric(chosen[values], errors="coerce").astype(float)
    order = runs[rows].drop_duplicates()
    keys = pd.MultiIndex.from_frame(order) if len(rows) > 1 else pd.Index(order[rows[0]], name=rows[0])
    table = chosen.assign(**{values: numbers}).pivot_table(values=values, index=rows, columns=columns, aggfunc="mean")
    return table.reindex(keys[keys.isin(table.index)])


class ComparisonFrame(pd.DataFrame):  # type: ignore[misc]
    """The frame of `compare`. A notebook displays its short table with intervals instead of all columns."""

    def _repr_html_(self) -> str:
        return html_table(answer_table(self))


def compare(
    runs: pd.DataFrame,
    baseline: str | None = None,
    metric: str = metrics.VAL_LOSS,
    arms: Sequence[str] | None = None,
    delta: float | None = None,
    looks: Sequence[int] | None = None,
) -> ComparisonFrame:
    """Compare the arms of one sweep; see `harness.analysis.comparison.compare`."""
    return ComparisonFrame(comparison.compare(runs, baseline, metric, arms, delta, looks))
