"""The loss curves of a sweep: training and validation loss and their gap, over tokens, steps, seconds or FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from harness.analysis.columns import numbers
from harness.analysis.comparison import unit
from harness.analysis.evidence import Evidence
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase
from harness.report.figures.axes import (
    WIDTH,
    legend,
    legend_rows,
    loss_sides,
    mean_and_range,
    needs_marks,
    on_one_grid,
    validation_side,
)
from harness.report.figures.drawing import Drawing, arm_style, drawing, style
from harness.report.figures.readings import arm_gid, readable
from harness.report.text.numbers import number, significant

_SKIP: Final = 0.2  # first share of the x axis whose losses may be cut off: the fall from ln(vocabulary) hides the rest
_FEW_POINTS: Final = 4  # up to this many evaluations nothing is cut off
_GAP: Final = "gap"
_HIGHEST_LOSS_WITH_PERPLEXITY: Final = 16.0  # exp(16) is nine million; the loss at initialisation is near 10.8


@dataclass(frozen=True)
class Axis:
    """An x axis of the loss curves.

    Attributes:
        name: a slug.
        title: its name in the page's switch.
        column: column of the frame that `with_x_columns` returns.
        label: axis label with unit.
    """

    name: str
    title: str
    column: str
    label: str


AXES: Final = (
    Axis("tokens", "tokens", "tokens", "training tokens"),
    Axis("steps", "steps", "step", "optimizer steps"),
    Axis("seconds", "seconds", "seconds", "time, s"),
    Axis("flops", "FLOPs", "flops", "training FLOPs"),
)


def with_x_columns(curves: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Curves with a column for every x axis: adds `flops`, and `seconds` if it is missing (NaN)."""
    rate = runs.set_index("run_id")["flops_per_token"] if "flops_per_token" in runs else pd.Series(dtype=float)
    flops = numbers(curves, "tokens") * pd.to_numeric(curves["run_id"].map(rate), errors="coerce")
    return curves.assign(tokens=numbers(curves, "tokens"), flops=flops, seconds=numbers(curves, "seconds"))


def loss_curves(evidence: Evidence, axis: Axis = AXES[0]) -> Drawing | None:
    """Training and validation loss and their gap: per arm the mean and the range of its confirm runs.

    If arms predict different tokens (they are compared by bits per byte), losses are not comparable: only
    that metric is drawn. Confirm runs that ended early are drawn up to their end.

    Args:
        evidence: of the sweep.
        axis: the x axis.

    Returns:
        None if there is nothing to draw, or if the curves have no values for `axis`.
    """
    if (curves := evidence.curves) is None:
        return None
    runs, arms, metric = evidence.runs, evidence.arms, evidence.metric
    shown = loss_sides(curves) if metric == metrics.VAL_LOSS else (validation_side(curves, metric),)
    confirm = curves[curves["metric"].isin([side for side, _ in shown])]  # few of the rows
    confirm = with_x_columns(confirm[(confirm["phase"] == Phase.CONFIRM) & np.isfinite(confirm["value"])], runs)
    confirm = confirm.assign(at=confirm[axis.column].astype(float)).dropna(subset="at")
    complete = confirm[confirm["run_id"].isin(evidence.chosen["run_id"])]
    ended_early = confirm[confirm["outcome"] != Outcome.COMPLETE]
    present = set(complete["arm"])
    drawn = [arm for arm in arms if arm in present]
    sides = [side for side in shown if (complete["metric"] == side[0]).any()]
    if not drawn or not sides:
        return None
    name = "loss-curves" if axis == AXES[0] else f"loss-curves-{axis.name}"
    both = len(sides) > 1
    with style(name):
        figure = Figure(figsize=(WIDTH, 3.3 + 0.18 * legend_rows(drawn)))
        axes = figure.subplots(1, len(sides) + both, squeeze=False)[0]
        cut, scaled = 0.0, False
        for ax, (side, title) in zip(axes, sides, strict=False):
            _means(ax, complete, side, arms)
            ax.set_title(title)
            readable(ax, title, axis.label.removesuffix(", s"))
            cut = max(cut, _fit_loss_axis(ax, complete[complete["metric"] == side]))
            _draw_all_ended_early(ax, ended_early, side, arms)
            if metric == metrics.VAL_LOSS:
                scaled |= _perplexity_scale(ax)
        if both:
            _means(axes[2], _gaps(complete, sides[1][0]), _GAP, arms)
            _draw_all_ended_early(axes[2], _gaps(ended_early, sides[1][0]), _GAP, arms)
            axes[2].set_title("Validation minus training loss")
            readable(axes[2], "Validation minus training loss", axis.label.removesuffix(", s"))
        axes[0].set_ylabel(f"{unit(metric)} (right: perplexity)" if scaled else unit(metric))
        for ax in axes:
            _label_x_axis(ax, axis)
        legend(figure, axes[len(sides) - 1], drawn)
        titles = " and ".join(title.lower() for _, title in sides)
        caption = _caption(titles, axis, complete, ended_early, cut, both, scaled)
        each = " per arm" if len(arms) > 1 else ""
        return drawing(figure, name, f"{titles.capitalize()}{each} over {axis.title}", caption)


