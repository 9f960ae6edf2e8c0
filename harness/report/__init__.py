"""Reports of sweeps: comparison, figures, tables and warnings on one page, and data frames for notebooks.

In a notebook:

    runs = load_runs("dropout")
    compare(runs)
    pivot(runs, "test/loss")

Names are imported on first use, because pandas and matplotlib would make `--help` slow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.report.combined import write_reports
    from harness.report.figures.notebook import plot_comparison, plot_curves
    from harness.report.notebook import best_config, compare, load_runs, pivot
    from harness.report.tables.comparison import comparison_lines
    from harness.report.write import ReportFiles, loss_curve, write_report
    from harness.tracking import TrackingError, load_curves

_HOMES = {
    "ReportFiles": "harness.report.write",
    "TrackingError": "harness.tracking",
    "best_config": "harness.report.notebook",
    "compare": "harness.report.notebook",
    "comparison_lines": "harness.report.tables.comparison",
    "load_curves": "harness.tracking",
    "load_runs": "harness.report.notebook",
    "loss_curve": "harness.report.write",
    "pivot": "harness.report.notebook",
    "plot_comparison": "harness.report.figures.notebook",
    "plot_curves": "harness.report.figures.notebook",
    "write_report": "harness.report.write",
    "write_reports": "harness.report.combined",
}

__all__ = [
    "ReportFiles",
    "TrackingError",
    "best_config",
    "compare",
    "comparison_lines",
    "load_curves",
    "load_runs",
    "loss_curve",
    "pivot",
    "plot_comparison",
    "plot_curves",
    "write_report",
    "write_reports",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
