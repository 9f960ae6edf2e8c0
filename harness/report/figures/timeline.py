"""The timeline: which run trained when, beside which others."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.analysis.columns import numbers
from harness.analysis.evidence import Evidence
from harness.core.outcomes import Outcome, Phase
from harness.core.text import plural
from harness.report.figures.axes import WIDTH, legend, legend_rows
from harness.report.figures.drawing import INK, Drawing, arm_style, drawing, label, style
from harness.report.figures.readings import mark
from harness.report.text.numbers import duration

_MOST: Final = 400  # bars: each has its own title
_GAP: Final = 0.1  # share of the time of all others; longer breaks without a run are cut out
_ROW: Final = 0.22  # inches
_MOST_LANES: Final = 40

Floats = npt.NDArray[np.float64]


def timeline(evidence: Evidence) -> Drawing | None:
    """Every run as a bar from its start to its end, in lanes of runs that did not overlap.

    Returns:
        None for fewer than two runs of known times, or more than can be drawn.
    """
    runs = evidence.runs
    if "started" not in runs or "seconds" not in runs:
        return None
    runs = runs.assign(length=numbers(runs, "seconds"), begin=_seconds_of(runs["started"]))
    runs = runs[runs["arm"].isin(evidence.arms) & (runs["length"] > 0) & np.isfinite(runs["begin"])]
    runs = runs.sort_values(["begin", "run_id"], ignore_index=True)
    if not 2 <= len(runs) <= _MOST:
        return None
    nodes = runs["node"].fillna("").astype(str) if "node" in runs else pd.Series("", index=runs.index)
    begin, length = runs["begin"].to_numpy(float), runs["length"].to_numpy(float)
    places = lanes(begin, length, list(nodes))
    names = list(dict.fromkeys(places))
    if len(names) > _MOST_LANES:
        return None
    starts, cuts = without_breaks(begin, length)
    unit, size = next(
        (name, seconds)
        for name, seconds in (("h", 3600.0), ("min", 60.0), ("s", 1.0))
        if (starts + length).max() >= 1.5 * seconds or name == "s"
    )
    drawn = [arm for arm in evidence.arms if (runs["arm"] == arm).any()]
    with style("timeline"):
        figure = Figure(figsize=(WIDTH, 0.8 + _ROW * len(names) + 0.18 * legend_rows(drawn)))
        ax = figure.subplots()
        named: set[str] = set()
        for run, start, lane in zip(runs.to_dict("records"), starts, places, strict=True):
            index = evidence.arms.index(run["arm"])
            colour, confirm = arm_style(index)[0], run["phase"] != Phase.EXPLORE
            ended = run["outcome"] == Outcome.COMPLETE
            (bar,) = ax.barh(
                names.index(lane),
                run["length"] / size,
                left=start / size,
                height=0.72,
                facecolor=colour if ended else "none",
                edgecolor=colour,
                linewidth=0.8,
                alpha=1.0 if confirm else 0.5,
                label="" if run["arm"] in named else label(run["arm"]),
            )
            named.add(run["arm"])
            took = f"{run['outcome'] or 'training'}, {duration(run['length'])}"
            mark(bar, index, f"{run['name']}: {run['phase']}, {took}, from {run['started']:%Y-%m-%d %H:%M:%S} UTC")
        for cut in cuts:
            ax.axvline(cut / size, color=INK, linewidth=0.8, linestyle=":")
        ax.set_yticks(range(len(names)), [_lane_name(*lane) for lane in names])
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
        ax.set_xlim(left=0)
        ax.set_xlabel(f"time since the first run began, {unit}")
        legend(figure, ax, drawn)
        return drawing(figure, "timeline", "When each run trained", _caption(runs, len(cuts), bool(nodes.any())))


def _caption(runs: pd.DataFrame, cuts: int, nodes: bool) -> str:
    kinds = set(runs["phase"])
    worker = "one worker of that machine" if nodes else "one worker"
    words = [f"Each bar is a run, from its start to its end. A row has the runs of {worker}, one after the other."]
    if Phase.EXPLORE in kinds and len(kinds) > 1:
        words.append("Pale bars: explore trials.")
    if (runs["outcome"] != Outcome.COMPLETE).any():
        words.append("Empty bars: runs that ended early.")
    if cuts:
        words.append(f"Dotted lines: {plural(cuts, 'break')} without any run, cut out.")
    words.append("The bar of a run that was interrupted is as long as the run trained.")
    return " ".join(words)


def _lane_name(node: str, lane: int) -> str:
    return f"{label(node)}, {lane}" if node else f"worker {lane}"


def _seconds_of(times: pd.Series) -> Floats:
    known = pd.to_datetime(times, utc=True).astype("datetime64[ns, UTC]")
    seconds: Floats = known.astype("int64").to_numpy() / 1e9
    return np.where(known.isna(), math.nan, seconds)


def lanes(begin: Floats, length: Floats, nodes: Sequence[str]) -> list[tuple[str, int]]:
    """A lane for each run, in the order of their starts: the first one of its machine that is free; (machine, number).

    Args:
        begin: start of each run in seconds, increasing.
        length: of each run, in seconds.
        nodes: machine of each run; empty where there is one.
    """
    free: dict[str, list[int]] = {}
    busy: dict[str, list[tuple[float, int]]] = {}  # end of the last run, lane
    found = []
    for start, seconds, node in zip(begin, length, nodes, strict=True):
        ended, mine = busy.setdefault(node, []), free.setdefault(node, [])
        while ended and ended[0][0] <= start:
            heapq.heappush(mine, heapq.heappop(ended)[1])
        lane = heapq.heappop(mine) if mine else len(ended) + 1
        heapq.heappush(ended, (float(start + seconds), lane))
        found.append((node, lane))
    return found


def without_breaks(begin: Floats, length: Floats) -> tuple[Floats, list[float]]:
    """Starts counted from the first one, without long breaks in which nothing trained; and where those were.

    Args:
        begin, length: as for `lanes`.
    """
    ends = np.maximum.accumulate(begin + length)
    gaps = np.maximum(0.0, begin[1:] - ends[:-1])
    busy = float(ends[-1] - begin[0] - gaps.sum())
    long = np.where(gaps > max(_GAP * busy, 1.0), gaps, 0.0)
    starts: Floats = begin - begin[0] - np.concatenate([[0.0], np.cumsum(long)])
    return starts, [float(starts[place + 1]) for place in np.flatnonzero(long)]
