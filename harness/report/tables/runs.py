"""Tables of runs and trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd

from harness.analysis.columns import other_metrics
from harness.analysis.comparison import value_name
from harness.analysis.evidence import Evidence
from harness.config.fields import short_name
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase
from harness.report.tables.table import ARM, Cell, Column, Row, Table, sortable
from harness.report.text.numbers import (
    NOTHING,
    count,
    duration,
    number,
    setting,
    short_id,
    significant,
)


def best_table(evidence: Evidence, tune: Sequence[str]) -> Table:
    """The tuned values of each arm's confirm runs, and the explore trial they come from.

    While an arm has no confirm run: its complete explore trial with the lowest final value of the objective.
    """
    columns = [
        Column(ARM, numeric=False),
        *(Column(short_name(path)) for path in tune),
        Column(f"Explore val {value_name(evidence.metric)}"),
        Column("Trial"),
        Column("Confirmed", numeric=False),
    ]
    rows = []
    runs = evidence.runs
    for arm in evidence.arms:
        chosen = _chosen(runs[runs["arm"] == arm], tune, evidence.metric)
        confirmed = not evidence.verdict_runs_of[arm].empty
        if chosen is None:
            nothing = [Cell(NOTHING)] * (len(columns) - 1)
            rows.append(Row((Cell(arm), *nothing)))
            continue
        cells = [Cell(arm), *(_setting_cell(chosen.get(path)) for path in tune)]
        if chosen["phase"] == Phase.EXPLORE:
            trial = _as_float(chosen.get("trial_number"))
            cells += [_loss_cell(chosen, evidence.metric), sortable(trial, number(trial, 0))]
        else:
            cells += [Cell(NOTHING), Cell(NOTHING)]
        rows.append(Row((*cells, Cell("yes" if confirmed else "not yet")), (str(chosen["run_id"]),)))
    return Table(tuple(columns), tuple(rows))


def _chosen(runs: pd.DataFrame, tune: Sequence[str], metric: str) -> pd.Series | None:
    """The run with the arm's chosen configuration."""
    explored = runs[(runs["phase"] == Phase.EXPLORE) & (runs["outcome"] == Outcome.COMPLETE)]
    if metric in explored:
        explored = explored.sort_values([metric, "run_id"])
    confirm = runs[runs["phase"] == Phase.CONFIRM]
    if confirm.empty:
        return None if explored.empty else explored.iloc[0]
    wanted = _settings(confirm.iloc[0], tune)
    same = [index for index, row in explored.iterrows() if _settings(row, tune) == wanted]
    return explored.loc[same[0]] if same else confirm.iloc[0]


def _settings(row: pd.Series, tune: Sequence[str]) -> list[str | float]:
    """Tuned values in a form that can be compared: `"0.001"` equals 0.001."""
    return [value if math.isfinite(value := _as_float(row.get(path))) else str(row.get(path)) for path in tune]


def _as_float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def _setting_cell(value: object) -> Cell:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return Cell(NOTHING)
    return sortable(_as_float(value), setting(value))


def _loss_cell(run: pd.Series, metric: str = metrics.VAL_LOSS) -> Cell:
    """A run's last loss; in brackets and sorted after all results if the run is not complete.

    Runs that evaluate on a sample have only the sample's loss before their end.
    """
    loss = _as_float(run.get(metric))
    if math.isnan(loss):
        loss = _as_float(run.get(metrics.sample_metric(metric)))
    text = number(loss, 4)
    if run["outcome"] == Outcome.COMPLETE or math.isnan(loss):
        return sortable(loss, text)
    return Cell(f"({text})")


def _metric_cell(run: pd.Series, metric: str) -> Cell:
    value = _as_float(run.get(metric))
    return sortable(value, significant(value))


def trials_table(
    runs: pd.DataFrame,
    tune: Sequence[str],
    address: Callable[[str], str] | None = None,
    metric: str = metrics.VAL_LOSS,
) -> Table:
    """Every run of the sweep, including failed ones, with the reason if it is not complete.

    Args:
        runs: as `load_runs` returns them.
        tune: tuned paths.
        address: run id → URL of its page on an MLflow server; None without a server.
        metric: that compares the runs; shown besides the loss.
    """
    compared = [metric] if metric != metrics.VAL_LOSS else []
    tested = metrics.TEST_LOSS in runs and bool(runs[metrics.TEST_LOSS].notna().any())
    others = other_metrics(runs)
    explained = "reason" in runs and bool(runs["reason"].fillna("").ne("").any())
    columns = [
        Column("Run", numeric=False),
        Column(ARM, numeric=False),
        Column("Phase", numeric=False),
        Column("Trial"),
        Column("Seed"),
        *(Column(short_name(path)) for path in tune),
        Column("Val loss"),
        *(Column(f"Val {value_name(name)}") for name in compared),
        *([Column("Test loss")] if tested else []),
        *(Column(name) for name in others),
        Column("Tokens"),
        Column("Time"),
        Column("Outcome", numeric=False),
        *([Column("Reason", numeric=False, long=True)] if explained else []),
    ]
    rows = []
    for _, run in runs.iterrows():
        trial, seed = _as_float(run.get("trial_number")), _as_float(run.get("seed"))
        tokens, seconds = _as_float(run.get("tokens")), _as_float(run.get("seconds"))
        cells = (
            Cell(short_id(str(run["run_id"])), href=address(str(run["run_id"])) if address else ""),
            Cell(str(run["arm"])),
            Cell(str(run["phase"])),
            sortable(trial, number(trial, 0)),
            sortable(seed, number(seed, 0)),
            *(_setting_cell(run.get(path)) for path in tune),
            _loss_cell(run),
            *(_loss_cell(run, name) for name in compared),
            *([_loss_cell(run, metrics.TEST_LOSS)] if tested else []),
            *(_metric_cell(run, name) for name in others),
            sortable(tokens, count(tokens)),
            sortable(seconds, duration(seconds)),
            Cell(run["outcome"] if isinstance(run["outcome"], str) else "running"),
            *([Cell(str(run["reason"] or ""))] if explained else []),
        )
        rows.append(Row(cells, run=str(run["run_id"]), result=run["outcome"] == Outcome.COMPLETE))
    return Table(tuple(columns), tuple(rows))
