"""General warnings: equal arms, nothing tuned, runs that ended early or were replaced, the scope of intervals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

from harness.analysis.comparison import complete_confirm_runs
from harness.analysis.evidence import Evidence
from harness.config.fields import short_name
from harness.core.outcomes import Outcome, Phase
from harness.core.text import listed, plural
from harness.report.warnings.kinds import Detector, ReportWarning, WarningKind


def _same_arms(sweep: Evidence) -> Iterator[ReportWarning]:
    for names in sweep.equal_arms:
        yield ReportWarning(
            WarningKind.SAME_ARMS,
            f"The arms {listed(names)} are the same configuration with different seeds: any difference between them is "
            "chance.",
        )


def _untuned(sweep: Evidence) -> Iterator[ReportWarning]:
    record = sweep.record
    if record.compare and not record.tune and not sweep.equal_arms:
        names = listed(short_name(path) for path in record.compare)
        yield ReportWarning(
            WarningKind.UNTUNED,
            f"{names} compared, nothing tuned: all arms have the same other settings, which may suit one arm better "
            "than another. Differences hold for these settings only.",
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
                yield ReportWarning(WarningKind.ENDED_EARLY, f"{arm}: of {runs}, {listed(words)}.")


def _replaced(sweep: Evidence) -> Iterator[ReportWarning]:
    runs = sweep.runs
    older = len(complete_confirm_runs(runs)) - len(sweep.chosen) + int((runs["phase"] == Phase.SUPERSEDED).sum())
    if older:
        yield ReportWarning(
            WarningKind.REPLACED,
            f"{plural(older, 'older confirm run')} {'was' if older == 1 else 'were'} replaced by a newer one: listed, "
            "but not compared.",
        )


def _altered(sweep: Evidence) -> Iterator[ReportWarning]:
    for line in sweep.record.left_out:
        yield ReportWarning(
            WarningKind.ALTERED,
            f"{line}. Set the value back in MLflow, or give the sweep's command again: it trains what is missing.",
        )


def _seeds_only(_sweep: Evidence) -> Iterator[ReportWarning]:
    yield ReportWarning(
        WarningKind.SEEDS_ONLY,
        "The intervals are over seeds only: they do not cover other texts, other model sizes or longer budgets.",
    )


DETECTORS: Final[tuple[Detector, ...]] = (
    _same_arms,
    _untuned,
    _ended_early,
    _replaced,
    _altered,
    _seeds_only,
)
