"""The content of a report of one sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from harness.analysis.evidence import Evidence
from harness.config.labels import ArmLabels
from harness.report.figures.drawing import Drawing
from harness.report.sections.samples import Moment
from harness.report.sections.section import Section
from harness.report.sections.token_losses import Passage
from harness.report.tables.comparison import answer_table, evidence_table, key_table, metrics_table
from harness.report.tables.differences import arm_differences
from harness.report.tables.runs import trials_table
from harness.report.tables.table import Table
from harness.report.text.answer import Answer, answer
from harness.report.text.headline import Headline, headline
from harness.report.text.next_step import next_step
from harness.report.text.provenance import MlflowPages
from harness.report.warnings.collect import grouped, report_warnings
from harness.report.warnings.kinds import ReportWarning

if TYPE_CHECKING:
    from harness.report.figures.loss_curves import Axis
    from harness.tracking import SweepRecord


@dataclass(frozen=True, eq=False)
class Content:
    """Everything a report of one sweep is made of.

    Attributes:
        evidence: the sweep, its runs and every statistic.
        answer_figures: figures with the answer.
        loss_curves: loss curves with their x axis; the page shows the first until the reader chooses another.
        curve_figures: further figures below the loss curves.
        evidence_figures: figures with the table of evidence.
        sections: sections that only some sweeps have.
        moments, sample_seed: generated texts, and the seed of their runs.
        passage: a validation text coloured by loss; None if no run has one.
        mlflow_pages: how to open a run in MLflow.
        patch: uncommitted changes as a patch; empty if there were none.
        labels: of the arms, if `evidence` has labels for their names.
    """

    evidence: Evidence
    answer_figures: Sequence[Drawing]
    loss_curves: Sequence[tuple[Axis, Drawing]]
    curve_figures: Sequence[Drawing]
    evidence_figures: Sequence[Drawing]
    sections: Sequence[Section]
    moments: Sequence[Moment]
    sample_seed: int | None
    passage: Passage | None
    mlflow_pages: MlflowPages
    patch: str = ""
    labels: ArmLabels | None = None

    @property
    def record(self) -> SweepRecord:
        """The sweep."""
        return self.evidence.record

    @property
    def runs(self) -> pd.DataFrame:
        """Its runs."""
        return self.evidence.runs

    @property
    def comparison(self) -> pd.DataFrame:
        """The comparison of its arms."""
        return self.evidence.comparison

    @property
    def figures(self) -> list[Drawing]:
        """All figures, in the order of the page."""
        curves = [drawing for _, drawing in self.loss_curves]
        parts = [drawing for section in self.sections for drawing in section.drawings]
        return [*self.answer_figures, *curves, *self.curve_figures, *self.evidence_figures, *parts]

    @cached_property
    def answer_table(self) -> Table:
        """One row per arm: the comparison."""
        return answer_table(self.comparison)

    @cached_property
    def key(self) -> Table | None:
        """All settings of each arm, where its label does not give them."""
        return key_table(self.labels.key) if self.labels and self.labels.key else None

    @cached_property
    def metrics_table(self) -> Table | None:
        """One row per arm: means of further metrics."""
        return metrics_table(self.evidence)

    @cached_property
    def evidence_table(self) -> Table | None:
        """One row per compared arm: the statistics behind its verdict."""
        return evidence_table(self.comparison)

    @cached_property
    def differences(self) -> Table:
        """Parameters that differ between the arms."""
        return arm_differences(self.evidence)

    @property
    def tables(self) -> dict[str, Table]:
        """All tables by file name, without the wide ones of runs and curves."""
        found = {"answer": self.answer_table}
        if self.key is not None:
            found["arms"] = self.key
        if self.metrics_table is not None:
            found["metrics"] = self.metrics_table
        if self.evidence_table is not None:
            found["evidence"] = self.evidence_table
        for section in self.sections:
            several = len(section.tables) > 1
            for place, (table, _) in enumerate(section.tables, 1):
                found[f"{section.anchor}-{place}" if several else section.anchor] = table
        if self.passage is not None and self.passage.table is not None:
            found["passage"] = self.passage.table
        found["trials"] = trials_table(self.runs, list(self.record.tune), metric=self.evidence.metric)
        if self.one_arm:
            found["trials"] = found["trials"].without_arms
        found["differences"] = self.differences
        return found

    @cached_property
    def warnings(self) -> list[ReportWarning]:
        """What limits the comparison; what may change the conclusion comes first, equal ones are grouped."""
        return grouped(report_warnings(self.evidence), self.evidence.arms)

    @property
    def serious_warnings(self) -> list[str]:
        """The texts of the warnings that may change the conclusion."""
        return [warning.text for warning in self.warnings if warning.changes_conclusion]

    @cached_property
    def headline(self) -> Headline | None:
        """The answer in one line, where arms have verdicts."""
        return headline(self.comparison, self.evidence.comparability)

    @property
    def one_arm(self) -> bool:
        """Whether the sweep has a single configuration, or a single search, so that nothing is called an arm."""
        return len(self.record.arms) == 1

    @cached_property
    def answer(self) -> Answer:
        """The comparison in words."""
        searched = bool(self.record.tune)
        return answer(self.comparison, self.evidence.comparability, searched, next_step(self.evidence))
