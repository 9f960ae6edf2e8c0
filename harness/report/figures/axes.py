"""Parts that several figures of the report share: sides, lines with bands, legends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from harness.analysis.comparison import metric_name
from harness.core import metrics
from harness.report.figures.drawing import PALETTE, arm_style, label
from harness.report.figures.readings import arm_gid, mark_line
from harness.report.text.numbers import number, setting

WIDTH: Final = 9.4  # inches, the width of the page's column
_MOST_POINTS: Final = 200  # points of a line: more cannot be seen
_PANEL: Final = 2.9  # inches, width of one of several panels
_MARKERS: Final = 5  # of a line with markers
Matrix = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def loss_sides(curves: pd.DataFrame) -> tuple[tuple[str, str], tuple[str, str]]:
    """Metric and title of the training and the validation loss."""
    return (metrics.TRAIN_LOSS, "Training loss"), validation_side(curves, metrics.VAL_LOSS)


def validation_side(curves: pd.DataFrame, metric: str) -> tuple[str, str]:
    """A validation metric and its title; on the fixed sample if runs have one, since only that has a whole curve."""
    sampled = metrics.sample_metric(metric)
    title = metric_name(metric).capitalize()
    return (sampled, f"{title} on a sample") if (curves["metric"] == sampled).any() else (metric, title)


def on_one_grid(points: pd.DataFrame) -> Matrix:
    """One metric of an arm's runs on a common grid: x, shape (points,), and losses, shape (runs, points).

    Runs evaluated at different points (a budget in seconds) are interpolated linearly up to the end of the shortest, so
    that the mean is over the same runs everywhere.
    """
    at, value = (points[name].to_numpy(float) for name in ("at", "value"))
    _, run = np.unique(points["run_id"].to_numpy(object), return_inverse=True)
    order = np.lexsort((at, run))
    lines = np.split(np.column_stack([at, value])[order], np.flatnonzero(np.diff(run[order])) + 1)
    grid = np.unique(np.concatenate([line[:, 0] for line in lines]))
    grid = grid[(grid >= max(line[0, 0] for line in lines)) & (grid <= min(line[-1, 0] for line in lines))]
    if len(grid) > _MOST_POINTS:
        grid = grid[np.unique(np.linspace(0, len(grid) - 1, _MOST_POINTS).round().astype(int))]
    return grid, np.stack([np.interp(grid, line[:, 0], line[:, 1]) for line in lines])


def mean_and_range(ax: Axes, matrix: Matrix, arm: str, index: int, marked: bool = False) -> None:
    """Draw an arm's mean over runs as a line, and the range from its lowest to its highest run as a band.

    Args:
        ax: the axes.
        matrix: x, shape (points,), and values, shape (runs, points).
        arm: name of the arm, for the legend.
        index: index of the arm, for its colour.
        marked: whether lines have markers, because there are more arms than colours.
    """
    tokens, losses = matrix
    colour, dash, marker = arm_style(index)
    if not tokens.size:
        return
    point = "o" if tokens.size == 1 else marker if marked else None
    mean = losses.mean(axis=0)
    (line,) = ax.plot(
        tokens,
        mean,
        color=colour,
        linestyle=dash,
        marker=point,
        markersize=3,
        markevery=max(1, tokens.size // _MARKERS),
        label=label(arm),
    )
    mark_line(line, index, label(arm), f"{number(float(mean[-1]), 4)} at the end")
    if len(losses) > 1:
        band = ax.fill_between(tokens, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.16, linewidth=0)
        band.set_gid(arm_gid(index))


def needs_marks(arms: Sequence[str]) -> bool:
    """Whether lines of these arms are told apart by markers too, because there are more than colours."""
    return len(arms) > len(PALETTE)


def _legend_columns(arms: Sequence[str]) -> int:
    longest = max(len(label(arm)) for arm in arms)
    return max(1, min(len(arms), 130 // (longest + 9)))


def legend_rows(arms: Sequence[str]) -> int:
    """The number of rows in a legend of these arms."""
    return math.ceil(len(arms) / _legend_columns(arms))


def legend(figure: Figure, ax: Axes, arms: Sequence[str]) -> None:
    """One legend above all panels, unless there is only one arm."""
    if len(arms) > 1:
        handles, names = ax.get_legend_handles_labels()
        columns = _legend_columns(arms)
        # matplotlib fills a legend by columns; this order makes it read by rows.
        rowwise = [place for first in range(columns) for place in range(first, len(names), columns)]
        handles, names = ([items[place] for place in rowwise] for items in (handles, names))
        figure.legend(handles, names, loc="outside upper left", ncols=columns)


def log_axis(ax: Axes, low: float, high: float) -> None:
    """A logarithmic axis over the whole range, with labels at 1, 2 and 5 if there are few decades."""
    ax.set_xscale("log")
    margin = (high / low) ** 0.04
    ax.set_xlim(low / margin, high * margin)
    few = high / low < 300
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: setting(float(f"{value:.3g}"))))
    ax.xaxis.set_minor_formatter(NullFormatter())


def panels_of(number_of: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of panels with shared axes, up to three in a row, each `height` inches high. Call it inside `style`."""
    columns = min(number_of, 3)
    rows = math.ceil(number_of / columns)
    figure = Figure(figsize=(min(WIDTH, 1.6 + _PANEL * columns), 0.35 + height * rows))
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for ax in grid[number_of:]:
        ax.set_visible(False)
    for above in grid[number_of - columns : number_of]:
        above.tick_params(axis="x", labelbottom=True)  # the lowest panel of its column, also if not in the last row
    return figure, grid[:number_of]


def outer_labels(figure: Figure, panels: Sequence[Axes], x: str, y: str) -> None:
    """Label both axes once for all panels."""
    if len(panels) == 1:
        panels[0].set_xlabel(x)
        panels[0].set_ylabel(y)
    else:
        figure.supxlabel(x, fontsize="medium")
        figure.supylabel(y, fontsize="medium")
