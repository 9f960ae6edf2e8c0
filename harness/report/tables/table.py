"""The report's tables as plain cells; the page, the terminal and LaTeX only set them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from harness.analysis.comparison import intervals, verdict_runs
from harness.analysis.statistics import Interval
from harness.config.fields import short_name
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase
from harness.report.text.answer import verdict_text
from harness.report.text.numbers import (
    NOTHING,
    count,
    decimals_for,
    decimals_of_error,
    duration,
    number,
    probability,
    rounded,
    setting,
    short_id,
    signed,
    significant,
)

ARM: Final = "Arm"  # heading of the column that names arms


@dataclass(frozen=True)
class Cell:
    """One entry: what is read, the number it is sorted by (None: by its text), and where it leads ("": nowhere)."""

    text: str
    value: float | None = None
    href: str = ""


@dataclass(frozen=True)
class Column:
    """One column. `minor` ones are left out where room is short, as in a terminal; `long` ones hold sentences."""

    label: str
    numeric: bool = True
    minor: bool = False
    long: bool = False


@dataclass(frozen=True)
class Row:
    """One row of cells, with the runs behind it. `run` marks the row that lists one run; `result` is false for one
    that did not complete."""

    cells: tuple[Cell, ...]
    runs: tuple[str, ...] = ()
    run: str = ""
    result: bool = True


@dataclass(frozen=True)
class Table:
    """Columns and rows of equal length."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def arm(self, row: Row) -> str:
        """The arm that one of the rows is about; empty where the table has no column of arms."""
        names = [column.label for column in self.columns]
        return row.cells[names.index(ARM)].text if ARM in names else ""

    def lines(self) -> list[list[str]]:
        """The header and the rows as strings, minor columns left out."""
        kept = [index for index, column in enumerate(self.columns) if not column.minor]
        header = [self.columns[index].label for index in kept]
        return [header, *([row.cells[index].text for index in kept] for row in self.rows)]


def comparison_lines(comparison: pd.DataFrame) -> list[list[str]]:
    """A comparison as a short table of strings for a terminal, its header first."""
    return answer_table(comparison).lines()


def answer_table(comparison: pd.DataFrame) -> Table:
    """One row per arm: what `compare` found, each figure with the half-width of its 95 % t interval."""
    metric = comparison["metric"].iloc[0]
    tested = comparison["test_seeds"].sum() > 0
    differs = comparison["pairs"].sum() > 0
    name = "loss" if metric == metrics.VAL_LOSS else metric.removeprefix("val/").replace("_", " ")
    columns: list[tuple[Column, list[Cell]]] = [
        (Column(ARM, numeric=False), [Cell(str(arm)) for arm in comparison["arm"]]),
        (Column("Seeds"), [Cell(str(n), n) for n in comparison["seeds"]]),
        (Column(f"Val {name}"), with_half_widths(intervals(comparison))),
    ]
    if differs:
        found = intervals(comparison, "difference")
        columns += [
            (
                Column("Δ to baseline"),
                with_half_widths(found, signed, comparison["is_baseline"], comparison["difference_se"]),
            ),
            (Column("p (Holm)"), spelled(comparison["p_holm"], probability)),
            (Column("Verdict", numeric=False), verdict_cells(comparison)),
        ]
    if comparison["common_context_mean"].notna().any():
        columns.append((Column("Common context"), with_half_widths(intervals(comparison, "common_context"))))
    if tested:
        columns.append((Column(f"Test {name}"), with_half_widths(intervals(comparison, "test"))))
    columns.append((Column("Perplexity", minor=True), spelled(comparison["perplexity"], significant)))
    if metric != metrics.VAL_BITS_PER_BYTE and comparison["bits_per_byte"].notna().any():
        columns.append(
            (Column("Bits/byte", minor=True), spelled(comparison["bits_per_byte"], lambda value: number(value, 4)))
        )
    return resting_on(comparison["run_ids"], columns)


