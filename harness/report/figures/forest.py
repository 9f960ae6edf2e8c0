"""The forest plot: each arm's difference to the baseline with its interval, and the zone ±δ."""

from __future__ import annotations

import math
from typing import Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.analysis.comparison import intervals, metric_name, unit
from harness.analysis.statistics import Interval
from harness.report.figures.axes import WIDTH
from harness.report.figures.drawing import INK, Drawing, arm_style, drawing, label, style
from harness.report.figures.readings import mark
from harness.report.tables.comparison import by_loss
from harness.report.text.numbers import NOTHING, chance, decimals_of_error, number, rounded, signed

_ROW: Final = 0.3  # inches


def forest(comparison: pd.DataFrame) -> Drawing | None:
    """Paired differences to the baseline, one row per arm, with 95 % intervals, the baseline's line and ±δ.

    Args:
        comparison: as `compare` returns it, for one sweep or several concatenated ones, each with its own baseline.

    Returns:
        None if no arm has a pair with the baseline. An arm with diverged runs has its numbers but no bar, which would
        fill the figure.
    """
    if not comparison["pairs"].sum():
        return None
    comparison = by_loss(comparison.reset_index(drop=True))
    arms, metric = list(comparison["arm"]), str(comparison["metric"].iloc[0])
    bases = list(comparison.loc[comparison["is_baseline"], "arm"])
    base = bases[0] if len(bases) == 1 else "of its sweep"
    whose = f"that of {label(base)}" if len(bases) == 1 else "that of the sweep's own baseline"
    delta = float(comparison["delta"].max())
    with style("forest"):
        figure = Figure(figsize=(WIDTH, 0.95 + _ROW * len(arms)))
        ax = figure.subplots()
        if math.isfinite(delta):
            ax.axvspan(-delta, delta, color=INK, alpha=0.08, linewidth=0)
        ax.axvline(0, color=INK, linewidth=0.9)
        for place, interval in enumerate(intervals(comparison, "difference")):
            _row(ax, place, comparison.iloc[place], interval)
        ax.set_yticks(range(len(arms)), [label(arm) for arm in arms])
        ax.set_ylim(len(arms) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: rounded(value) if value else "0"))
        ax.spines["left"].set_visible(False)
        ax.set_xlabel(f"{metric_name(metric)} minus {whose}, {unit(metric)} (left of 0: better)")
        caption = (
            f"Difference of the {metric_name(metric)} to the baseline {base}: mean over paired seeds and 95 % interval."
            + (f" Shaded: differences below δ = {rounded(delta)}, too small to matter." if math.isfinite(delta) else "")
        )
        return drawing(figure, "forest", "Differences to the baseline with their intervals", caption)


def _row(ax: Axes, place: int, row: pd.Series, interval: Interval) -> None:
    index = int(str(row.name))  # of the arm in the spec, which decides its colour and mark
    colour, _, marker = arm_style(index)
    text = "baseline" if row["is_baseline"] else _figures(row, interval)
    ax.text(1.015, place, text, transform=ax.get_yaxis_transform(), va="center", clip_on=False)
    if row["is_baseline"]:
        drawn = ax.plot(0, place, marker, color=colour, markersize=5.5, fillstyle="none")
    elif math.isnan(interval.mean) or row["diverged"]:
        return
    else:
        drawn = ax.plot(interval.mean, place, marker, color=colour, markersize=5.5)
        if math.isfinite(interval.half_width):
            drawn += ax.plot(
                [interval.low, interval.high], [place] * 2, color=colour, linewidth=2, solid_capstyle="butt"
            )
    for artist in drawn:
        mark(artist, index, f"{row['arm']}: {text}")


def _figures(row: pd.Series, interval: Interval) -> str:
    """`+0.071 (0.032 to 0.111), p = 0.0095`."""
    if math.isnan(interval.mean):
        return NOTHING
    decimals = decimals_of_error([row["difference_se"]])
    mean = signed(interval.mean, decimals)
    if row["diverged"]:
        return f"{row['diverged']} of {row['diverged'] + row['seeds']} runs diverged: {mean}"
    if math.isnan(interval.half_width):
        return f"{mean}, one pair"
    return f"{mean} ({number(interval.low, decimals)} to {number(interval.high, decimals)}), p {chance(row['p_holm'])}"
