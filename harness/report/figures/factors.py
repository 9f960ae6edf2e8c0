"""Interaction plots: the metric over the levels of one factor, with one line per level of another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.analysis.comparison import metric_name
from harness.analysis.evidence import Evidence
from harness.analysis.factors import pair_means
from harness.analysis.grid import Floats, Grid
from harness.analysis.statistics import mean_interval
from harness.core.text import plural
from harness.report.figures.axes import WIDTH
from harness.report.figures.drawing import Drawing, arm_style, drawing, label, style

_PANELS: Final = 4
_DODGE: Final = 0.07  # horizontal offset between lines, so that their bars do not overlap; levels are 1 apart
_CHARACTERS: Final = 65  # that fit in a row above or below a panel
_CROWDED: Final = 24  # points above which a single panel takes the whole width


def interaction_drawing(evidence: Evidence) -> Drawing | None:
    """Draw each pair of factors; if there are many pairs, those with the smallest p-values."""
    if evidence.factors is None:
        return None
    found, contrasts = evidence.factors.grid.trained, evidence.factors.interactions
    paths = list(found.levels)
    panels = {
        (i, j): means
        for i, j in itertools.combinations(range(len(paths)), 2)
        if (means := on_common_seeds(pair_means(found, (i, j)))).size
    }
    clearest = contrasts.groupby(["factor", "other_factor"])["p"].min().fillna(1.0)
    ranked = sorted(panels, key=lambda axes: clearest[paths[axes[0]], paths[axes[1]]])
    shown = [axes for axes in panels if axes in ranked[:_PANELS]]
    if not shown:
        return None
    metric = metric_name(str(contrasts["metric"].iloc[0]))
    columns = min(len(shown), 2)
    rows = math.ceil(len(shown) / columns)
    wide = columns > 1 or panels[shown[0]][..., 0].size > _CROWDED
    legend = max(_legend_rows(found, _sides(panels[axes], axes)[1]) for axes in shown)
    with style("interactions"):
        figure = Figure(figsize=(WIDTH if wide else 5.6, (2.6 + 0.18 * legend) * rows))
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for ax, axes in zip(grid.flat, shown, strict=False):
            _panel(ax, found, axes, panels[axes])
        for ax in list(grid.flat)[len(shown) :]:
            ax.set_visible(False)
        for ax in grid[:, 0]:
            ax.set_ylabel(metric)
        caption = _caption(metric, len(paths), [panels[axes] for axes in shown], len(panels) - len(shown))
        return drawing(figure, "interactions", f"{metric.capitalize()} over two factors at a time", caption)


def _caption(metric: str, factors: int, drawn: Sequence[Floats], left_out: int) -> str:
    further = ", averaged over the other factors" if factors > 2 else ""
    parts = [
        f"Final {metric} over the levels of one factor, with one line per level of another{further}: mean over the "
        "seeds that all arms of a panel have. Parallel lines mean that the effects are additive (no interaction)."
    ]
    if any(means.shape[-1] > 1 for means in drawn):
        parts.append(
            "Thin bars: 95 % t interval over seeds, including the variation that all runs of a seed share. Thick bars: "
            "the same after subtracting each seed's mean over the panel; use these to compare points with each other."
        )
    if left_out:
        parts.append(f"Not shown: {plural(left_out, 'pair')} of factors with less clear interactions.")
    return " ".join(parts)


def on_common_seeds(means: Floats) -> Floats:
    """Keep the seeds that all arms have, so that all points are means over the same seeds.

    Args:
        means: shape (levels, levels, seeds), NaN where there is no value.

    Returns:
        Shape (levels, levels, common seeds). Arms without any seed are ignored and stay NaN.
    """
    has_any = ~np.isnan(means).all(axis=-1)
    if not has_any.any():
        return means[..., :0]
    return means[..., ~np.isnan(means[has_any]).any(axis=0)]


def half_widths(means: Floats) -> tuple[Floats, Floats]:
    """Half-widths of two 95 % t intervals per point: the plain one, and the within-seed (Cousineau–Morey) one.

    The second subtracts each seed's mean over all points from its values and corrects the reduced spread by √(C/(C−1))
    for C points (Cousineau 2005; Morey 2008, "Confidence intervals from normalized data: a correction to Cousineau
    (2005)").

    Args:
        means: shape (levels, levels, seeds), NaN for all seeds where there is no point.

    Returns:
        Two arrays of shape (levels, levels), NaN where there is no interval.
    """
    points = means[~np.isnan(means).any(axis=-1)]
    own = points - points.mean(axis=0)
    correction = math.sqrt(len(points) / (len(points) - 1)) if len(points) > 1 else math.nan
    plain, within = np.full((2, *means.shape[:2]), math.nan)
    plain[~np.isnan(means).any(axis=-1)] = [mean_interval(values).half_width for values in points]
    within[~np.isnan(means).any(axis=-1)] = [correction * mean_interval(values).half_width for values in own]
    return plain, within


def _panel(ax: Axes, found: Grid, axes: tuple[int, int], means: Floats) -> None:
    """Draw one panel: the factor with more levels on the x axis, the other one as lines."""
    along, lines = _sides(means, axes)
    if along != axes[0]:
        means = means.swapaxes(0, 1)
    paths = list(found.levels)
    order = _in_order(found.levels[paths[along]])
    centre = means.mean(axis=-1)
    plain, within = half_widths(means)
    count = means.shape[1]
    for turn, line in enumerate(_in_order(found.levels[paths[lines]])):
        colour, dash, marker = arm_style(line)
        where = np.arange(len(order)) + min(_DODGE, 0.7 / count) * (turn - (count - 1) / 2)
        y = centre[order, line]
        name = _names(found, lines)[line]
        ax.plot(where, y, color=colour, linestyle=dash, marker=marker, markersize=3.5, label=name)
        for half, width in ((plain[order, line], 0.8), (within[order, line], 2.6)):
            ax.vlines(where, y - half, y + half, color=colour, linewidth=width)
    names = [label(found.text(along, level)) for level in order]
    ax.set_xticks(range(len(order)), names)
    if sum(len(name) + 2 for name in names) > _CHARACTERS:
        ax.tick_params(axis="x", labelrotation=30)
    ax.set_xlim(-0.5, len(order) - 0.5)
    ax.set_xlabel(found.word(along))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.tick_params(axis="y", labelleft=True)
    ax.grid(axis="x", visible=False)
    columns = _legend_columns(_names(found, lines))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=columns)


def _sides(means: Floats, axes: tuple[int, int]) -> tuple[int, int]:
    """The factor on the x axis and the factor of the lines."""
    return axes if means.shape[0] >= means.shape[1] else (axes[1], axes[0])


def _names(found: Grid, axis: int) -> list[str]:
    return [label(found.name(axis, level)) for level in range(len(found.levels[list(found.levels)[axis]]))]


def _legend_columns(names: Sequence[str]) -> int:
    return max(1, min(len(names), _CHARACTERS // (max(map(len, names)) + 8)))


def _legend_rows(found: Grid, axis: int) -> int:
    names = _names(found, axis)
    return math.ceil(len(names) / _legend_columns(names))


def _in_order(levels: Sequence[Any]) -> list[int]:
    """Indices of the levels from left to right: numbers increasing, other values in the order of the spec."""
    places = list(range(len(levels)))
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in levels):
        return places
    return sorted(places, key=lambda place: levels[place])