def _caption(
    titles: str,
    axis: Axis,
    complete: pd.DataFrame,
    ended_early: pd.DataFrame,
    cut: float,
    both: bool,
    scaled: bool,
) -> str:
    several = complete.groupby("arm")["run_id"].nunique().max() > 1
    words = [f"{titles.capitalize()} over {axis.label.removesuffix(', s')}, confirm runs."]
    if scaled:
        words.append("The scale on the right of each panel is perplexity, exp(loss).")
    if several:
        words.append("Line: mean over seeds; band: lowest to highest seed.")
    else:
        words.append(f"One seed{' per arm' if complete['arm'].nunique() > 1 else ''}, so no band.")
    if len(ended_early):
        who = "ended early or are still training" if ended_early["outcome"].isna().any() else "ended early"
        words.append(
            f"Dotted lines: runs that {who}; they end in a cross, diverged ones in an open triangle (at the upper edge "
            "if the loss is above it)."
        )
    if both:
        words.append("Last panel: the generalisation gap, each run's validation loss minus its training loss.")
    if axis.name == "seconds":
        words.append("Time includes evaluations, and other runs may have trained at the same time.")
    if cut:
        words.append(f"Higher losses at the beginning, up to {number(cut, 2)}, are cut off.")
    return " ".join(words)


def _gaps(curves: pd.DataFrame, metric: str = metrics.VAL_LOSS) -> pd.DataFrame:
    """Validation minus training loss of each run at the steps that have both, as rows like those of `curves`."""
    places = curves.set_index(["run_id", "step"])
    validation, training = (places[places["metric"] == name] for name in (metric, metrics.TRAIN_LOSS))
    value = (validation["value"] - training["value"]).dropna()
    return validation.loc[value.index].assign(value=value, metric=_GAP).reset_index()


def _means(ax: Axes, complete: pd.DataFrame, metric: str, arms: Sequence[str]) -> None:
    points_of = dict(iter(complete[complete["metric"] == metric].groupby("arm", sort=False)))
    for index, arm in enumerate(arms):
        if arm in points_of:
            mean_and_range(ax, on_one_grid(points_of[arm]), arm, index, needs_marks(arms))


def _draw_all_ended_early(ax: Axes, ended_early: pd.DataFrame, metric: str, arms: Sequence[str]) -> None:
    """Draw the runs that ended early without changing the axis limits."""
    top = ax.get_ylim()[1]
    ax.set_ylim(ax.get_ylim())
    shown = ended_early[(ended_early["metric"] == metric) & ended_early["arm"].isin(list(arms))]
    for _, run in shown.groupby("run_id", sort=True):
        draw_ended_early(ax, run.sort_values("at"), list(arms).index(run["arm"].iloc[0]), top)


def draw_ended_early(ax: Axes, run: pd.DataFrame, index: int, top: float) -> None:
    """Draw a run that ended early, ending in a cross, or in an open triangle if it diverged.

    An end above the axes is marked at their upper edge.

    Args:
        ax: the axes.
        run: its points, `at` and `value`, in order, with its `outcome`.
        index: index of its arm.
        top: upper limit of the y axis.
    """
    colour = arm_style(index)[0]
    diverged = run["outcome"].iloc[0] == Outcome.DIVERGED
    (line,) = ax.plot(run["at"], run["value"], color=colour, linestyle=":", linewidth=0.9)
    last, marker = run.iloc[-1], "^" if diverged else "x"
    (end,) = ax.plot(
        last["at"], min(last["value"], top), marker, color=colour, markersize=5, fillstyle="none", clip_on=False
    )
    line.set_gid(arm_gid(index))
    end.set_gid(arm_gid(index))


def _fit_loss_axis(ax: Axes, curves: pd.DataFrame) -> float:
    """Fit the loss axis to the losses after the first fall. Returns the highest loss that is cut off, or 0."""
    skipped = _SKIP * curves["at"].max() if curves["at"].nunique() > _FEW_POINTS else 0.0
    later = curves[curves["at"] >= skipped]["value"]
    low, high, highest = float(later.min()), float(later.max()), float(curves["value"].max())
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    cut = highest > high + pad
    ax.set_ylim(low - pad, high + pad if cut else highest + pad)
    return highest if cut else 0.0


def _perplexity_scale(ax: Axes) -> bool:
    """Add a second scale on the right, exp(loss), unless the losses are too high for it. Returns whether it was."""
    if ax.get_ylim()[1] > _HIGHEST_LOSS_WITH_PERPLEXITY:
        return False
    right = ax.secondary_yaxis("right", functions=(np.exp, lambda value: np.log(np.maximum(value, 1e-9))))
    low, high = (float(np.exp(end)) for end in ax.get_ylim())
    wide = high > 8 * low
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(6, steps=[1, 2, 5, 10]))
    right.yaxis.set_minor_formatter(NullFormatter())
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _grouped(value)))
    return True


def _grouped(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else significant(float(f"{value:.3g}"), 3).rstrip("0").rstrip(".")


def _label_x_axis(ax: Axes, axis: Axis) -> None:
    ax.set_xlabel(axis.label)
    ax.xaxis.set_major_formatter(EngFormatter(sep=" " if axis.name != "seconds" else ""))
    if axis.name == "seconds":
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}"))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.margins(x=0.02)
