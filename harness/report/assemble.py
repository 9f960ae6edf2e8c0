"""Assembles the content of a report: figures, sections and samples from the evidence of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pandas as pd

from harness.analysis.evidence import Evidence
from harness.config.labels import ArmLabels
from harness.core.outcomes import Phase
from harness.report.figures.registry import draw, draw_curves
from harness.report.page.content import Content
from harness.report.sections.budget import budget_section
from harness.report.sections.factors import factor_section
from harness.report.sections.samples import SamplesOf, side_by_side
from harness.report.sections.search import search_section
from harness.report.sections.section import Section
from harness.report.sections.seed_noise import noise_section
from harness.report.sections.sources import source_section
from harness.report.sections.token_losses import PassageOf, passage
from harness.report.text.provenance import MlflowPages
from harness.tracking import SweepRecord

# The sections that only some sweeps have, in the order of the page.
SECTIONS: Final[tuple[Callable[[Evidence], Section | None], ...]] = (
    source_section,
    factor_section,
    noise_section,
    search_section,
    budget_section,
)


def in_order(runs: pd.DataFrame, record: SweepRecord) -> pd.DataFrame:
    """Runs sorted by arm (as in the spec), phase, trial number and seed, so that the order is reproducible."""
    place = {arm.name: index for index, arm in enumerate(record.arms)}
    phase = {phase: index for index, phase in enumerate(Phase)}
    keys = pd.DataFrame(
        {
            "arm": runs["arm"].map(place).astype(float),
            "phase": runs["phase"].map(phase).astype(float),
            "trial": pd.to_numeric(runs["trial_number"]).astype(float),
            "seed": pd.to_numeric(runs["seed"]).astype(float),
            "run_id": runs["run_id"],
        }
    )
    return runs.loc[keys.sort_values(list(keys)).index].reset_index(drop=True)


def assemble(
    evidence: Evidence,
    samples_of: SamplesOf,
    command: str,
    passage_of: PassageOf = lambda _: (),
    patch: str = "",
    labels: ArmLabels | None = None,
) -> Content:
    """Draw the figures, write the sections and choose the samples.

    Args:
        evidence: of the sweep.
        samples_of: run id → its samples.
        command: the shell command that shows all runs.
        passage_of: run id → the scored tokens of a passage of the validation text.
        patch: uncommitted changes as a patch.
        labels: of the arms, if the evidence has labels for their names.
    """
    moments, sample_seed = side_by_side(evidence, samples_of)
    sections = [section(evidence) for section in SECTIONS]
    return Content(
        evidence=evidence,
        answer_figures=draw("answer", evidence),
        loss_curves=draw_curves(evidence),
        curve_figures=draw("curves", evidence),
        evidence_figures=draw("evidence", evidence),
        sections=[
            section.without_arms if len(evidence.arms) == 1 else section for section in sections if section is not None
        ],
        moments=moments,
        sample_seed=sample_seed,
        passage=passage(evidence, passage_of),
        mlflow_pages=MlflowPages(command, evidence.record.experiment_id),
        patch=patch,
        labels=labels,
    )
