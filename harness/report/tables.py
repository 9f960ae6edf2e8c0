"""The report's tables as plain cells; the page, the terminal and LaTeX only set them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from harness import metrics
from harness.metrics import Outcome, Phase
from harness.report.comparison import intervals, verdict_runs
from harness.report.formats import (
    NOTHING,
    count,
    decimals_for,
    duration,
    number,
    probability,
    rounded,
    setting,
    short_id,
    signed,
    significant,
)
from harness.report.statistics import Interval
from harness.report.wording import verdict_text
from harness.spec import short_name


@dataclass(frozen=True)
class Cell:
    """One entry: what is read, and the number it is sorted by (None: by its text)."""

    text: str
    value: float | None = None


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
        (Column("Arm", numeric=False), [Cell(str(arm)) for arm in comparison["arm"]]),
        (Column("Seeds"), [Cell(str(n), n) for n in comparison["seeds"]]),
        (Column(f"Val {name}"), _measured(intervals(comparison))),
    ]
    if differs:
        columns += [
            (Column("Δ to baseline"), _difference_cells(comparison)),
            (Column("p (Holm)"), _cells(comparison["p_holm"], probability)),
            (Column("Verdict", numeric=False), _verdict_cells(comparison)),
        ]
    if comparison["common_context_mean"].notna().any():
        columns.append((Column("Common context"), _measured(intervals(comparison, "common_context"))))
    if tested:
        columns.append((Column(f"Test {name}"), _measured(intervals(comparison, "test"))))
    columns.append((Column("Perplexity", minor=True), _cells(comparison["perplexity"], significant)))
    if metric != metrics.VAL_BITS_PER_BYTE:
        columns.append(
            (Column("Bits/byte", minor=True), _cells(comparison["bits_per_byte"], lambda value: number(value, 4)))
        )
    columns += [
        (Column("Tokens", minor=True), _cells(comparison["tokens"], count)),
        (Column("Time", minor=True), _cells(comparison["seconds"], duration)),
        (Column("Parameters", minor=True), _cells(comparison["parameters"], count)),
    ]
    runs = [tuple(str(ids).split()) for ids in comparison["run_ids"]]
    return _table(columns, runs)


def evidence_table(comparison: pd.DataFrame) -> Table | None:
    """One row per arm but the baseline: what its verdict rests on. None where there is nothing to compare."""
    compared = comparison[comparison["pairs"] > 0]
    if compared.empty:
        return None
    delta = rounded(compared["delta"].iloc[0])
    columns = [
        (Column("Arm", numeric=False), [Cell(str(arm)) for arm in compared["arm"]]),
        (Column("Pairs"), _cells(compared["pairs"], count)),
        (Column("p"), _cells(compared["p"], probability)),
        (Column("p (Holm)"), _cells(compared["p_holm"], probability)),
        (Column("Sign-flip p"), _cells(compared["sign_flip_p"], probability)),
        (Column("d_z"), _cells(compared["d_z"], lambda value: number(value, 2))),
        (Column("P(better)"), _cells(compared["probability_better"], lambda value: number(value, 2))),
        (Column("Detectable"), _cells(compared["mde"], lambda value: significant(value, 2))),
        (Column(f"Seeds for {delta}"), _cells(compared["seeds_needed"], _seeds)),
    ]
    return _table(columns, [tuple(str(ids).split()) for ids in compared["run_ids"]])


def _seeds(value: float) -> str:
    return number(value, 0) if math.isinf(value) else count(value)


def _verdict_cells(comparison: pd.DataFrame) -> list[Cell]:
    words = zip(comparison["verdict"], comparison["delta"], strict=True)
    return [Cell(verdict_text(word, delta) or NOTHING) for word, delta in words]


def _table(columns: Sequence[tuple[Column, list[Cell]]], runs: Sequence[tuple[str, ...]]) -> Table:
    rows = zip(*(cells for _, cells in columns), strict=True)
    return Table(
        tuple(column for column, _ in columns),
        tuple(Row(cells, ids) for cells, ids in zip(rows, runs, strict=True)),
    )


def _cells(values: Iterable[float], spell: Callable[[float], str]) -> list[Cell]:
    return [_cell(value, spell(float(value))) for value in values]


def _cell(value: float, text: str) -> Cell:
    return Cell(text, None if math.isnan(value) else float(value))


def _measured(found: Sequence[Interval]) -> list[Cell]:
    decimals = decimals_for(interval.half_width for interval in found)
    return [
        _cell(interval.mean, _plus_minus(interval, number(interval.mean, decimals), decimals)) for interval in found
    ]


def _difference_cells(comparison: pd.DataFrame) -> list[Cell]:
    found = intervals(comparison, "difference")
    decimals = decimals_for(interval.half_width for interval in found)
    return [
        Cell("baseline")
        if is_baseline
        else _cell(interval.mean, _plus_minus(interval, signed(interval.mean, decimals), decimals))
        for interval, is_baseline in zip(found, comparison["is_baseline"], strict=True)
    ]


def _plus_minus(interval: Interval, mean: str, decimals: int) -> str:
    """`5.310 ± 0.050`; `5.310 ± –` where one value has no interval; a dash where there is nothing."""
    return mean if mean == NOTHING else f"{mean} ± {number(interval.half_width, decimals)}"


def best_table(runs: pd.DataFrame, arms: Sequence[str], tune: Sequence[str]) -> Table:
    """The tuned values each arm was confirmed with, and the explore trial they come from.

    Before an arm has confirm runs: its complete explore trial of lowest final validation loss.
    """
    columns = [
        Column("Arm", numeric=False),
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
            cells += [_loss_cell(chosen), _cell(trial, number(trial, 0))]
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
    return _cell(_as_float(value), setting(value))


def _loss_cell(run: pd.Series, metric: str = metrics.VAL_LOSS) -> Cell:
    """A run's last loss; in brackets, and sorted after all results, where the run did not complete."""
    loss = _as_float(run.get(metric))
    text = number(loss, 4)
    if run["outcome"] == Outcome.COMPLETE or math.isnan(loss):
        return _cell(loss, text)
    return Cell(f"({text})")