def evidence_table(comparison: pd.DataFrame) -> Table | None:
    """One row per arm but the baseline: what its verdict rests on. None where there is nothing to compare."""
    compared = comparison[comparison["pairs"] > 0]
    if compared.empty:
        return None
    delta = rounded(compared["delta"].iloc[0])
    columns = [
        (Column(ARM, numeric=False), [Cell(str(arm)) for arm in compared["arm"]]),
        (Column("Pairs"), spelled(compared["pairs"], count)),
        (Column("p"), spelled(compared["p"], probability)),
        (Column("p (Holm)"), spelled(compared["p_holm"], probability)),
        (Column("Sign-flip p"), spelled(compared["sign_flip_p"], probability)),
        (Column("d_z"), spelled(compared["d_z"], lambda value: number(value, 2))),
        (Column("P(better)"), spelled(compared["probability_better"], lambda value: number(value, 2))),
        (Column("Detectable"), spelled(compared["mde"], lambda value: significant(value, 2))),
        (Column(f"Seeds for {delta}"), spelled(compared["seeds_needed"], seeds_text)),
    ]
    return resting_on(compared["run_ids"], columns)


def seeds_text(value: float) -> str:
    """A number of seeds that would be needed: a count, or the sign for more than can be trained."""
    return number(value, 0) if math.isinf(value) else count(value)


def verdict_cells(compared: pd.DataFrame) -> list[Cell]:
    """The verdicts of rows that have `verdict` and `delta`; a dash where there is none."""
    words = zip(compared["verdict"], compared["delta"], strict=True)
    return [Cell(verdict_text(word, delta) or NOTHING) for word, delta in words]


def resting_on(run_ids: Iterable[object], columns: Sequence[tuple[Column, list[Cell]]]) -> Table:
    """A table of columns, each row with the runs behind it: their ids, separated by spaces."""
    rows = zip(*(cells for _, cells in columns), strict=True)
    return Table(
        tuple(column for column, _ in columns),
        tuple(Row(cells, tuple(str(ids).split())) for cells, ids in zip(rows, run_ids, strict=True)),
    )


def spelled(values: Iterable[float], spell: Callable[[float], str]) -> list[Cell]:
    """Numbers as `spell` writes them."""
    return [sortable(float(value), spell(float(value))) for value in values]


def sortable(value: float, text: str) -> Cell:
    """A number in its spelling; one that does not exist is sorted by no value."""
    return Cell(text, None if math.isnan(value) else float(value))


def with_half_widths(
    found: Sequence[Interval],
    spell: Callable[[float, int], str] = number,
    baseline: Iterable[bool] | None = None,
    errors: Iterable[float] | None = None,
) -> list[Cell]:
    """Means ± half-widths, `5.310 ± 0.050`, at the decimals of the narrowest; `± –` where one value has no interval.

    Args:
        found: one per row; NaN gives a dash.
        spell: how a mean is written: `number`, or `signed` for differences.
        baseline: rows that say so in the place of a number.
        errors: standard errors, whose smallest gets two significant digits, in the place of the half-widths.
    """
    widths = [interval.half_width for interval in found]
    decimals = decimals_for(widths) if errors is None else decimals_of_error(errors)
    marked = [False] * len(found) if baseline is None else list(baseline)
    cells = []
    for interval, is_baseline in zip(found, marked, strict=True):
        mean = spell(interval.mean, decimals)
        text = mean if mean == NOTHING else f"{mean} ± {number(interval.half_width, decimals)}"
        cells.append(Cell("baseline") if is_baseline else sortable(interval.mean, text))
    return cells


