"""What a reader must know before trusting the comparison: what went wrong, what was fixed, what is missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from harness.analysis.columns import compact, constant, parameters
from harness.analysis.comparison import complete_confirm_runs, verdict_runs
from harness.analysis.evidence import Evidence
from harness.config.fields import short_name
from harness.core.outcomes import Outcome, Phase
from harness.core.text import listed, plural
from harness.report.text.numbers import setting
from harness.report.warnings.confirm import confirm_flaws
from harness.report.warnings.kinds import Note, ReportWarning
from harness.report.warnings.parity import parity_flaws
from harness.report.warnings.results import result_flaws
from harness.report.warnings.search import search_flaws

if TYPE_CHECKING:
    from harness.tracking import SweepRecord


def report_warnings(record: SweepRecord, runs: pd.DataFrame) -> list[ReportWarning]:
    """Everything that limits what the comparison may be taken for: alarms first, then notes.

    Args:
        record, runs: as the tracking readers give them, of one sweep.
    """
    sweep = Evidence(record, compact(runs))
    found = [
        *confirm_flaws(sweep),
        *parity_flaws(sweep),
        *result_flaws(sweep),
        *search_flaws(sweep),
        *_notes(sweep),
    ]
    return sorted(found, key=lambda caveat: not caveat.alarm)


def fixed_settings(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Parameters that neither the arms nor the search changed: path and value, in the order of the configuration."""
    return [(path, setting(values.iloc[0])) for path, values in parameters(runs) if constant(values)]


def _notes(sweep: Evidence) -> Iterator[ReportWarning]:
    yield from _same_arms(sweep)
    yield from _untuned(sweep)
    yield from _ended_early(sweep)
    yield from _replaced(sweep)
    yield ReportWarning(
        Note.SEEDS_ONLY,
        "The intervals are over seeds: they say nothing about another text, another size of model or a longer budget.",
    )


def _same_arms(sweep: Evidence) -> Iterator[ReportWarning]:
    for names in sweep.same:
        yield ReportWarning(
            Note.SAME_ARMS,
            f"The arms {listed(names)} are the same configuration on seeds of their own: what lies between them is "
            "chance.",
        )


def _untuned(sweep: Evidence) -> Iterator[ReportWarning]:
    record = sweep.record
    if record.compare and not record.tune and not sweep.same:
        names = listed(short_name(path) for path in record.compare)
        yield ReportWarning(
            Note.UNTUNED,
            f"{names} compared, nothing tuned: every arm ran with the same other settings, which may suit one arm "
            "better than another. A difference holds for these settings.",
        )


def _ended_early(sweep: Evidence) -> Iterator[ReportWarning]:
    sizes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for arm, phase, outcome in zip(*(sweep.runs[name] for name in ("arm", "phase", "outcome")), strict=True):
        sizes[arm, phase][outcome] += 1
    for arm in sweep.arms:
        for phase in Phase:
            ended = sizes[arm, phase]
            words = [f"{ended[outcome]} {outcome}" for outcome in Outcome if outcome in ended]
            if any(outcome in ended for outcome in Outcome if outcome is not Outcome.COMPLETE):
                runs = plural(ended.total(), f"{phase} run")
                yield ReportWarning(Note.ENDED_EARLY, f"{arm}: of {runs}, {listed(words)}.")


def _replaced(sweep: Evidence) -> Iterator[ReportWarning]:
    runs = sweep.runs
    older = len(complete_confirm_runs(runs)) - len(verdict_runs(runs)) + int((runs["phase"] == Phase.SUPERSEDED).sum())
    if older:
        yield ReportWarning(
            Note.REPLACED,
            f"{plural(older, 'older confirm run')} was replaced by a newer one: listed, but not in the comparison.",
        )