def trials_table(runs: pd.DataFrame, tune: Sequence[str]) -> Table:
    """Every run of the sweep, failures included, with the reason of each that did not complete."""
    tested = metrics.TEST_LOSS in runs and bool(runs[metrics.TEST_LOSS].notna().any())
    explained = "reason" in runs and bool(runs["reason"].fillna("").ne("").any())
    columns = [
        Column("Run", numeric=False),
        Column("Arm", numeric=False),
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
            Cell(short_id(str(run["run_id"]))),
            Cell(str(run["arm"])),
            Cell(str(run["phase"])),
            _cell(trial, number(trial, 0)),
            _cell(seed, number(seed, 0)),
            *(_setting_cell(run.get(path)) for path in tune),
            _loss_cell(run),
            *([_loss_cell(run, metrics.TEST_LOSS)] if tested else []),
            _cell(tokens, count(tokens)),
            _cell(seconds, duration(seconds)),
            Cell(run["outcome"] if isinstance(run["outcome"], str) else "running"),
            *([Cell(str(run["reason"] or ""))] if explained else []),
        )
        rows.append(Row(cells, run=str(run["run_id"]), result=run["outcome"] == Outcome.COMPLETE))
    return Table(tuple(columns), tuple(rows))


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "δ": r"$\delta$",
    "–": "--",
    "∞": r"$\infty$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def latex_table(table: Table, caption: str) -> str:
    """The table for a paper: a booktabs `tabular`, everything in it escaped."""
    setting_of = "".join("r" if column.numeric else "l" for column in table.columns)
    lines = [" & ".join(_latex(column.label) for column in table.columns) + r" \\", r"\midrule"]
    lines += [" & ".join(_latex(cell.text) for cell in row.cells) + r" \\" for row in table.rows]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            f"% {' '.join(caption.split())}",
            f"\\begin{{tabular}}{{{setting_of}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
