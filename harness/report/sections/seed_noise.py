"""How far seeds alone move a result: a sweep of one configuration, which is what any difference has to beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import pandas as pd

from harness.analysis.columns import finite
from harness.analysis.comparison import metric_name, unit, verdict_runs
from harness.analysis.seed_noise import Spread, spread_of
from harness.analysis.significance import ALPHA
from harness.analysis.statistics import (
    detectable_effect,
    seeds_to_detect,
    unpaired_detectable_effect,
)
from harness.config.spec import StudyConfig
from harness.core import metrics
from harness.report.figures.seed_noise import _sizes
from harness.report.sections.section import Section
from harness.report.tables.table import Cell, Column, Row, Table, spelled
from harness.report.text.numbers import decimals_for, number, rounded, significant

if TYPE_CHECKING:
    from harness.tracking import SweepRecord

SEEDS: Final = (1, 3, 5, 8, 12, 20)  # per arm, the rows of the table of sizes
_SHOWN: Final = (metrics.VAL_LOSS, metrics.VAL_BITS_PER_BYTE, metrics.TEST_LOSS, metrics.TEST_BITS_PER_BYTE)
_HEADING: Final = "What seeds alone do"
_SPREAD_NOTE: Final = (
    "Standard deviation over seeds, with its 95 % chi-square interval. Two runs: what the difference of two new runs "
    "with different seeds stays below in 95 % of cases. Such a difference has twice the variance of one run, and that "
    "variance is known from these seeds only: t(0.975, n − 1) · √2 standard deviations. Both rest on seed noise that "
    "is about normal."
)


def noise_section(record: SweepRecord, runs: pd.DataFrame, metric: str = metrics.VAL_LOSS) -> Section | None:
    """What seeds alone do: spread, the difference it explains, and the differences that so many seeds could find.

    Args:
        record, runs: as the tracking readers give them, of one sweep.
        metric: what its runs are judged by.

    Returns:
        None where there are several arms, something was tuned, or fewer than two confirm runs are complete.
    """
    if len(record.arms) != 1 or record.tune:
        return None
    chosen = verdict_runs(runs)
    found = {name: finite(chosen, name) for name in dict.fromkeys((metric, *_SHOWN))}
    spreads = [spread_of(list(values), name) for name, values in found.items() if len(values) > 1]
    if not spreads or spreads[0].metric != metric:
        return None
    main = spreads[0]
    ids = {name: tuple(chosen.loc[values.index, "run_id"]) for name, values in found.items()}
    spread_table = (_spread_table(spreads, ids), _SPREAD_NOTE)
    if main.deviation.mean == 0:
        words = f"All {len(main.values)} seeds end with the same {metric_name(metric)}: there is no spread to report."
        return Section("noise", _HEADING, (words,), tables=(spread_table,))
    delta = float(record.study.get("delta", StudyConfig().delta)) if metric == metrics.VAL_LOSS else math.nan
    return Section(
        anchor="noise",
        heading=_HEADING,
        text=(_said(main), *_planned(main, delta)),
        drawings=(_sizes(main, delta),),
        tables=(spread_table, (_sizes_table(main), _sizes_note(main))),
    )


def _said(spread: Spread) -> str:
    """The spread, and the difference that it explains."""
    estimate, low, high = (significant(value, 2) for value in spread.deviation)
    decimals = decimals_for([spread.deviation.mean])
    ends = f"{number(min(spread.values), decimals)} to {number(max(spread.values), decimals)}"
    size = significant(spread.two_runs, 2)
    relative = ""
    if spread.metric == metrics.VAL_LOSS:
        relative = f" ({significant(100 * math.expm1(spread.two_runs), 2)} % of perplexity)"
    return (
        f"Seeds alone spread the final {metric_name(spread.metric)} by {estimate} (standard deviation in "
        f"{unit(spread.metric)}, 95 % interval {low} to {high}, {len(spread.values)} seeds, from {ends}). "
        f"Two single runs that differ by less than {size}{relative} may differ by their seed alone."
    )


def _planned(spread: Spread, delta: float) -> list[str]:
    """How many seeds find the smallest difference that matters."""
    if math.isnan(delta):
        return []
    unpaired = [
        _seeds(seeds_to_detect(delta, size, ALPHA, detectable=unpaired_detectable_effect)) for size in spread.deviation
    ]
    ends = "" if unpaired[1] == unpaired[2] else f" ({unpaired[1]} to {unpaired[2]} by the interval of the spread)"
    paired = _seeds(seeds_to_detect(delta, spread.deviation.mean, ALPHA))
    return [
        f"A true difference of {rounded(delta)}, the smallest that matters here (study.delta), shows in 80 % of sweeps "
        f"with {unpaired[0]} seeds per arm where arms share none{ends}, and with {paired} where they share their seeds "
        "and half of the variance with them."
    ]


def _seeds(value: float) -> str:
    """About so many seeds: two significant digits from 100 on."""
    if math.isinf(value):
        return "more than a million"
    return f"{value:.0f}" if value < 100 else f"about {float(f'{value:.2g}'):,.0f}"


def _spread_table(spreads: Sequence[Spread], runs: dict[str, tuple[str, ...]]) -> Table:
    """One row per metric: mean, extremes, standard deviation, and the difference of two runs."""
    labels = ("Seeds", "Mean", "Lowest", "Highest", "Standard deviation", "95 % interval", "Two runs")
    rows = []
    for spread in spreads:
        estimate, low, high = spread.deviation
        decimals = decimals_for([estimate])
        levels = (spread.mean, min(spread.values), max(spread.values))
        cells = (
            Cell(metric_name(spread.metric).replace("/", " ").capitalize()),
            Cell(str(len(spread.values)), len(spread.values)),
            *(Cell(number(value, decimals), value) for value in levels),
            Cell(significant(estimate, 2), estimate),
            Cell(f"{significant(low, 2)} to {significant(high, 2)}", low),
            Cell(significant(spread.two_runs, 2), spread.two_runs),
        )
        rows.append(Row(cells, runs[spread.metric]))
    return Table((Column("Metric", numeric=False), *map(Column, labels)), tuple(rows))


def _sizes_table(spread: Spread) -> Table:
    """One row per number of seeds: the smallest true difference that two arms of this spread would show."""
    columns = (Column("Seeds per arm"), Column("Other seeds in each arm"), Column("Same seeds, half shared"))
    rows = []
    for seeds in SEEDS:
        sizes = (
            found(spread.deviation.mean, seeds, ALPHA) for found in (unpaired_detectable_effect, detectable_effect)
        )
        rows.append(Row((Cell(str(seeds), seeds), *spelled(sizes, lambda value: significant(value, 2)))))
    return Table(columns, tuple(rows))


def _sizes_note(spread: Spread) -> str:
    low, high = (significant(end / spread.deviation.mean, 2) for end in spread.deviation[1:])
    return (
        f"The smallest true difference between two arms of this spread that a two-sided t test at {ALPHA} finds in "
        "80 % of sweeps. Other seeds in each arm: unpaired. Same seeds, half shared: paired differences, as sweeps "
        "compare them, if half of the variance is common to runs of one seed; how much is, a sweep of two arms shows. "
        f"One seed per arm finds nothing (–). By the interval of the spread, each may be {low} to {high} times as "
        "large."
    )
