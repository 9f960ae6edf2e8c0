"""The section on seed noise, for a sweep of one configuration: how much results vary by the seed alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from harness.analysis.columns import finite
from harness.analysis.comparison import metric_name, unit
from harness.analysis.evidence import Evidence
from harness.analysis.seed_noise import Spread
from harness.analysis.significance import ALPHA
from harness.analysis.statistics import (
    detectable_effect,
    seeds_to_detect,
    unpaired_detectable_effect,
)
from harness.core import metrics
from harness.core.text import plural
from harness.report.figures.registry import draw
from harness.report.sections.section import Section
from harness.report.tables.table import Cell, Column, Row, Table, formatted
from harness.report.text.numbers import decimals_for, number, rounded, significant

SEEDS: Final = (1, 3, 5, 8, 12, 20)  # seeds per arm in the rows of the table of detectable differences
_HEADING: Final = "Seed noise"
_SPREAD_NOTE: Final = (
    "Standard deviation over seeds, with its 95 % chi-square interval. Two runs: the bound below which the difference "
    "of two new runs with different seeds stays in 95 % of cases. Such a difference has twice the variance of one run, "
    "and the variance is estimated from these seeds: t(0.975, n − 1) · √2 standard deviations. Both assume "
    "approximately normal seed noise."
)


def noise_section(evidence: Evidence) -> Section | None:
    """Seed noise: the spread over seeds, the difference it explains, and the differences that n seeds can detect.

    Returns:
        None if there are several arms, something was tuned, or fewer than two confirm runs are complete.
    """
    chosen, metric, spreads = evidence.chosen, evidence.metric, list(evidence.spreads.values())
    if metric not in evidence.spreads:
        return None
    main = spreads[0]
    ids = {name: tuple(chosen.loc[finite(chosen, name).index, "run_id"]) for name in evidence.spreads}
    spread_table = (_spread_table(spreads, ids), _SPREAD_NOTE)
    if main.deviation.mean == 0:
        words = f"All {len(main.values)} seeds have the same final {metric_name(metric)}: there is no seed noise."
        return Section("noise", _HEADING, (words,), tables=(spread_table,))
    delta = evidence.delta_nats if metric == metrics.VAL_LOSS else math.nan
    return Section(
        anchor="noise",
        heading=_HEADING,
        text=(_spread_words(main), *_diverged_words(evidence), *_seeds_words(main, delta)),
        drawings=draw("noise", evidence),
        tables=(spread_table, (_sizes_table(main), _sizes_note(main))),
    )


def _spread_words(spread: Spread) -> str:
    """A sentence on the spread, and one on the difference that it explains."""
    estimate, low, high = (significant(value, 2) for value in spread.deviation)
    decimals = decimals_for([spread.deviation.mean])
    ends = f"{number(min(spread.values), decimals)} to {number(max(spread.values), decimals)}"
    size = significant(spread.two_runs, 2)
    relative = ""
    if spread.metric == metrics.VAL_LOSS:
        relative = f" ({significant(100 * math.expm1(spread.two_runs), 2)} % of perplexity)"
    return (
        f"The final {metric_name(spread.metric)} has a standard deviation of {estimate} {unit(spread.metric)} over "
        f"seeds (95 % interval {low} to {high}, {len(spread.values)} seeds, from {ends}). "
        f"Two single runs that differ by less than {size}{relative} may differ by their seed alone."
    )


def _diverged_words(evidence: Evidence) -> list[str]:
    """That the spread leaves diverged runs out."""
    lost = int(evidence.comparison["diverged"].sum())
    if not lost:
        return []
    return [f"{plural(lost, 'run')} diverged. The spread is that of the runs that trained, so it is too small."]


def _seeds_words(spread: Spread, delta: float) -> list[str]:
    """How many seeds detect the smallest difference that matters."""
    if math.isnan(delta):
        return []
    unpaired = [
        _seeds(seeds_to_detect(delta, size, ALPHA, detectable=unpaired_detectable_effect)) for size in spread.deviation
    ]
    ends = "" if unpaired[1] == unpaired[2] else f" ({unpaired[1]} to {unpaired[2]} by the interval above)"
    paired = _seeds(seeds_to_detect(delta, spread.deviation.mean, ALPHA))
    return [
        f"A true difference of {rounded(delta)}, the smallest that matters here (study.delta), is found in 80 % of "
        f"sweeps with {unpaired[0]} seeds per arm if arms have different seeds{ends}, and with {paired} if they have "
        "the same seeds and these account for half of the variance."
    ]


def _seeds(value: float) -> str:
    """A number of seeds as text; from 100 on `about` and two significant digits."""
    if math.isinf(value):
        return "more than a million"
    return f"{value:.0f}" if value < 100 else f"about {float(f'{value:.2g}'):,.0f}"


def _spread_table(spreads: Sequence[Spread], runs: dict[str, tuple[str, ...]]) -> Table:
    """One row per metric: mean, lowest, highest, standard deviation, and the bound for two runs."""
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
    """One row per number of seeds: the minimum detectable difference of two arms with this spread."""
    columns = (Column("Seeds per arm"), Column("Different seeds (unpaired)"), Column("Same seeds (paired)"))
    rows = []
    for seeds in SEEDS:
        sizes = (
            found(spread.deviation.mean, seeds, ALPHA) for found in (unpaired_detectable_effect, detectable_effect)
        )
        rows.append(Row((Cell(str(seeds), seeds), *formatted(sizes, lambda value: significant(value, 2)))))
    return Table(columns, tuple(rows))


def _sizes_note(spread: Spread) -> str:
    low, high = (significant(end / spread.deviation.mean, 2) for end in spread.deviation[1:])
    return (
        f"The smallest true difference between two arms with this standard deviation that a two-sided t test at "
        f"{ALPHA} finds in 80 % of sweeps. Unpaired: the arms have different seeds. Paired: they have the same seeds, "
        "as in a sweep, and half of the variance is common to runs with one seed (an assumption; a sweep of two arms "
        f"measures it). One seed per arm detects nothing (–). By the interval of the standard deviation, each number "
        f"may be {low} to {high} times as large."
    )
