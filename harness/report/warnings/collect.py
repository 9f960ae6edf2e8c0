"""All warnings of a report: what a reader must know before trusting the comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pandas as pd

from harness.analysis.columns import compact, constant, parameters
from harness.analysis.evidence import Evidence
from harness.report.text.numbers import setting
from harness.report.warnings import confirm, general, parity, results, search
from harness.report.warnings.kinds import Detector, ReportWarning

if TYPE_CHECKING:
    from harness.tracking import SweepRecord

DETECTORS: Final[tuple[Detector, ...]] = (
    *confirm.DETECTORS,
    *parity.DETECTORS,
    *results.DETECTORS,
    *search.DETECTORS,
    *general.DETECTORS,
)


def report_warnings(record: SweepRecord, runs: pd.DataFrame) -> list[ReportWarning]:
    """Everything that limits what the comparison may be taken for; what may change the conclusion comes first.

    Args:
        record, runs: as the tracking readers give them, of one sweep.
    """
    sweep = Evidence(record, compact(runs))
    found = [warning for detector in DETECTORS for warning in detector(sweep)]
    return sorted(found, key=lambda warning: not warning.changes_conclusion)


def fixed_settings(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Parameters that neither the arms nor the search changed: path and value, in the order of the configuration."""
    return [(path, setting(values.iloc[0])) for path, values in parameters(runs) if constant(values)]
