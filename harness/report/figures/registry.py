"""All figures of a report by place. To add one, add a file to this package and a line to `FIGURES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from harness.analysis.evidence import Evidence
from harness.report.figures.by_position import losses_by_position
from harness.report.figures.drawing import Drawing
from harness.report.figures.factors import interaction_drawing
from harness.report.figures.final_losses import final_losses
from harness.report.figures.forest import forest
from harness.report.figures.loss_curves import AXES, Axis, loss_curves
from harness.report.figures.search import expected_best_curves, importance_bars, trial_curves, tuning
from harness.report.figures.seed_noise import detectable_sizes
from harness.report.figures.timeline import timeline
from harness.report.figures.tuned import learning_rates, parallel_coordinates

Draw = Callable[[Evidence], Drawing | None]


def _has_pairs(evidence: Evidence) -> bool:
    return bool(evidence.comparison["pairs"].sum())


# Place → its figures in the order of the page. Places: the answer, its evidence, or the anchor of a section.
FIGURES: Final[Mapping[str, tuple[Draw, ...]]] = {
    "answer": (
        lambda evidence: forest(evidence.comparison),
        lambda evidence: None if _has_pairs(evidence) else final_losses(evidence),
    ),
    "curves": (losses_by_position,),
    "evidence": (lambda evidence: final_losses(evidence) if _has_pairs(evidence) else None,),
    "factors": (interaction_drawing,),
    "noise": (detectable_sizes,),
    "search": (tuning, learning_rates, parallel_coordinates, trial_curves, expected_best_curves, importance_bars),
    "budget": (timeline,),
}


def draw(place: str, evidence: Evidence) -> tuple[Drawing, ...]:
    """The figures of one place, without those that have nothing to show."""
    drawn = (figure(evidence) for figure in FIGURES.get(place, ()))
    return tuple(drawing for drawing in drawn if drawing is not None)


def draw_curves(evidence: Evidence) -> list[tuple[Axis, Drawing]]:
    """The loss curves over each x axis that the curves have values for."""
    drawn = [(axis, loss_curves(evidence, axis)) for axis in AXES]
    return [(axis, drawing) for axis, drawing in drawn if drawing is not None]
