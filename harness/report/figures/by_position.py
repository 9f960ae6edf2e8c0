"""The loss by position in the context window, per arm."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from harness.analysis.evidence import Evidence
from harness.report.figures.axes import WIDTH, legend, legend_rows, mean_and_range, needs_marks
from harness.report.figures.drawing import Drawing, drawing, style
from harness.report.figures.readings import readable


def losses_by_position(evidence: Evidence) -> Drawing | None:
    """Validation loss of confirm runs over the number of tokens before the target in its window.

    None if no run has them.
    """
    if (positions := evidence.positions) is None:
        return None
    chosen = positions[positions["run_id"].isin(evidence.chosen["run_id"])]
    drawn = [arm for arm in evidence.arms if (chosen["arm"] == arm).any()]
    if not drawn:
        return None
    with style("loss-by-position"):
        figure = Figure(figsize=(WIDTH, 3.4 + 0.18 * legend_rows(drawn)))
        ax = figure.subplots()
        for arm in drawn:
            lines = [octaves(run["loss"].to_numpy(float)) for _, run in chosen[chosen["arm"] == arm].groupby("run_id")]
            shared = min(len(line) for line in lines)
            losses = np.stack([line[:shared] for line in lines])
            context = np.exp2(np.arange(shared, dtype=np.float64))
            mean_and_range(ax, (context, losses), arm, evidence.arms.index(arm), needs_marks(evidence.arms))
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(LogLocator(base=2, numticks=20))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.set_xlabel("tokens of context in the window (upper end of the bin)")
        ax.set_ylabel("nats per token")
        readable(ax, "Validation loss", "tokens of context")
        legend(figure, ax, drawn)
        caption = (
            "Validation loss by the number of tokens before the target in its window, averaged over the bins 1, 2, "
            "3 to 4, 5 to 8, … tokens. Line: mean over seeds; band: lowest to highest seed. Where a line stops "
            "falling, more context does not help this model."
        )
        return drawing(figure, "loss-by-position", "Validation loss by position", caption)


def octaves(losses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Average a loss by position over the bins 1, 2, 3–4, 5–8, …; shape (1 + ceil(log2 n),).

    Single positions are averages over few windows and too noisy to read.
    """
    ends = [2**k for k in range(64) if 2**k < 2 * len(losses)]
    starts = [0, *ends[:-1]]
    return np.array([losses[start:end].mean() for start, end in zip(starts, ends, strict=True)])
