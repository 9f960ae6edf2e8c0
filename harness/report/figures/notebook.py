"""Figures for notebooks: they draw into matplotlib axes of the caller, in the caller's style."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from harness.analysis.comparison import intervals, metric_name, unit
from harness.core import metrics
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase
from harness.core.text import listed
from harness.report.figures.axes import mean_and_range, on_one_grid, validation_side
from harness.report.figures.drawing import arm_style, label

_X_LABELS = {"tokens": "training tokens", "step": "optimizer steps", "seconds": "time, s"}


def plot_curves(
    curves: pd.DataFrame | Iterable[Point],
    metric: str = metrics.VAL_LOSS,
    x: str = "tokens",
    arms: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a metric over training: per arm the mean of its confirm runs as a line, and their range as a band.

        plot_curves(load_curves("dropout"))

    Args:
        curves: as `load_curves` returns them, or the points of one run, as `train` yields them. Complete confirm runs
            are drawn; if there are none, all complete runs.
        metric: such as `val/loss`, `train/loss` or `optim/grad_norm`. Where a sweep has validation losses of a sample
            during training (`train.eval_tokens`), those are drawn.
        x: `tokens`, `step` or `seconds`.
        arms: which, and in which order; by default all, in order of appearance.
        ax: to draw into; by default new axes.

    Raises:
        ValueError: the curves have no such metric, column or arm.
    """
    curves = curves if isinstance(curves, pd.DataFrame) else _frame(curves)
    if x not in _X_LABELS:
        raise ValueError(f"x: found {x!r}; allowed: {', '.join(_X_LABELS)}")
    name = metric if not metric.startswith("val/") else validation_side(curves, metric)[0]
    points = curves[(curves["metric"] == name) & (curves["outcome"] == Outcome.COMPLETE)]
    confirm = points[points["phase"] == Phase.CONFIRM]
    points = (points if confirm.empty else confirm).assign(at=lambda rows: rows[x].astype(float)).dropna(subset="at")
    if points.empty:
        known = sorted(set(curves["metric"])) or ["none"]
        raise ValueError(f"metric: found {metric!r}, which no complete run has; allowed: {listed(known)}")
    every = list(dict.fromkeys(points["arm"]))
    arms = every if arms is None else list(arms)
    if unknown := [arm for arm in arms if arm not in every]:
        raise ValueError(f"arms: found {unknown[0]!r}; allowed: {listed(every)}")
    ax = plt.subplots()[1] if ax is None else ax
    for index, arm in enumerate(arms):
        mean_and_range(ax, on_one_grid(points[points["arm"] == arm]), arm, index)
    ax.set_xlabel(_X_LABELS[x])
    ax.set_ylabel(f"{metric_name(name)}, {unit(name)}" if name.startswith(("val", "test")) else name)
    if len(arms) > 1:
        ax.legend()
    return ax


def _frame(points: Iterable[Point]) -> pd.DataFrame:
    """The points of one run as `load_curves` would return them."""
    rows = [
        ("", "run", Phase.CONFIRM, Outcome.COMPLETE, point.step, point.tokens, point.seconds, name, value)
        for point in points
        for name, value in point.metrics.items()
    ]
    names = ["run_id", "arm", "phase", "outcome", "step", "tokens", "seconds", "metric", "value"]
    return pd.DataFrame(rows, columns=names)


def plot_comparison(comparison: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw each arm's difference to the baseline with its 95 % interval, and the zone of ±δ as a grey band.

        plot_comparison(compare(load_runs("dropout")))

    Args:
        comparison: as `compare` returns it.
        ax: to draw into; by default new axes.

    Raises:
        ValueError: no arm has a pair with a baseline.
    """
    if not comparison["pairs"].sum():
        raise ValueError("comparison: found no arm with a pair; allowed: a comparison with a baseline")
    ax = plt.subplots()[1] if ax is None else ax
    metric, delta = str(comparison["metric"].iloc[0]), float(comparison["delta"].max())
    if math.isfinite(delta):
        ax.axvspan(-delta, delta, color="0.5", alpha=0.2, linewidth=0)
    ax.axvline(0, color="0.3", linewidth=0.9)
    for place, (interval, diverged) in enumerate(
        zip(intervals(comparison, "difference"), comparison["diverged"], strict=True)
    ):
        colour, _, marker = arm_style(place)
        if comparison["is_baseline"].iloc[place]:
            ax.plot(0, place, marker, color=colour, fillstyle="none")
        elif math.isfinite(interval.mean) and not diverged:
            ax.errorbar(interval.mean, place, xerr=interval.half_width, fmt=marker, color=colour, capsize=3)
    names = zip(comparison["arm"], comparison["is_baseline"], comparison["verdict"], strict=True)
    ax.set_yticks(
        range(len(comparison)),
        [f"{label(arm)} ({'baseline' if base else verdict})" for arm, base, verdict in names],
    )
    ax.invert_yaxis()
    ax.set_xlabel(f"{metric_name(metric)} minus the baseline's, {unit(metric)}")
    return ax
