from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

import example_sweep as example
from harness.analysis.comparison import Comparability
from harness.analysis.importance import Importance, Share
from harness.analysis.search_quality import expected_best, expected_best_band
from harness.report.figures.drawing import Drawing, label
from harness.report.figures.search import _fit_loss_axis, expected_best_curves, importance_bars, tuning

ARM, BASELINE = example.LOSSES
ARMS = [ARM, BASELINE]
SVG = "{http://www.w3.org/2000/svg}"


def texts(drawing: Drawing | None) -> list[str]:
    """The texts of a drawing. Reading them also checks that text is stored as text in well-formed XML."""
    assert drawing is not None
    return ["".join(node.itertext()) for node in ET.fromstring(drawing.file).iter(f"{SVG}text")]


def tuned(
    runs: pd.DataFrame, tune: Mapping[str, Any] = example.TUNE, arms: Sequence[str] = ARMS, **known: Any
) -> Drawing | None:
    record = example.record({arm: example.ARMS[arm] for arm in arms}, tune)
    return tuning(example.evidence(record, runs, **known))


def explored() -> pd.DataFrame:
    return example.frame([*example.explore_runs(), *example.confirm_runs()])


def test_trials_are_drawn_over_each_dimension() -> None:
    drawn = tuned(explored())
    assert {*ARMS, "learning_rate", "1e-3", "5e-4", "validation loss"} <= set(texts(drawn))
    assert (
        drawn and "pruned" in drawn.caption and "diverged" in drawn.caption and "ring around the best" in drawn.caption
    )
    again = tuned(explored())
    assert again and again.file == drawn.file
    other = tuned(explored(), comparability=Comparability("val/bits_per_byte"))
    assert "validation bits per byte" in texts(other) and other and "validation bits per byte" in other.caption


def test_no_trial_gives_no_figure() -> None:
    runs = explored()
    assert tuned(runs[runs["phase"] == "confirm"]) is None
    assert tuned(runs.drop(columns="val/loss")) is None
    assert tuned(runs[runs["outcome"] != "complete"]) is None
    assert expected_best_of({}, ARMS) is None
    assert expected_best_of({ARM: np.array([5.0]), BASELINE: np.empty(0)}, ARMS) is None
    assert importance_bars(example.evidence(example.record(), runs, importances={})) is None


@pytest.mark.parametrize(
    "dimension",
    [{"choice": [0.0, 0.1]}, {"uniform": [0.0, 0.2]}, {"int_uniform": [0, 3]}, {"int_uniform": [0, 300]}],
)
def test_every_kind_of_dimension_is_drawn(dimension: dict[str, list[float]]) -> None:
    drawn = tuned(explored(), {"model.drop_rate": dimension})
    assert "drop_rate" in texts(drawn)
    if "choice" in dimension:
        assert {"0", "0.1"} <= set(texts(drawn))


def circles(drawing: Drawing | None, radius: str) -> list[tuple[float, float]]:
    """Positions of the circles of this radius, in points, from left to right."""
    assert drawing is not None
    document = ET.fromstring(drawing.file)
    paths = {f"#{path.get('id')}" for path in document.iter(f"{SVG}path") if path.get("d", "").startswith(radius)}
    uses = [use for use in document.iter(f"{SVG}use") if use.get("{http://www.w3.org/1999/xlink}href") in paths]
    return sorted((float(use.get("x", "nan")), float(use.get("y", "nan"))) for use in uses)


def test_the_best_complete_trial_of_each_arm_has_a_ring_and_a_pruned_one_never() -> None:
    trials = [(5e-4, "complete", 5.9), (1e-3, "complete", 5.5), (2e-3, "complete", 5.7), (8e-4, "pruned", 1.0)]
    rows = [
        example.run(place, ARM, {"train.learning_rate": rate}, phase="explore", outcome=how, loss=loss, trial=place)
        for place, (rate, how, loss) in enumerate(trials)
    ]
    drawn = tuned(example.frame(rows), arms=[ARM])
    complete = circles(drawn, "M 0 2.5")  # marks 5 points across, the ring 10
    assert len(complete) == 3
    assert circles(drawn, "M 0 5") == [complete[1]]


def test_an_integer_dimension_that_some_runs_lack_is_drawn() -> None:
    runs = explored()
    runs["model.n_layers"] = pd.array([None if i % 3 == 1 else 1 + i % 4 for i in range(len(runs))], dtype="Int64")
    assert "n_layers" in texts(tuned(runs, {"model.n_layers": {"int_uniform": [1, 4]}}))


