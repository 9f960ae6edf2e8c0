"""Collects all warnings of a report."""

from __future__ import annotations

from typing import Final

import pandas as pd

from harness.analysis.columns import constant, parameters
from harness.analysis.evidence import Evidence
from harness.report.text.numbers import setting
from harness.report.warnings import confirm, general, parity, results, search
from harness.report.warnings.kinds import Detector, ReportWarning

DETECTORS: Final[tuple[Detector, ...]] = (
    *confirm.DETECTORS,
    *parity.DETECTORS,
    *results.DETECTORS,
    *search.DETECTORS,
    *general.DETECTORS,
)


def report_warnings(sweep: Evidence) -> list[ReportWarning]:
    """All warnings about a sweep; those that may change its conclusion come first."""
    found = [warning for detector in DETECTORS for warning in detector(sweep)]
    return sorted(found, key=lambda warning: not warning.changes_conclusion)


def fixed_settings(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Path and value of the parameters that are the same in all runs, in the order of the configuration."""
    return [(path, setting(values.iloc[0])) for path, values in parameters(runs) if constant(values)]
