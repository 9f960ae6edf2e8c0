"""The report's figures. Each function takes frames and gives a `Drawing`, or None where there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from harness.analysis.comparison import intervals, metric_name, unit, verdict_runs
from harness.analysis.statistics import Interval
from harness.core import metrics
from harness.report.figures.drawing import INK, Drawing, drawing, label, look, marked, of_arm, style

WIDTH: Final = 9.4  # inches, the width of the page's column
Matrix = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def loss_sides(curves: pd.DataFrame) -> tuple[tuple[str, str], tuple[str, str]]:
    """Metrics and titles of the two losses that are drawn."""
    return (metrics.TRAIN_LOSS, "Training loss"), validation_side(curves, metrics.VAL_LOSS)


def validation_side(curves: pd.DataFrame, metric: str) -> tuple[str, str]:
    """A validation metric and its title: measured on the sample where there is one, since only that is a curve."""
    sampled = metrics.of_sample(metric)
    title = metric_name(metric).capitalize()
    return (sampled, f"{title} on a sample") if (curves["metric"] == sampled).any() else (metric, title)


def mean_and_range(ax: Axes, matrix: Matrix, arm: str, index: int) -> None:
    """Draw an arm's mean over runs as a line and its lowest and highest run as a band.

    Args:
        ax: where to.
        matrix: x, shape (points,), and values, shape (runs, points).
        arm: its name, for the legend.
        index: its place among the arms, for its colour.
    """
    tokens, losses = matrix
    colour, dash, _ = look(index)
    if not tokens.size:
        return
    point = "o" if tokens.size == 1 else None
    (line,) = ax.plot(
        tokens, losses.mean(axis=0), color=colour, linestyle=dash, marker=point, markersize=3, label=label(arm)
    )
    line.set_gid(of_arm(index))
    if len(losses) > 1:
        band = ax.fill_between(tokens, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.16, linewidth=0)
        band.set_gid(of_arm(index))


def _legend_columns(arms: Sequence[str]) -> int:
    longest = max(len(label(arm)) for arm in arms)
    return max(1, min(len(arms), 130 // (longest + 9)))


def legend_rows(arms: Sequence[str]) -> int:
    """Rows that a legend of these arms takes."""
    return math.ceil(len(arms) / _legend_columns(arms))


def legend(figure: Figure, ax: Axes, arms: Sequence[str]) -> None:
    """One legend above all panels; a single arm needs none."""
    if len(arms) > 1:
        handles, names = ax.get_legend_handles_labels()
        columns = _legend_columns(arms)
        rowwise = [place for first in range(columns) for place in range(first, len(names), columns)]  # it fills columns
        handles, names = ([items[place] for place in rowwise] for items in (handles, names))
        figure.legend(handles, names, loc="outside upper left", ncols=columns)


def final_losses(runs: pd.DataFrame, comparison: pd.DataFrame) -> Drawing | None:
    """Every seed's final value with mean and interval, and beside it the paired differences to the baseline."""
    metric, arms = str(comparison["metric"].iloc[0]), list(comparison["arm"])
    chosen = verdict_runs(runs)
    if metric not in chosen or chosen[metric].count() < 2:  # a single dot says no more than the table
        return None
    paired = bool(comparison["pairs"].sum())
    with style("final-loss"):
        figure = Figure(figsize=(WIDTH, 1.15 + 0.42 * len(arms)), layout="constrained")
        axes = figure.subplots(1, 1 + paired, sharey=True, squeeze=False)[0]
        seeds = {arm: chosen[chosen["arm"] == arm].set_index("seed")[metric].dropna() for arm in arms}
        _dots(axes[0], [seeds[arm].to_numpy(float) for arm in arms], intervals(comparison))
        name = unit(metric)
        axes[0].set_title(f"Final {metric_name(metric)}")
        axes[0].set_xlabel(name)
        axes[0].set_yticks(range(len(arms)), [label(arm) for arm in arms])
        axes[0].set_ylim(len(arms) - 0.4, -0.6)
        if paired:
            base = seeds[str(comparison.loc[comparison["is_baseline"], "arm"].iloc[0])]
            apart = [_paired(seeds[arm], base) for arm in arms]
            where = list(comparison["is_baseline"])
            _dots(
                axes[1],
                [x[:0] if own else x for x, own in zip(apart, where, strict=True)],
                intervals(comparison, "difference"),
            )
            axes[1].axvline(0, color=INK, linewidth=0.8, linestyle="--")
            axes[1].set_title("Paired difference to the baseline")
            axes[1].set_xlabel(f"{name} (left of 0: lower than the baseline)")
        caption = (
            f"Final {metric_name(metric)} of every complete confirm run (dots, one per seed) with the mean "
            "and its 95 % t interval (bar above)."
            + (" Right: the same runs, each minus the baseline's run of the same seed." if paired else "")
        )
        return drawing(figure, "final-loss", f"Final {metric_name(metric)} of every seed per arm", caption)


def _paired(own: pd.Series, base: pd.Series) -> npt.NDArray[np.float64]:
    common = own.index.intersection(base.index)
    difference: npt.NDArray[np.float64] = own.loc[common].to_numpy(float) - base.loc[common].to_numpy(float)
    return difference


def _dots(ax: Axes, values: Sequence[npt.NDArray[np.float64]], found: Sequence[Interval]) -> None:
    """One line per arm: dots for its runs and, a little above, mean and interval."""
    for index, (dots, interval) in enumerate(zip(values, found, strict=True)):
        colour, _, marker = look(index)
        with marked(ax, index):
            ax.plot(
                dots, np.full(len(dots), index + 0.12), marker, color=colour, markersize=5, alpha=0.6, markeredgewidth=0
            )
            if not math.isnan(interval.low):
                ax.plot(
                    [interval.low, interval.high], [index - 0.16] * 2, color=colour, linewidth=2, solid_capstyle="butt"
                )
            if len(dots) and not math.isnan(interval.mean):
                ax.plot(interval.mean, index - 0.16, "|", color=INK, markersize=9, markeredgewidth=1.4)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(5))


def run_curve(curves: pd.DataFrame) -> Drawing:
    """Training and validation loss of one run over its tokens.

    Args:
        curves: one row per point and metric with `tokens`, `metric`, `value`.

    Raises:
        ValueError: there is neither a training nor a validation loss to draw.
    """
    finite = curves[np.isfinite(curves["value"])]
    sides = [side for side in loss_sides(finite) if (finite["metric"] == side[0]).any()]
    if not sides:
        raise ValueError("curves: found no train/loss and no val/loss; allowed: the points of a run that was evaluated")
    with style("loss-curve"):
        figure = Figure(figsize=(4.6, 2.8), layout="constrained")
        ax = figure.subplots()
        for index, (metric, name) in enumerate(reversed(sides)):
            line = finite[finite["metric"] == metric].sort_values("tokens")
            colour, _, marker = look(index)
            ax.plot(line["tokens"], line["value"], color=colour, marker=marker, markersize=3, label=name)
        ax.set_ylabel("nats per token")
        ax.set_xlabel("training tokens")
        ax.xaxis.set_major_formatter(EngFormatter(sep=" "))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.margins(x=0.02)
        ax.legend()
        return drawing(figure, "loss-curve", "Loss over training tokens", "")
