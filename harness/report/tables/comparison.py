"""The tables that compare arms."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.analysis.comparison import intervals, value_name
from harness.analysis.evidence import Evidence
from harness.core import metrics
from harness.report.tables.table import (
    ARM,
    Cell,
    Column,
    Row,
    Table,
    formatted,
    seeds_text,
    table_with_runs,
    with_half_widths,
)
from harness.report.text.answer import verdict_text
from harness.report.text.names import p_heading, p_word
from harness.report.text.numbers import (
    NOTHING,
    count,
    number,
    probability,
    rounded,
    signed,
    significant,
)


def comparison_lines(comparison: pd.DataFrame) -> list[list[str]]:
    """A comparison as a short table of strings for a terminal, header first."""
    return answer_table(comparison).lines()


def answer_table(comparison: pd.DataFrame) -> Table:
    """One row per arm, lowest loss first: the results of `compare`, means ± half-width of their 95 % t interval.

    The only arm of a sweep needs no column for its name.
    """
    metric = comparison["metric"].iloc[0]
    tested = comparison["test_seeds"].sum() > 0
    differs = comparison["pairs"].sum() > 0
    name = value_name(metric)
    comparison = by_loss(comparison)
    columns: list[tuple[Column, list[Cell]]] = []
    if len(comparison) > 1:
        columns.append((Column(ARM, numeric=False), [Cell(str(arm)) for arm in comparison["arm"]]))
    if differs:
        columns.append((Column("Verdict", numeric=False), verdict_cells(comparison, baseline=True)))
    columns += [
        (Column("Seeds"), seeds_cells(comparison)),
        (Column(f"Val {name}"), with_half_widths(intervals(comparison))),
    ]
    if differs:
        found = intervals(comparison, "difference")
        columns += [
            (Column("Δ to baseline"), with_half_widths(found, signed, errors=comparison["difference_se"])),
            (Column(p_heading(p_word(comparison))), formatted(comparison["p_holm"], probability)),
        ]
    if comparison["common_context_mean"].notna().any():
        columns.append((Column("Common context"), with_half_widths(intervals(comparison, "common_context"))))
    if tested:
        columns.append((Column(f"Test {name}"), with_half_widths(intervals(comparison, "test"))))
    if metric == metrics.VAL_LOSS:  # a perplexity per token is lowest for the smallest vocabulary
        columns.append((Column("Perplexity", minor=True), formatted(comparison["perplexity"], significant)))
    if metric != metrics.VAL_BITS_PER_BYTE and comparison["bits_per_byte"].notna().any():
        columns.append(
            (Column("Bits/byte", minor=True), formatted(comparison["bits_per_byte"], lambda value: number(value, 4)))
        )
    return table_with_runs(comparison["run_ids"], columns)


def evidence_table(comparison: pd.DataFrame) -> Table | None:
    """One row per arm except the baseline: the statistics behind its verdict. None if there is nothing to compare."""
    compared = by_loss(comparison[comparison["pairs"] > 0])
    if compared.empty:
        return None
    word = p_word(comparison)
    delta = rounded(compared["delta"].iloc[0])
    columns = [
        (Column(ARM, numeric=False), [Cell(str(arm)) for arm in compared["arm"]]),
        (Column("Pairs"), formatted(compared["pairs"], count)),
        (Column("p"), formatted(compared["p"], probability)),
        *([(Column(p_heading(word)), formatted(compared["p_holm"], probability))] if word else []),
        (Column("Sign-flip p"), formatted(compared["sign_flip_p"], probability)),
        (Column("d_z"), formatted(compared["d_z"], lambda value: number(value, 2))),
        (Column("P(better)"), formatted(compared["probability_better"], lambda value: number(value, 2))),
        (Column("Detectable"), formatted(compared["mde"], lambda value: significant(value, 2))),
        (Column(f"Seeds for {delta}"), formatted(compared["seeds_needed"], seeds_text)),
    ]
    return table_with_runs(compared["run_ids"], columns)


def key_table(key: Sequence[tuple[str, str]]) -> Table:
    """Label and settings of each arm."""
    rows = tuple(Row((Cell(label), Cell(name))) for label, name in key)
    return Table((Column(ARM, numeric=False), Column("Settings", numeric=False, long=True)), rows)


def metrics_table(evidence: Evidence) -> Table | None:
    """One row per arm and one column per metric that the other tables do not show; None without such a metric."""
    if not evidence.other_metrics:
        return None
    runs = [evidence.verdict_runs_of[arm]["run_id"] for arm in evidence.arms]
    columns = [
        (Column(ARM, numeric=False), [Cell(arm) for arm in evidence.arms]),
        *((Column(name), with_half_widths(found)) for name, found in evidence.other_metrics.items()),
    ]
    return table_with_runs([" ".join(own) for own in runs], columns)


def by_loss(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of a comparison, lowest mean first, if arms are compared; arms without a result come last."""
    judged = comparison["verdict"].notna().any()
    return comparison.sort_values("mean", kind="stable") if judged else comparison


def seeds_cells(comparison: pd.DataFrame) -> list[Cell]:
    """The number of seeds of each arm: `4`, or `3 + 1 diverged`."""
    counts = zip(comparison["seeds"], comparison["diverged"], strict=True)
    return [Cell(f"{seeds} + {lost} diverged" if lost else str(seeds), seeds) for seeds, lost in counts]


def verdict_cells(compared: pd.DataFrame, baseline: bool = False) -> list[Cell]:
    """The verdicts of rows with `verdict` and `delta`; `baseline`: mark that of the rows, else it has a dash."""
    marks = compared["is_baseline"] if baseline else [False] * len(compared)
    words = zip(compared["verdict"], compared["delta"], marks, strict=True)
    return [Cell(verdict_text(word, delta) or ("baseline" if base else NOTHING)) for word, delta, base in words]
