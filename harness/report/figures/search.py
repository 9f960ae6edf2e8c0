"""Figures of the search inside each arm: trials, expected best of k trials, importance of dimensions.

Sources: Godbole et al. 2023, "Deep Learning Tuning Playbook" (isolation plots); Dodge et al. 2019, "Show Your Work"
(expected best of k trials).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from harness.analysis.comparison import metric_name, unit
from harness.analysis.evidence import Evidence
from harness.analysis.search_quality import Floats
from harness.analysis.trials import option_index
from harness.config.fields import short_name
from harness.config.samplers import SAMPLERS
from harness.core.outcomes import Outcome, Phase
from harness.core.text import plural
from harness.report.figures.axes import WIDTH, legend, legend_rows, log_axis, outer_labels, panels_of
from harness.report.figures.drawing import INK, Drawing, arm_style, as_arm, drawing, label, style
from harness.report.figures.loss_curves import draw_ended_early
from harness.report.figures.readings import arm_gid
from harness.report.text.names import some
from harness.report.text.numbers import number, setting

_TOGETHER: Final = 4  # more arms than this get a panel each: their bands would overlap
_FALL: Final = 2.0  # visible part of the early fall, in units of the range after it
_EARLY: Final = 0.2  # first share of the tokens whose losses may be cut off
_FEW: Final = 12  # integer ranges below this width are drawn like choices
_STEPS: Final = (1, 2, 5, 10)  # steps between ticks


def tuning(evidence: Evidence) -> Drawing | None:
    """The final metric of every explore trial over each tuned dimension, with a ring around each arm's best trial."""
    runs, arms, tune, metric = evidence.runs, evidence.arms, evidence.space, evidence.metric
    explored = runs[runs["phase"] == Phase.EXPLORE]
    paths = [path for path in tune if path in explored]
    if not paths or metric not in explored:
        return None
    complete = explored[(explored["outcome"] == Outcome.COMPLETE) & explored[metric].notna()]
    if complete.empty:
        return None
    columns = min(len(paths), 2)
    rows = math.ceil(len(paths) / columns)
    drawn = [arm for arm in arms if (explored["arm"] == arm).any()]
    low = float(explored.loc[explored["outcome"].isin([Outcome.COMPLETE, Outcome.PRUNED]), metric].min())
    high = float(complete[metric].max())
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    # Values above the axes are drawn at the top, one row per arm, because arms often try the same settings.
    edges = {arm: high + pad * (1 + min(0.5, 3 / len(arms)) * index) for index, arm in enumerate(arms)}
    with style("tuning"):
        figure = Figure(figsize=(WIDTH if columns > 1 else 5.6, 2.7 * rows + 0.18 * legend_rows(drawn)))
        grid = figure.subplots(rows, columns, squeeze=False)
        for ax, path in zip(grid.flat, paths, strict=False):
            _dimension(ax, explored, arms, path, tune[path], metric, edges)
            ax.set_ylim(low - pad, edges[arms[-1]] + 0.6 * pad)
        for ax in list(grid.flat)[len(paths) :]:
            ax.set_visible(False)
        for ax in grid[:, 0]:
            ax.set_ylabel(metric_name(metric))
        legend(figure, grid[0][0], drawn)
        return drawing(figure, "tuning", "Explore trials over each tuned dimension", _tuning_caption(explored, metric))


def _tuning_caption(explored: pd.DataFrame, metric: str) -> str:
    kinds = set(explored["outcome"])
    parts = [
        f"Explore trials: final {metric_name(metric)} over each tuned dimension. Filled marks: complete trials, with a "
        "ring around the best of each arm."
    ]
    if Outcome.PRUNED in kinds:
        parts.append("Crosses: pruned trials at their last value, at the top if that is higher; they have no result.")
    if Outcome.DIVERGED in kinds:
        parts.append("Open triangles at the top: diverged trials.")
    return " ".join(parts)


