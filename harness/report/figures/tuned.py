"""Figures of tuned values: all of a trial at once, and learning rates near the best."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.comparison import metric_name, unit
from harness.analysis.evidence import Evidence
from harness.analysis.trials import option_index
from harness.config.fields import short_name
from harness.report.figures.axes import WIDTH, legend, legend_rows, log_axis
from harness.report.figures.drawing import INK, Drawing, arm_style, drawing, label, style
from harness.report.figures.readings import arm_gid, mark
from harness.report.text.names import values_named
from harness.report.text.numbers import number, rounded, setting

_RATE: Final = "train.learning_rate"
_FEWEST: Final = 3  # complete trials of an arm
_MOST: Final = 600  # trials: each has its own title
_NEAR: Final = 5.0  # highest loss above the best that is shown, in units of δ, if half of the trials are lower
_MARGIN: Final = 0.03  # free share above the highest loss of the parallel axes


def parallel_coordinates(evidence: Evidence) -> Drawing | None:
    """Every complete trial as a line over the tuned dimensions to its loss.

    Returns:
        None for fewer than two tuned dimensions or three trials, or more trials than can be drawn.
    """
    tried, metric = evidence.complete_trials, evidence.metric
    paths = [path for path in evidence.space if path in tried]
    if len(paths) < 2 or not _FEWEST <= len(tried) <= _MOST:
        return None
    columns = [_shares(tried[path], evidence.space[path]) for path in paths]
    low, high = float(tried[metric].min()), float(tried[metric].max())
    columns.append(((tried[metric] - low) / ((high - low) or 1.0)).to_numpy(float))
    heights = np.stack(columns, axis=1)
    drawn = [arm for arm in evidence.arms if (tried["arm"] == arm).any()]
    best = {tried.loc[tried["arm"] == arm, metric].idxmin() for arm in drawn}
    with style("parallel"):
        figure = Figure(figsize=(WIDTH, 3.0 + 0.18 * legend_rows(drawn)))
        ax = figure.subplots()
        for (at, trial), line in zip(tried.iterrows(), heights, strict=True):
            index = evidence.arms.index(trial["arm"])
            (drawn_line,) = ax.plot(
                range(len(line)),
                line,
                color=arm_style(index)[0],
                linewidth=2.2 if at in best else 0.8,
                alpha=1.0 if at in best else 0.45,
                label=label(trial["arm"]) if at in best else "",
            )
            values = values_named({path: trial[path] for path in paths})
            mark(drawn_line, index, f"{_trial_name(trial)}: {values}, {metric_name(metric)} {number(trial[metric], 4)}")
        for place, path in enumerate(paths):
            _axis(ax, place, _ends(evidence.space[path]))
        _axis(ax, len(paths), [(0.0, number(low, 3)), (1.0, number(high, 3))])
        ax.set_xticks(range(len(paths) + 1), [*map(short_name, paths), metric_name(metric)])
        ax.set_yticks([])
        ax.set_ylim(-_MARGIN, 1 + _MARGIN)
        ax.set_xlim(-0.2, len(paths) + 0.35)
        ax.spines["left"].set_visible(False)
        ax.spines["bottom"].set_visible(False)
        ax.tick_params(axis="x", length=0, pad=6)
        ax.grid(visible=False)
        legend(figure, ax, drawn)
        caption = (
            f"Every complete explore trial as a line over its tuned values to its {metric_name(metric)}, lower is "
            "better; thick: the best of each arm. Each axis runs from one end of the searched range to the other."
        )
        return drawing(figure, "parallel", "Tuned values of every complete trial", caption)


def _trial_name(trial: pd.Series) -> str:
    found = trial.get("trial_number")
    return str(trial["arm"]) if pd.isna(found) else f"{trial['arm']}, trial {int(found)}"


def _shares(values: pd.Series, dimension: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The places of values on their dimension: 0 at its low end, 1 at its high end."""
    ((kind, ends),) = dimension.items()
    if kind == "choice":
        places = [option_index(value, ends) for value in values]
        return np.array([math.nan if at is None else at / max(1, len(ends) - 1) for at in places])
    found = pd.to_numeric(values, errors="coerce").to_numpy(float)
    low, high = float(ends[0]), float(ends[1])
    if kind == "log_uniform":
        found, low, high = np.log(found), math.log(low), math.log(high)
    return np.asarray((found - low) / ((high - low) or 1.0))


