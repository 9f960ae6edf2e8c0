"""The content of a report of one sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from harness.analysis.comparison import Comparability
from harness.report.figures.drawing import Drawing
from harness.report.sections.samples import Moment
from harness.report.sections.section import Section
from harness.report.sections.token_losses import Passage
from harness.report.tables.comparison import answer_table, evidence_table
from harness.report.tables.differences import arm_differences
from harness.report.tables.runs import trials_table
from harness.report.tables.table import Table
from harness.report.text.answer import Answer, answer
from harness.report.text.provenance import Opening
from harness.report.warnings.collect import report_warnings
from harness.report.warnings.kinds import ReportWarning

if TYPE_CHECKING:
    from harness.report.figures.loss_curves import Axis
    from harness.tracking import SweepRecord


@dataclass(frozen=True)
class Content:
    """Everything a report of one sweep is made of.

    Attributes:
        record, runs, comparison, ground: the sweep, its runs, and what compares its arms.
        leading: drawings with the answer.
        curves: loss curves with their x axis; the page shows the first until the reader chooses another.
        drawings: further drawings of losses.
        evidence_figures: drawings with the table of evidence.
        sections: sections that only some sweeps have.
        moments, sample_seed: generated texts, and the seed of their runs.
        passage: a validation text coloured by loss; None if no run has one.
        opening: how to open a run in MLflow.
        patch: uncommitted changes as a patch; empty if there were none.
    """

    record: SweepRecord
    runs: pd.DataFrame
    comparison: pd.DataFrame
    ground: Comparability
    leading: Sequence[Drawing]
    curves: Sequence[tuple[Axis, Drawing]]
    drawings: Sequence[Drawing]
    evidence_figures: Sequence[Drawing]
    sections: Sequence[Section]
    moments: Sequence[Moment]
    sample_seed: int | None
    passage: Passage | None
    opening: Opening
    patch: str = ""

    @property
    def every_drawing(self) -> list[Drawing]:
        """All drawings, in the order of the page."""
        curves = [drawing for _, drawing in self.curves]
        parts = [drawing for section in self.sections for drawing in section.drawings]
        return [*self.leading, *curves, *self.drawings, *self.evidence_figures, *parts]

    @property
    def every_table(self) -> dict[str, Table]:
        """All tables by file name, without the wide ones of runs and curves."""
        found = {"answer": answer_table(self.comparison)}
        if (evidence := evidence_table(self.comparison)) is not None:
            found["evidence"] = evidence
        for section in self.sections:
            several = len(section.tables) > 1
            for place, (table, _) in enumerate(section.tables, 1):
                found[f"{section.anchor}-{place}" if several else section.anchor] = table
        if self.passage is not None and self.passage.table is not None:
            found["passage"] = self.passage.table
        differing = arm_differences(self.runs, [arm.name for arm in self.record.arms])
        return found | {"trials": trials_table(self.runs, list(self.record.tune)), "differences": differing}

    @cached_property
    def warnings(self) -> list[ReportWarning]:
        """What limits the comparison; what may change the conclusion comes first."""
        return report_warnings(self.record, self.runs)

    @property
    def serious_warnings(self) -> list[str]:
        """The texts of the warnings that may change what the sweep concludes."""
        return [warning.text for warning in self.warnings if warning.changes_conclusion]

    @property
    def answer(self) -> Answer:
        """The comparison in words."""
        return answer(self.comparison, self.ground)