def _dimension(
    ax: Axes,
    explored: pd.DataFrame,
    arms: Sequence[str],
    path: str,
    dimension: Mapping[str, Sequence[Any]],
    metric: str,
    edges: Mapping[str, float],
) -> None:
    (kind, values), *_ = dimension.items()
    for index, arm in enumerate(arms):
        colour, _, marker = arm_style(index)
        mine = explored[explored["arm"] == arm]
        if kind == "choice":
            options = [option_index(value, values) for value in mine[path]]
            place = pd.Series([math.nan if at is None else float(at) for at in options], index=mine.index)
        else:
            place = pd.to_numeric(mine[path], errors="coerce").astype(float)
        if kind == "choice" or (kind == "int_uniform" and values[1] - values[0] < _FEW):
            # Arms are drawn side by side within an option, so that they do not overlap.
            place = place + 0.5 * ((index + 0.5) / len(arms) - 0.5)
        loss = mine[metric]
        done = mine["outcome"] == Outcome.COMPLETE
        with as_arm(ax, index):
            ax.plot(
                place[done],
                loss[done],
                marker,
                color=colour,
                markersize=5,
                alpha=0.85,
                markeredgewidth=0,
                label=label(arm),
            )
            best = done & (loss == loss[done].min())
            ax.plot(place[best], loss[best], "o", color=colour, markersize=10, markeredgewidth=1.1, fillstyle="none")
            pruned = (mine["outcome"] == Outcome.PRUNED) & loss.notna()
            ax.plot(place[pruned], loss[pruned].clip(upper=edges[arm]), "x", color=colour, markersize=4.5, alpha=0.7)
            lost = mine["outcome"] == Outcome.DIVERGED
            ax.plot(
                place[lost], np.full(int(lost.sum()), edges[arm]), "^", color=colour, markersize=5, fillstyle="none"
            )
    ax.set_xlabel(short_name(path))
    if kind == "choice":
        ax.set_xticks(range(len(values)), [label(setting(value)) for value in values])
        ax.set_xlim(-0.6, len(values) - 0.4)
    elif kind == "log_uniform":
        log_axis(ax, float(values[0]), float(values[1]))
    else:
        margin = 0.04 * (float(values[1]) - float(values[0])) + 0.3 * (kind == "int_uniform")
        ax.set_xlim(float(values[0]) - margin, float(values[1]) + margin)
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS, integer=kind == "int_uniform"))


def trial_curves(evidence: Evidence) -> Drawing | None:
    """Validation loss of every explore trial over training tokens, one panel per arm.

    Returns:
        None if no trial has two points.
    """
    if (curves := evidence.curves) is None or not evidence.trials:
        return None
    arms, metric = evidence.arms, evidence.metric
    tried = curves[(curves["phase"] == Phase.EXPLORE) & (curves["metric"] == metric) & np.isfinite(curves["value"])]
    tried = tried.assign(at=pd.to_numeric(tried["tokens"], errors="coerce").astype(float)).dropna(subset="at")
    drawn = [arm for arm in arms if (tried["arm"] == arm).any()]
    if not drawn or tried.groupby("run_id").size().max() < 2:
        return None
    with style("trial-curves"):
        figure, panels = panels_of(len(drawn), 2.0)
        later = tried[tried["at"] >= _EARLY * tried["at"].max()]["value"]
        low, high, highest = float(later.min()), float(later.max()), float(tried["value"].max())
        pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        panels[0].set_ylim(low - pad, min(high, highest) + pad)
        for ax, arm in zip(panels, drawn, strict=True):
            index = arms.index(arm)
            for _, run in tried[tried["arm"] == arm].groupby("run_id", sort=True):
                line = run.sort_values("at")
                if line["outcome"].iloc[0] == Outcome.COMPLETE:
                    (done,) = ax.plot(line["at"], line["value"], color=arm_style(index)[0], linewidth=0.9, alpha=0.75)
                    done.set_gid(arm_gid(index))
                else:
                    draw_ended_early(ax, line, index, ax.get_ylim()[1])
            ax.set_title(label(arm))
            ax.xaxis.set_major_formatter(EngFormatter(sep=" "))
            ax.xaxis.set_major_locator(MaxNLocator(4))
        outer_labels(figure, panels, "training tokens", f"{metric_name(metric)}, {unit(metric)}")
        caption = (
            f"{metric_name(metric).capitalize()} of every explore trial over training tokens. Solid: complete. "
            "Dotted, ending in a cross: pruned or ended early; in an open triangle: diverged."
        )
        if highest > high + pad:
            caption += f" Higher losses at the beginning, up to {number(highest, 2)}, are cut off."
        return drawing(figure, "trial-curves", "Explore trials over training tokens", caption)


def expected_best_curves(evidence: Evidence) -> Drawing | None:
    """The expected best of k trials over k, one line per arm; with more than four arms, one panel per arm.

    Returns:
        None if no arm has two trials.
    """
    arms, metric = evidence.arms, evidence.metric
    lines = {arm: line for arm, line in evidence.expected_best.items() if len(line)}
    if max((len(line) for line in lines.values()), default=0) < 2:
        return None
    bands = evidence.expected_best_bands
    with style("search-luck"):
        if len(lines) <= _TOGETHER:
            figure = Figure(figsize=(WIDTH * 0.75, 3.0 + 0.18 * legend_rows(list(lines))))
            panels = [figure.subplots()]
            for arm, line in lines.items():
                _draw_expected_best(panels[0], line, bands[arm], arm, arms.index(arm))
            legend(figure, panels[0], list(lines))
        else:
            figure, panels = panels_of(len(lines), 1.75)
            for ax, arm in zip(panels, lines, strict=True):
                for other, line in lines.items():
                    if other != arm:
                        ax.plot(np.arange(1, len(line) + 1), line, color=INK, linewidth=0.5, alpha=0.3)
                _draw_expected_best(ax, lines[arm], bands[arm], arm, arms.index(arm))
                ax.set_title(label(arm))
        cut = _fit_loss_axis(panels[0], list(lines.values()), [bands[arm] for arm in lines])
        outer_labels(figure, panels, "trials (k)", f"expected best {metric_name(metric)}")
        for ax in panels:
            ax.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS, integer=True))
        caption = [
            "Expected best of k trials: the mean of the best over all draws of k trials of an arm; a diverged trial "
            "counts as an untrained model. If a line is still falling at its end, more trials would help."
        ]
        if len(lines) > _TOGETHER:
            caption.append("Each panel shows one arm in colour and the others in grey.")
        if any(band.size for band in (bands[arm] for arm in lines)):
            caption.append(
                "Band: 10 to 90 % over bootstrap samples of the trials, up to k = n/3; beyond that it is too narrow."
            )
        if cut:
            caption.append(f"Higher values for few trials, up to {number(cut, 2)}, are cut off.")
        title = f"Expected best {metric_name(metric)} of k explore trials"
        return drawing(figure, "search-luck", title, " ".join([*caption, *_expected_best_notes(evidence)]))


