"""The figure of seed noise: the minimum detectable effect over the number of seeds."""

from __future__ import annotations

import math
from typing import Final

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from harness.analysis.comparison import metric_name, unit
from harness.analysis.evidence import Evidence
from harness.analysis.significance import ALPHA
from harness.analysis.statistics import (
    detectable_effect,
    seeds_to_detect,
    unpaired_detectable_effect,
)
from harness.core import metrics
from harness.report.figures.axes import WIDTH
from harness.report.figures.drawing import INK, Drawing, arm_style, drawing, style
from harness.report.text.numbers import rounded

_TICKS: Final = (3, 5, 8, 12, 20, 30, 50, 100, 200)


def detectable_sizes(evidence: Evidence) -> Drawing | None:
    """The smallest difference found in 80 % of sweeps over the number of seeds per arm, with δ as a line."""
    spread = evidence.spreads.get(evidence.metric)
    if spread is None or spread.deviation.mean == 0:
        return None
    delta = evidence.delta_nats if evidence.metric == metrics.VAL_LOSS else math.nan
    needed = seeds_to_detect(delta, spread.deviation.mean, ALPHA, detectable=unpaired_detectable_effect)
    last = _TICKS[-1] if needed > _TICKS[-1] else next(tick for tick in _TICKS if tick >= max(20, needed))
    seeds = list(range(_TICKS[0], last + 1))
    with style("seed-noise"):
        figure = Figure(figsize=(0.85 * WIDTH, 3.0))
        ax = figure.subplots()
        for index, (found, name) in enumerate(
            ((unpaired_detectable_effect, "different seeds (unpaired)"), (detectable_effect, "same seeds (paired)"))
        ):
            colour, dash, _ = arm_style(index)
            of_one = [found(1.0, n, ALPHA) for n in seeds]
            estimate, low, high = ([value * size for size in of_one] for value in spread.deviation)
            ax.plot(seeds, estimate, linestyle=dash, color=colour, label=name)
            if not index:
                ax.fill_between(seeds, low, high, color=colour, alpha=0.14, linewidth=0)
        if not math.isnan(delta):
            ax.axhline(
                delta, color=INK, linewidth=0.8, linestyle="--", label=f"δ, the smallest that matters: {rounded(delta)}"
            )
        ax.axhline(spread.two_runs, color=INK, linewidth=0.8, linestyle=":", label="two runs by seed alone (95 %)")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.xaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if tick <= last]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: rounded(value)))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_xlim(seeds[0], last)
        ax.set_xlabel("seeds per arm")
        ax.set_ylabel(f"difference, {unit(spread.metric)}")
        figure.legend(loc="outside right upper")
        caption = (
            f"The smallest true difference in {metric_name(spread.metric)} found in 80 % of sweeps, over the number of "
            "seeds per arm. Paired assumes that half of the variance is shared by runs with one seed. Band: from the "
            "95 % interval of the standard deviation. Dotted: two single runs that differ by less may differ by their "
            "seed alone."
        )
        return drawing(figure, "seed-noise", "Detectable differences by number of seeds", caption)