def _ends(dimension: Any) -> list[tuple[float, str]]:
    """Places on an axis and what is written there."""
    ((kind, values),) = dimension.items()
    if kind == "choice":
        return [(at / max(1, len(values) - 1), label(setting(value))) for at, value in enumerate(values)]
    return [(0.0, setting(values[0])), (1.0, setting(values[1]))]


def _axis(ax: Any, place: int, ends: list[tuple[float, str]]) -> None:
    ax.axvline(place, color=INK, linewidth=0.7)
    for height, text in ends:
        ax.annotate(text, (place, height), (3, 0), textcoords="offset points", va="center", fontsize="small")


def learning_rates(evidence: Evidence) -> Drawing | None:
    """How far each trial lies above the best one of its arm, over its learning rate; near the best only.

    Returns:
        None if no learning rate was tuned on a range, or no arm has three complete trials.
    """
    tried, metric = evidence.complete_trials, evidence.metric
    (kind, ends), *_ = (evidence.space.get(_RATE) or {"": ()}).items()
    if kind not in ("log_uniform", "uniform") or _RATE not in tried:
        return None
    counts = tried["arm"].value_counts()
    drawn = [arm for arm in evidence.arms if counts.get(arm, 0) >= _FEWEST]
    if not drawn:
        return None
    delta = evidence.delta
    has_delta = math.isfinite(delta)
    above = tried[metric] - tried.groupby("arm")[metric].transform("min")
    near = float(above[tried["arm"].isin(drawn)].median())
    top = max(near, _NEAR * delta) if has_delta else near
    with style("learning-rates"):
        figure = Figure(figsize=(0.8 * WIDTH, 2.8 + 0.18 * legend_rows(drawn)))
        ax = figure.subplots()
        if has_delta:
            ax.axhspan(0, delta, color=INK, alpha=0.08, linewidth=0)
        for arm in drawn:
            index = evidence.arms.index(arm)
            colour, _, marker = arm_style(index)
            mine = tried[tried["arm"] == arm].assign(above=above).sort_values(_RATE)
            mine = mine.assign(rate=pd.to_numeric(mine[_RATE], errors="coerce"))
            (line,) = ax.plot(mine["rate"], mine["above"], color=colour, linewidth=0.7, alpha=0.5)
            line.set_gid(arm_gid(index))
            seen = mine[mine["above"] <= top]
            (dots,) = ax.plot(
                seen["rate"], seen["above"], marker, color=colour, markersize=4.5, markeredgewidth=0, label=label(arm)
            )
            texts = [
                f"{_trial_name(one)}: {values_named({_RATE: one['rate']})}, {number(one['above'], 4)} above the best"
                for _, one in seen.iterrows()
            ]
            mark(dots, index, *texts)
        if kind == "log_uniform":
            log_axis(ax, float(ends[0]), float(ends[1]))
        ax.set_ylim(-0.04 * top, 1.06 * top if top else 1.0)
        ax.set_xlabel(short_name(_RATE))
        ax.set_ylabel(f"above the best, {unit(metric)}")
        legend(figure, ax, drawn)
        caption = (
            f"How far the {metric_name(metric)} of each complete explore trial lies above that of its arm's best, over "
            "its learning rate; trials that are further off are cut off. A wide valley forgives a wrong learning "
            "rate." + (f" Shaded: less than δ = {rounded(delta)}." if has_delta else "")
        )
        return drawing(figure, "learning-rates", "Learning rates near the best trial of each arm", caption)