def expected_best_of(losses: Mapping[str, np.ndarray], arms: Sequence[str], metric: str = "val/loss") -> Drawing | None:
    record = example.record({arm: {} for arm in arms}, study={"sampler": "tpe", "seeds": 3})
    known = {
        "comparability": Comparability(metric),
        "expected_best": {arm: expected_best(values) for arm, values in losses.items()},
        "expected_best_bands": {arm: expected_best_band(values) for arm, values in losses.items()},
    }
    return expected_best_curves(example.evidence(record, explored(), **known))


def random_losses(number_of: int, trials: int = 12, worst: float = 10.8) -> tuple[dict[str, np.ndarray], list[str]]:
    rng = np.random.default_rng(3)
    arms = [f"drop_rate={place / 20:.2f}" for place in range(number_of)]
    return {arm: np.append(5 + rng.gamma(2.0, 0.1, trials - 1), worst) for arm in arms}, arms


@pytest.mark.parametrize("number_of", [1, 2, 4, 5, 12])
def test_expected_best_names_every_arm_once(number_of: int) -> None:
    losses, arms = random_losses(number_of)
    drawn = expected_best_of(losses, arms)
    assert drawn is not None and drawn.caption.endswith("so a shorter search could differ from this.")
    shown = texts(drawn)
    assert {"trials (k)", "expected best validation loss"} <= set(shown)
    assert [shown.count(arm) for arm in arms] == ([0] if number_of == 1 else [1] * number_of)
    assert ("in grey" in drawn.caption) is (number_of > 4)
    assert "Band: 10 to 90 %" in drawn.caption
    left_out = re.search(r"Higher values for few trials, up to ([\d.]+), are cut off\.", drawn.caption)
    assert left_out and float(left_out[1]) > 5.4
    again = expected_best_of(losses, arms)
    assert again and again.inline == drawn.inline


def test_expected_best_of_few_trials_has_no_band_and_cuts_nothing_off() -> None:
    drawn = expected_best_of({ARM: np.array([5.0, 5.1]), BASELINE: np.array([5.2])}, ARMS, "val/bits_per_byte")
    assert drawn and "Band" not in drawn.caption and "cut off" not in drawn.caption
    assert {*ARMS, "expected best validation bits per byte"} <= set(texts(drawn))


def test_the_axes_contain_every_end_and_the_caption_says_what_is_cut_off() -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    lines = [np.array([10.0, 6.0, 5.2, 5.1, 5.0]), np.array([9.0, 5.7, 5.5, 5.4, 5.3])]
    cut = _fit_loss_axis(ax, lines, [np.empty((2, 0))])
    # a quarter of five trials is one, so the second values count: median 5.85, 0.85 above the lowest
    assert cut == 10.0 and ax.get_ylim() == pytest.approx((5.0 - 0.06 * 0.85, 5.0 + 2 * 0.85))
    assert _fit_loss_axis(ax, [np.array([5.2, 5.1, 5.0])], []) == 0.0
    assert ax.get_ylim()[0] < 5.0 and ax.get_ylim()[1] > 5.2
    late = [np.array([5.0, 5.0]), np.array([5.0, 5.0]), np.array([9.0])]  # one arm far above all others
    _fit_loss_axis(ax, late, [])
    assert ax.get_ylim()[1] > 9.0
    assert _fit_loss_axis(ax, [np.array([5.0, 5.0])], []) == 0.0 and np.diff(ax.get_ylim())[0] > 0


def ranked(r2: float = 0.83) -> Importance:
    shares = (Share("train.learning_rate", 0.7, 0.6, 0.8, 0.75), Share("model.qkv_bias", 0.1, 0.0, 0.2, 0.15))
    return Importance(20, r2, shares, 0.05, r2 >= 0.5)


@pytest.mark.parametrize("number_of", [1, 3, 8])
def test_importance_has_a_panel_for_each_arm_with_enough_trials(number_of: int) -> None:
    arms = [f"context_length={2**place}, tie_embeddings=true, qkv_bias=true" for place in range(number_of + 1)]
    found = {arm: ranked() for arm in arms[:-1]} | {arms[-1]: ranked(0.21)}
    drawn = importance_bars(example.evidence(example.record({arm: {} for arm in arms}), explored(), importances=found))
    shown = texts(drawn)
    assert [shown.count(label(arm)) for arm in arms] == [*[1] * number_of, 0]
    assert shown.count("R² 0.83, 20 trials") == number_of and "R² 0.21, 20 trials" not in shown
    assert {"learning_rate", "qkv_bias", "share of the variance of the loss"} <= set(shown)
    assert drawn and "interval" in drawn.caption and not math.isnan(len(drawn.file))
