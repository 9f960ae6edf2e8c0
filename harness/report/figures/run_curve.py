"""The loss curve of one run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from harness.report.figures.axes import loss_sides
from harness.report.figures.drawing import Drawing, arm_style, drawing, style


def run_curve(curves: pd.DataFrame) -> Drawing:
    """Training and validation loss of one run over training tokens.

    Args:
        curves: one row per point and metric with `tokens`, `metric`, `value`.

    Raises:
        ValueError: the run has neither a training nor a validation loss.
    """
    finite = curves[np.isfinite(curves["value"])]
    sides = [side for side in loss_sides(finite) if (finite["metric"] == side[0]).any()]
    if not sides:
        raise ValueError("curves: found no train/loss and no val/loss; allowed: the points of a run that was evaluated")
    with style("loss-curve"):
        figure = Figure(figsize=(4.6, 2.8))  # a layout that measures every text would double the time
        ax = figure.add_axes((0.13, 0.16, 0.84, 0.8))
        for index, (metric, name) in enumerate(reversed(sides)):
            line = finite[finite["metric"] == metric].sort_values("tokens")
            colour, _, marker = arm_style(index)
            ax.plot(line["tokens"], line["value"], color=colour, marker=marker, markersize=3, label=name)
        ax.set_ylabel("nats per token")
        ax.set_xlabel("training tokens")
        ax.xaxis.set_major_formatter(EngFormatter(sep=" "))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.margins(x=0.02)
        ax.legend()
        return drawing(figure, "loss-curve", "Loss over training tokens", "")
