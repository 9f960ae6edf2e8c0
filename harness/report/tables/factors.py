"""Tables of main effects and interactions, each with a note that explains its columns."""

from __future__ import annotations

from typing import Final

import pandas as pd

from harness.analysis.comparison import intervals, metric_name, value_name
from harness.analysis.significance import ALPHA
from harness.core.text import listed
from harness.report.tables.comparison import verdict_cells
from harness.report.tables.table import Cell, Column, Table, formatted, seeds_text, table_with_runs, with_half_widths
from harness.report.text.names import p_heading
from harness.report.text.numbers import count, decimals_for, number, probability, rounded, signed, significant

_END: Final = (
    "Sign-flip p: of the sign-flip permutation test, which does not assume normal noise; uncorrected. Detectable: the "
    "true size found in 80 % of sweeps with this many seeds. This analysis is secondary to the verdicts on arms."
)


def main_effect_table(rows: pd.DataFrame) -> Table:
    """The levels of one factor, averaged over the others.

    Args:
        rows: the rows of `harness.analysis.factors.marginals` for this factor.
    """
    metric, delta = rows["metric"].iloc[0], rounded(rows["delta"].iloc[0])
    name = value_name(metric)
    base = rows.loc[rows["is_baseline"], "level"].iloc[0]
    uneven = (rows["pairs"] != rows["seeds"])[~rows["is_baseline"]].any()
    return table_with_runs(
        rows["run_ids"],
        [
            (Column(rows["word"].iloc[0], numeric=False), [Cell(level) for level in rows["level"]]),
            (Column("Seeds"), formatted(rows["seeds"], count)),
            (Column(f"Val {name}"), with_half_widths(intervals(rows), number)),
            (Column(f"Δ to {base}"), with_half_widths(intervals(rows, "difference"), signed, rows["is_baseline"])),
            *([(Column("Pairs"), formatted(rows["pairs"].mask(rows["is_baseline"]), count))] if uneven else []),
            (Column("p (Holm)"), formatted(rows["p_holm"], probability)),
            (Column("Verdict", numeric=False), verdict_cells(rows)),
            *_evidence(rows, delta),
        ],
    )


def interaction_table(rows: pd.DataFrame) -> Table:
    """Every contrast of two levels of one factor with two of another.

    Args:
        rows: as `harness.analysis.factors.interactions` returns them.
    """
    decimals = decimals_for(interval.half_width for interval in intervals(rows, "interaction"))
    changes = [
        [
            Cell(f"{word} {base} → {level}")
            for word, base, level in rows[
                [f"{prefix}{part}" for part in ("word", "baseline_level", "level")]
            ].to_numpy()
        ]
        for prefix in ("", "other_")
    ]
    return table_with_runs(
        rows["run_ids"],
        [
            (Column("Change", numeric=False), changes[0]),
            (Column("Other change", numeric=False), changes[1]),
            (Column("Seeds"), formatted(rows["seeds"], count)),
            (Column("Effect before"), formatted(rows["effect_at_baseline"], lambda value: signed(value, decimals))),
            (Column("Effect after"), formatted(rows["effect_at_level"], lambda value: signed(value, decimals))),
            (Column("Interaction"), with_half_widths(intervals(rows, "interaction"), signed)),
            (Column(_p_of(rows)), formatted(rows["p_holm"], probability)),
            (Column("Verdict", numeric=False), verdict_cells(rows)),
            *_evidence(rows, rounded(rows["delta"].iloc[0])),
        ],
    )


def main_effect_note(rows: pd.DataFrame, main_effects: pd.DataFrame) -> str:
    """The note below the table of one factor: full below the first table, short below the others.

    Args:
        rows: the rows of `main_effects` for this factor.
        main_effects: as `harness.analysis.factors.marginals` returns them.
    """
    others = listed(word for word in dict.fromkeys(main_effects["word"]) if word != rows["word"].iloc[0])
    if rows["factor"].iloc[0] != main_effects["factor"].iloc[0]:
        return f"As above, averaged over {others}."
    comparisons = int((~main_effects["is_baseline"]).sum())
    base = rows.loc[rows["is_baseline"], "name"].iloc[0]
    return (
        f"The {metric_name(rows['metric'].iloc[0])}, averaged over {others} seed by seed, every combination with equal "
        f"weight; ± is the half-width of the 95 % t interval over seeds. Δ: level minus {base}, one number per seed; "
        "negative is better. p (Holm): the paired t test over seeds, adjusted where differences look skewed and "
        f"corrected for the {comparisons} differences of these tables. Verdicts follow the rule for arms. {_END}"
    )


def interaction_note(contrasts: pd.DataFrame, factors: int) -> str:
    """The note below the table of interactions.

    Args:
        contrasts: as `harness.analysis.factors.interactions` returns them.
        factors: number of compared factors.
    """
    further = "; averaged over the other factors (three-way interactions are not tested)" if factors > 2 else ""
    delta, metric = rounded(contrasts["delta"].iloc[0]), metric_name(contrasts["metric"].iloc[0])
    corrected = f", corrected for the {len(contrasts)} contrasts of this table" if len(contrasts) > 1 else ""
    return (
        f"Effect before, effect after: what the first change adds to the {metric} before and after the other change. "
        "Interaction: effect after minus effect before, one number per seed, ± the half-width of its 95 % t interval; "
        f"0 if the effects are additive{further}. {_p_of(contrasts)}: the t test over seeds{corrected}. Interact: "
        f"p ≤ {ALPHA}. No interaction larger than {delta}: the test does not reject, and the interval at the corrected "
        f"level lies between −{delta} and {delta}. Undecided: neither. {_END}"
    )


def _p_of(contrasts: pd.DataFrame) -> str:
    """The heading of the p-values of contrasts; a single one needs no correction for others."""
    if len(contrasts) > 1:
        return p_heading("Holm")
    return p_heading("adjusted" if (contrasts["p_holm"] > contrasts["p"] * (1 + 1e-9)).any() else "")


def _evidence(rows: pd.DataFrame, delta: str) -> list[tuple[Column, list[Cell]]]:
    return [
        (Column("Sign-flip p", minor=True), formatted(rows["sign_flip_p"], probability)),
        (Column("Detectable", minor=True), formatted(rows["mde"], lambda value: significant(value, 2))),
        (
            Column(f"Seeds for {delta}", minor=True),
            formatted(rows["seeds_needed"], seeds_text),
        ),
    ]