def _expected_best_notes(evidence: Evidence) -> list[str]:
    """Sentences for the end of the caption: where lines cross, and trials that are left out."""
    notes = []
    if evidence.crossings:
        pairs = [f"{first} and {second} at k = {k}" for first, second, k in evidence.crossings]
        notes.append(f"Lines that cross: {some(pairs, 'pairs')}.")
    if any(trials.number_of(Outcome.PRUNED) for trials in evidence.trials.values()):
        notes.append("Pruned trials are left out, which makes arms with many pruned trials look better.")
    sampler = str(evidence.record.study.get("sampler", ""))
    if sampler in SAMPLERS and SAMPLERS[sampler].learns:
        notes.append(f"The sampler {sampler} learns from earlier trials, so a shorter search could differ from this.")
    return notes


def _draw_expected_best(ax: Axes, line: Floats, band: Floats, arm: str, index: int) -> None:
    colour, dash, marker = arm_style(index)
    trials = np.arange(1, len(line) + 1)
    with as_arm(ax, index):
        ax.plot(
            trials, line, color=colour, linestyle=dash, marker=marker, markersize=3.5, markevery=[-1], label=label(arm)
        )
        if band.size:
            ax.fill_between(trials[: band.shape[1]], band[0], band[1], color=colour, alpha=0.14, linewidth=0)


def _fit_loss_axis(ax: Axes, lines: Sequence[Floats], bands: Sequence[Floats]) -> float:
    """Fit the loss axis to the values after a quarter of the trials. Returns the highest value cut off, or 0."""
    everything = [*lines, *(band.ravel() for band in bands if band.size)]
    low, highest = min(float(x.min()) for x in everything), max(float(x.max()) for x in everything)
    later = max(float(np.median([line[len(line) // 4] for line in lines])), max(float(line[-1]) for line in lines))
    span = later - low or 0.02 * abs(later) or 1.0
    cut = highest > low + _FALL * span
    ax.set_ylim(low - 0.06 * span, low + _FALL * span if cut else highest + 0.06 * (highest - low or span))
    return highest if cut else 0.0


def importance_bars(evidence: Evidence) -> Drawing | None:
    """First-order and total Sobol indices of the tuned dimensions, one panel per arm.

    Returns:
        None if no arm has a good enough fit.
    """
    arms = evidence.arms
    found = {arm: rank for arm, rank in evidence.importances.items() if rank is not None and rank.enough}
    shown = [arm for arm in arms if arm in found]
    if not shown:
        return None
    paths = list(dict.fromkeys(share.path for arm in shown for share in found[arm].shares))
    with style("importance"):
        figure, panels = panels_of(len(shown), 0.62 + 0.24 * len(paths))
        for ax, arm in zip(panels, shown, strict=True):
            colour = arm_style(arms.index(arm))[0]
            for share in found[arm].shares:
                row = paths.index(share.path)
                ax.barh(row, share.main, height=0.55, color=colour, alpha=0.55, linewidth=0)
                ax.plot([share.low, share.high], [row, row], color=INK, linewidth=1.1, solid_capstyle="butt")
                ax.plot(share.total, row, "D", color=INK, fillstyle="none", markersize=4, markeredgewidth=0.8)
            fit = f"R² {number(found[arm].r2, 2)}, {plural(found[arm].trials, 'trial')}"
            ax.set_title(f"{label(arm)}\n{fit}")
            ax.grid(axis="y", visible=False)
            ax.tick_params(axis="y", length=0)
            ax.set_xlim(0, 1.02)
            ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        panels[0].set_yticks(range(len(paths)), [short_name(path) for path in paths])
        panels[0].set_ylim(len(paths) - 0.5, -0.5)
        outer_labels(figure, panels, "share of the variance of the loss", "")
        caption = (
            "Sobol indices: the share of the variance of the loss over the search space that a tuned dimension "
            "explains alone (bar, with its 95 % bootstrap interval) and with its interactions (open mark). They come "
            "from a Gaussian process fitted to the complete trials of one arm, without diverged and pruned ones. R²: "
            "how well it predicts trials that it was not fitted to (out-of-bag)."
        )
        return drawing(figure, "importance", "Importance of each tuned dimension per arm", caption)
