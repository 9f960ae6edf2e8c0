"""The section on a mixture of texts: the losses of each source, and the share of the training windows drawn from it."""

from __future__ import annotations

from typing import Final

from harness.analysis.columns import finite, mix_sources, numbers
from harness.analysis.comparison import value_name
from harness.analysis.evidence import Evidence
from harness.analysis.statistics import mean_interval
from harness.config.mixture import MIX
from harness.core import metrics
from harness.report.sections.section import Section
from harness.report.tables.table import ARM, Cell, Column, Table, formatted, table_with_runs, with_half_widths
from harness.report.text.numbers import rounded, signed

_NOTE: Final = (
    "Means over the complete confirm runs ± half-width of the 95 % t interval; differences to the baseline over paired "
    "seeds, not tested. Windows: share of the training windows that were drawn from the source, by its weight."
)
_WORDS: Final = (
    "Each source is scored by itself. The loss of the whole split, which verdicts use, counts each source by its "
    "tokens there and not by its weight, so that arms with other weights are scored on the same targets."
)


def source_section(evidence: Evidence) -> Section | None:
    """The losses of each source in each arm; None without a mixture or a complete confirm run."""
    sources = mix_sources(evidence.chosen)
    arms = [arm for arm in evidence.arms if len(evidence.verdict_runs_of[arm])]
    if not sources or not arms:
        return None
    return Section("sources", "Losses by source", (_WORDS,), tables=((_table(evidence, arms, sources), _NOTE),))


def _table(evidence: Evidence, arms: list[str], sources: list[str]) -> Table:
    rows = [(arm, source) for source in sources for arm in arms]
    runs, metric = evidence.verdict_runs_of, evidence.metric
    columns = [
        (Column(ARM, numeric=False), [Cell(arm) for arm, _ in rows]),
        (Column("Source", numeric=False), [Cell(source) for _, source in rows]),
        (Column("Windows"), formatted((_share(evidence, *row) for row in rows), lambda share: f"{rounded(share)} %")),
    ]
    tested = metric.replace("val/", "test/")
    for name, of in ((f"Val {value_name(metric)}", metric), (f"Test {value_name(metric)}", tested)):
        named = [metrics.of_source(of, source) for _, source in rows]
        if not all(one in runs[arm] for one, (arm, _) in zip(named, rows, strict=True)):
            continue
        found = [mean_interval(finite(runs[arm], one)) for one, (arm, _) in zip(named, rows, strict=True)]
        columns.append((Column(name), with_half_widths(found)))
        if of == metric and evidence.ranked and len(arms) > 1:
            apart = [
                mean_interval(evidence.differences(one).get(arm, finite(runs[arm], one)))
                for one, (arm, _) in zip(named, rows, strict=True)
            ]
            base = [arm == evidence.record.baseline for arm, _ in rows]
            columns.append((Column("vs baseline"), with_half_widths(apart, signed, base)))
    return table_with_runs([" ".join(runs[arm]["run_id"]) for arm, _ in rows], columns)


def _share(evidence: Evidence, arm: str, source: str) -> float:
    """Percent of an arm's training windows that are drawn from a source."""
    runs = evidence.verdict_runs_of[arm]
    weights = {name: numbers(runs, f"{MIX}{name}.weight") for name in mix_sources(runs)}
    return float(100 * (weights[source] / sum(weights.values())).mean())
