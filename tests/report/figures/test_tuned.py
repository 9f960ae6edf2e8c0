"""Figures of tuned values: all of a trial at once, and learning rates near the best."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from typing import Any

import pytest

import example_sweep as example
from harness.report.figures.drawing import Drawing
from harness.report.figures.tuned import _shares, learning_rates, parallel_coordinates

SVG = "{http://www.w3.org/2000/svg}"
RATE, DECAY, BIAS = "train.learning_rate", "train.weight_decay", "model.qkv_bias"
SPACE = {RATE: {"log_uniform": [1e-4, 1e-2]}, DECAY: {"uniform": [0.0, 0.4]}, BIAS: {"choice": [False, True]}}
TRIALS = [(1e-4, 0.0, False, 5.5), (1e-3, 0.2, True, 5.0), (1e-2, 0.4, False, 5.3), (2e-3, 0.1, True, 9.0)]


def evidence(space: dict[str, Any], trials: list[tuple[float, float, bool, float]] = TRIALS) -> Any:
    runs = [
        example.run(
            10 * place + number,
            arm,
            {**values, RATE: rate, DECAY: decay, BIAS: bias},
            phase="explore",
            loss=loss + 0.01 * place,
            trial=number,
        )
        for place, (arm, values) in enumerate(example.ARMS.items())
        for number, (rate, decay, bias, loss) in enumerate(trials)
    ]
    return example.evidence(example.record(tune=space), example.frame([*runs, *example.confirm_runs()]))


def titles(drawing: Drawing | None) -> list[str]:
    assert drawing is not None
    nodes = ET.fromstring(drawing.inline).iter()
    return [node.findtext(f"{SVG}title", "") for node in nodes if "data-read" in node.attrib]


def test_places_on_an_axis_follow_its_scale() -> None:
    found = evidence(SPACE).runs
    tried = found[found["phase"] == "explore"].head(3)
    assert _shares(tried[RATE], SPACE[RATE]).tolist() == pytest.approx([0.0, 0.5, 1.0])
    assert _shares(tried[DECAY], SPACE[DECAY]).tolist() == pytest.approx([0.0, 0.5, 1.0])
    assert _shares(tried[BIAS], SPACE[BIAS]).tolist() == [0.0, 1.0, 0.0]


def test_every_complete_trial_is_a_line_that_tells_its_values() -> None:
    drawn = parallel_coordinates(evidence(SPACE))
    said = titles(drawn)
    assert len(said) == 8
    assert said[1] == (
        "drop_rate=0.0, trial 1: learning_rate=1e-3, weight_decay=0.2, qkv_bias=true, validation loss 5.0000"
    )
    assert drawn is not None
    words = {"".join(node.itertext()) for node in ET.fromstring(drawn.file).iter(f"{SVG}text")}
    assert {"learning_rate", "weight_decay", "qkv_bias", "validation loss", "1e-4", "0.01", "0.4", "5.000"} <= words


def test_learning_rates_near_the_best_are_shown_by_their_distance_to_it() -> None:
    said = titles(learning_rates(evidence({RATE: SPACE[RATE]})))
    assert "drop_rate=0.0, trial 1: learning_rate=1e-3, 0.0000 above the best" in said
    assert "drop_rate=0.1, trial 2: learning_rate=0.01, 0.3000 above the best" in said
    assert not [text for text in said if "trial 3" in text]  # 4 above the best: cut off
    assert len(said) == 4  # the median is 0.4, between the second and the third of four trials


@pytest.mark.parametrize("space", [{}, {DECAY: SPACE[DECAY]}, {RATE: {"choice": [1e-4, 1e-3, 1e-2]}}])
def test_without_a_searched_learning_rate_there_is_no_figure_of_it(space: dict[str, Any]) -> None:
    assert learning_rates(evidence(space)) is None
    assert parallel_coordinates(evidence(space)) is None  # one dimension is the figure of explore trials


def test_too_few_trials_have_no_figures() -> None:
    few = evidence(SPACE, TRIALS[:1])
    assert learning_rates(few) is None and parallel_coordinates(few) is None
    assert not math.isnan(few.delta)
