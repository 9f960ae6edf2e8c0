"""Assembles the content of a report from runs and curves."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pandas as pd

from harness.analysis.comparison import comparability, compare
from harness.core.outcomes import Phase
from harness.report.page.content import Content
from harness.report.sections import token_losses as passages
from harness.report.sections.samples import SamplesOf, side_by_side
from harness.report.sections.token_losses import PassageOf
from harness.report.tables.runs import best_table
from harness.report.text.provenance import Opening
from harness.tracking import (
    SweepRecord,
)

if TYPE_CHECKING:
    from harness.report.figures.drawing import Drawing
    from harness.report.sections.section import Section


_CHOSEN: Final = (
    "The configuration of each arm: that of its explore trial with the lowest validation loss. That loss was selected, "
    "so it is optimistic; the results are those of the confirm runs."
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
    record: SweepRecord,
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    samples_of: SamplesOf,
    command: str,
    positions: pd.DataFrame | None = None,
    passage_of: PassageOf = lambda _: (),
    patch: str = "",
) -> Content:
    """Compare the arms, draw the figures and choose the samples.

    Args:
        record, runs, curves: one sweep, as the tracking readers return it.
        samples_of: run id → its samples as (step, tokens, text).
        command: the shell command that shows all runs.
        positions: as `load_positions` returns them, for a sweep that compares context lengths.
        passage_of: run id → the scored tokens of a passage of the validation text.
        patch: uncommitted changes as a patch.
    """
    from harness.report.figures import by_position as contexts
    from harness.report.figures import forest
    from harness.report.figures.final_losses import final_losses
    from harness.report.figures.loss_curves import AXES, loss_curves

    arms = [arm.name for arm in record.arms]
    ground = comparability(runs)
    baseline = record.baseline if len(arms) > 1 and ground.ranked else None
    comparison = compare(runs, baseline, ground.metric, arms, record.study.get("delta"), record.study.get("looks"))
    moments, seed = side_by_side(runs, arms, samples_of)
    over = [(axis, loss_curves(curves, runs, arms, ground.metric, axis)) for axis in AXES]
    seeds = final_losses(runs, comparison)
    lead = forest.forest(comparison)
    by_position = contexts.losses_by_position(positions, runs, arms) if positions is not None else None
    return Content(
        record=record,
        runs=runs,
        comparison=comparison,
        ground=ground,
        leading=_there(lead if lead is not None else seeds),
        curves=[(axis, drawing) for axis, drawing in over if drawing is not None],
        drawings=_there(by_position),
        evidence_figures=_there(seeds if lead is not None else None),
        sections=_sections(record, runs, comparison, curves),
        moments=moments,
        sample_seed=seed,
        passage=passages.passage(runs, comparison, arms, passage_of),
        opening=Opening(command, record.experiment_id),
        patch=patch,
    )


def _there(*drawings: Drawing | None) -> list[Drawing]:
    return [drawing for drawing in drawings if drawing is not None]


def _sections(record: SweepRecord, runs: pd.DataFrame, comparison: pd.DataFrame, curves: pd.DataFrame) -> list[Section]:
    """The sections that only some sweeps have, in the order of the page."""
    from harness.report.sections import (  # matplotlib: not before something is drawn
        budget as budgets,
    )
    from harness.report.sections import (
        factors as factor_section,
    )
    from harness.report.sections import (
        search as searches,
    )
    from harness.report.sections import (
        seed_noise as noise,
    )

    metric = str(comparison["metric"].iloc[0])
    found = (
        factor_section.factor_section(runs, record, comparison, record.study.get("looks")),
        noise.noise_section(record, runs, metric),
        _with_best(searches.search_section(record, runs, metric, curves), record, runs),
        budgets.budget_section(record, runs),
    )
    return [section for section in found if section is not None]


def _with_best(section: Section | None, record: SweepRecord, runs: pd.DataFrame) -> Section | None:
    """The section on the search, with a table of the configuration it chose for each arm."""
    if section is None:
        return None
    chosen = best_table(runs, [arm.name for arm in record.arms], list(record.tune))
    return replace(section, tables=((chosen, _CHOSEN), *section.tables))