def best_table(runs: pd.DataFrame, arms: Sequence[str], tune: Sequence[str]) -> Table:
    """The tuned values each arm was confirmed with, and the explore trial they come from.

    Before an arm has confirm runs: its complete explore trial of lowest final validation loss.
    """
    columns = [
        Column(ARM, numeric=False),
        *(Column(short_name(path)) for path in tune),
        Column("Explore val loss"),
        Column("Trial"),
        Column("Confirmed", numeric=False),
    ]
    rows = []
    for arm in arms:
        chosen, confirmed = _chosen(runs[runs["arm"] == arm], tune)
        if chosen is None:
            nothing = [Cell(NOTHING)] * (len(columns) - 1)
            rows.append(Row((Cell(arm), *nothing)))
            continue
        cells = [Cell(arm), *(_setting_cell(chosen.get(path)) for path in tune)]
        if chosen["phase"] == Phase.EXPLORE:
            trial = _as_float(chosen.get("trial_number"))
            cells += [_loss_cell(chosen), sortable(trial, number(trial, 0))]
        else:
            cells += [Cell(NOTHING), Cell(NOTHING)]
        rows.append(Row((*cells, Cell("yes" if confirmed else "not yet")), (str(chosen["run_id"]),)))
    return Table(tuple(columns), tuple(rows))


def _chosen(runs: pd.DataFrame, tune: Sequence[str]) -> tuple[pd.Series | None, bool]:
    """The run whose tuned values are the arm's configuration, and whether they were confirmed."""
    explored = runs[(runs["phase"] == Phase.EXPLORE) & (runs["outcome"] == Outcome.COMPLETE)]
    if metrics.VAL_LOSS in explored:
        explored = explored.sort_values([metrics.VAL_LOSS, "run_id"])
    confirm = runs[runs["phase"] == Phase.CONFIRM]
    if confirm.empty:
        return (None if explored.empty else explored.iloc[0]), False
    wanted = _settings(confirm.iloc[0], tune)
    same = [index for index, row in explored.iterrows() if _settings(row, tune) == wanted]
    return (explored.loc[same[0]] if same else confirm.iloc[0]), not verdict_runs(runs).empty


def _settings(row: pd.Series, tune: Sequence[str]) -> list[str | float]:
    """Tuned values that are equal when they mean the same: `"0.001"` and 0.001."""
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
    """A run's last loss; in brackets, and sorted after all results, where the run did not complete.

    Runs whose curves are of a sample have no other loss before their end.
    """
    loss = _as_float(run.get(metric))
    if math.isnan(loss):
        loss = _as_float(run.get(metrics.of_sample(metric)))
    text = number(loss, 4)
    if run["outcome"] == Outcome.COMPLETE or math.isnan(loss):
        return sortable(loss, text)
    return Cell(f"({text})")


def trials_table(runs: pd.DataFrame, tune: Sequence[str], address: Callable[[str], str] | None = None) -> Table:
    """Every run of the sweep, failures included, with the reason of each that did not complete.

    Args:
        runs: as `load_runs` gives them.
        tune: paths that were tuned.
        address: run id → its page in MLflow, where there is a server that has one.
    """
    tested = metrics.TEST_LOSS in runs and bool(runs[metrics.TEST_LOSS].notna().any())
    explained = "reason" in runs and bool(runs["reason"].fillna("").ne("").any())
    columns = [
        Column("Run", numeric=False),
        Column(ARM, numeric=False),
        Column("Phase", numeric=False),
        Column("Trial"),
        Column("Seed"),
        *(Column(short_name(path)) for path in tune),
        Column("Val loss"),
        *([Column("Test loss")] if tested else []),
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
            *([_loss_cell(run, metrics.TEST_LOSS)] if tested else []),
            sortable(tokens, count(tokens)),
            sortable(seconds, duration(seconds)),
            Cell(run["outcome"] if isinstance(run["outcome"], str) else "running"),
            *([Cell(str(run["reason"] or ""))] if explained else []),
        )
        rows.append(Row(cells, run=str(run["run_id"]), result=run["outcome"] == Outcome.COMPLETE))
    return Table(tuple(columns), tuple(rows))
