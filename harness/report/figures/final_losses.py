"""The final losses of each arm, run by run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.analysis.comparison import intervals, metric_name, unit
from harness.analysis.evidence import Evidence
from harness.analysis.statistics import Interval
from harness.report.figures.axes import WIDTH
from harness.report.figures.drawing import INK, Drawing, arm_style, drawing, label, style
from harness.report.figures.readings import arm_gid, mark
from harness.report.tables.comparison import by_loss
from harness.report.text.numbers import decimals_for, number, signed


def final_losses(evidence: Evidence) -> Drawing | None:
    """The final value of every seed with mean and interval, next to the paired differences to the baseline."""
    comparison, chosen = by_loss(evidence.comparison.reset_index(drop=True)), evidence.chosen
    metric, arms = evidence.metric, list(comparison["arm"])
    indices = list(comparison.index)  # of the arms in the spec, which decide colours and marks
    if metric not in chosen or chosen[metric].count() < 2:  # a single dot shows no more than the table
        return None
    paired = bool(comparison["pairs"].sum())
    with style("final-loss"):
        figure = Figure(figsize=(WIDTH, 1.15 + 0.42 * len(arms)))
        axes = figure.subplots(1, 1 + paired, sharey=True, squeeze=False)[0]
        seeds = {arm: chosen[chosen["arm"] == arm].set_index("seed")[metric].dropna() for arm in arms}
        lost = comparison["diverged"] > 0
        own = [seeds[arm] for arm in arms]
        _dots(axes[0], arms, own, _of_trained(intervals(comparison), lost), indices, number)
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
                arms,
                [x[:0] if is_base else x for x, is_base in zip(apart, where, strict=True)],
                _of_trained(intervals(comparison, "difference"), lost | lost[where].any()),
                indices,
                signed,
            )
            axes[1].axvline(0, color=INK, linewidth=0.8, linestyle="--")
            axes[1].set_title("Paired difference to the baseline")
            axes[1].set_xlabel(f"{name} (left of 0: lower than the baseline)")
        caption = (
            f"Final {metric_name(metric)} of every complete confirm run (dots, one per seed) with the mean "
            "and its 95 % t interval (bar above)."
            + (" Arms with diverged runs have no bar." if lost.any() else "")
            + (" Right: the same runs, each minus the baseline's run with the same seed." if paired else "")
        )
        return drawing(figure, "final-loss", f"Final {metric_name(metric)} of every seed per arm", caption)


def _spread(values: pd.Series) -> float:
    """Their standard deviation; NaN for fewer than two."""
    return float(values.std()) if len(values) > 1 else math.nan


def _of_trained(found: Sequence[Interval], lost: Iterable[bool]) -> list[Interval]:
    """The intervals, without those that count diverged runs: they would fill the panel."""
    return [Interval(math.nan, math.nan, math.nan) if gone else one for one, gone in zip(found, lost, strict=True)]


def _paired(own: pd.Series, base: pd.Series) -> pd.Series:
    """Seed → the difference, for the seeds of both."""
    common = own.index.intersection(base.index)
    return own.loc[common] - base.loc[common]


def _dots(
    ax: Axes,
    arms: Sequence[str],
    values: Sequence[pd.Series],
    found: Sequence[Interval],
    indices: Sequence[int],
    to_text: Callable[[float, int], str],
) -> None:
    """One row per arm: dots for its runs and, slightly above, mean and interval.

    Args:
        ax: the panel.
        arms: names, from the top.
        values: of each arm, by seed.
        found: mean and interval of each arm.
        indices: of the arms in the spec.
        to_text: writes a value with so many decimals.
    """
    decimals = decimals_for([*(interval.half_width for interval in found), *(_spread(dots) for dots in values)])
    for place, (arm, index, dots, interval) in enumerate(zip(arms, indices, values, found, strict=True)):
        colour, _, marker = arm_style(index)
        if len(dots):
            heights = np.full(len(dots), place + 0.12)
            (drawn,) = ax.plot(
                dots.to_numpy(float), heights, marker, color=colour, markersize=5, alpha=0.6, markeredgewidth=0
            )
            texts = [f"{arm}, seed {seed}: {to_text(float(value), decimals)}" for seed, value in dots.items()]
            mark(drawn, index, *texts)
        text = f"{arm}: mean {to_text(interval.mean, decimals)}"
        if not math.isnan(interval.low):
            text += f", 95 % interval {number(interval.low, decimals)} to {number(interval.high, decimals)}"
            (bar,) = ax.plot(
                [interval.low, interval.high], [place - 0.16] * 2, color=colour, linewidth=2, solid_capstyle="butt"
            )
            mark(bar, index, text)
        if len(dots) and not math.isnan(interval.mean):
            (mean,) = ax.plot(interval.mean, place - 0.16, "|", color=INK, markersize=9, markeredgewidth=1.4)
            if math.isnan(interval.low):
                mark(mean, index, text)
            else:
                mean.set_gid(arm_gid(index))
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(5))
