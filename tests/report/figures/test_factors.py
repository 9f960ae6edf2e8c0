from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import example_sweep as example
from example_grid import BIAS, DEEP, DROP, RATE, SMALL, WIDE, Levels, drawn, interactions, record_of, runs_of
from harness.analysis.factors import FactorEffects
from harness.analysis.grid import Floats, Grid, grid
from harness.analysis.statistics import mean_interval
from harness.report.figures.drawing import Drawing
from harness.report.figures.factors import half_widths, interaction_drawing, on_common_seeds
from harness.tracking import SweepRecord

SVG = "{http://www.w3.org/2000/svg}"


def drawn_of(record: SweepRecord, runs: pd.DataFrame, found: Grid, contrasts: pd.DataFrame) -> Drawing | None:
    effects = FactorEffects(found, pd.DataFrame(), contrasts)
    return interaction_drawing(example.evidence(record, runs, factors=effects))


def draw(levels: Levels, losses: Floats) -> Drawing | None:
    record = record_of(levels)
    runs = runs_of(record, losses)
    found = grid(runs, record, "val/loss")
    assert found is not None
    return drawn_of(record, runs, found, interactions(runs, record, "val/loss", 0.02))


def texts(drawing: Drawing | None) -> list[str]:
    assert drawing is not None
    return ["".join(node.itertext()) for node in ET.fromstring(drawing.file).iter(f"{SVG}text")]


def test_the_factor_with_more_levels_is_on_the_x_axis() -> None:
    levels: Levels = {BIAS: [False, True], DROP: [0.2, 0.0, 0.1]}
    words = texts(draw(levels, drawn(levels, 3, seed=1)))
    assert {"drop", "bias off", "bias on", "validation loss"} <= set(words)
    assert [word for word in words if word in ("0.0", "0.1", "0.2")] == ["0.0", "0.1", "0.2"]  # numbers rise
    assert "bias" not in words


def test_the_same_runs_give_the_same_bytes() -> None:
    losses = drawn(WIDE, 3, seed=2)
    first, again = draw(WIDE, losses), draw(WIDE, losses)
    assert first is not None and again is not None and first.file == again.file and first.inline == again.inline


def test_at_most_four_pairs_are_drawn_the_clearest_ones() -> None:
    levels: Levels = {**DEEP, "model.tie_embeddings": [False, True]}
    losses = drawn(levels, 3, seed=3, spread=0.001)
    losses[:, :, 1, 1] += 0.1 * np.array([1, 1.02, 0.98])  # qkv_bias with tie_embeddings, the last pair
    made = draw(levels, losses)
    assert "bias" in texts(made)  # along the axis, which it is with no other factor
    assert made is not None and "Not shown: 2 pairs of factors with less clear interactions." in made.caption
    assert sum(word.split()[0] in ("drop", "lr", "bias", "tied") and " " in word for word in texts(made)) == 4 * 2
    assert "averaged over the other factors" in made.caption
    alone = draw(SMALL, drawn(SMALL, 3, seed=4))
    assert alone is not None and "left out" not in alone.caption and "further" not in alone.caption


def test_plain_and_within_seed_intervals() -> None:
    # Two points: the second kind of half-width is that of their paired difference by √2 (Morey 2008).
    means = np.array([[[5.0, 5.4, 5.1, 5.9]], [[5.2, 5.3, 5.4, 6.0]]])
    plain, within = half_widths(means)
    assert plain[0, 0] == pytest.approx(mean_interval(means[0, 0]).half_width, rel=1e-12)
    expected = mean_interval(means[1, 0] - means[0, 0]).half_width / math.sqrt(2)
    assert within[:, 0] == pytest.approx([expected, expected], rel=1e-12)
    shifted = half_widths(means + np.array([0.0, 3.0, -2.0, 7.0]))
    assert shifted[1] == pytest.approx(within, rel=1e-9) and (shifted[0] > 2 * plain).all()
    # Over many points the spread of each run's own noise comes back, not less of it.
    many = np.random.default_rng(5).normal(0, 0.01, (4, 5, 4000)) + np.random.default_rng(6).normal(0, 1, 4000)
    assert half_widths(many)[1] == pytest.approx(1.96 * 0.01 / math.sqrt(4000), rel=0.05)


def test_missing_points_have_no_bars_and_are_ignored() -> None:
    means = np.random.default_rng(7).normal(5, 1, (2, 3, 4))
    expected = half_widths(means[:, :2])
    means[:, 2] = math.nan
    plain, within = half_widths(means)
    assert np.isnan(plain[:, 2]).all() and np.isnan(within[:, 2]).all()
    assert plain[:, :2] == pytest.approx(expected[0]) and within[:, :2] == pytest.approx(expected[1])


def test_lines_are_over_common_seeds() -> None:
    means = np.arange(24.0).reshape(2, 3, 4)
    means[0, 0, 1] = math.nan
    assert on_common_seeds(means)[1, 2].tolist() == [20, 22, 23]
    means[1, 1] = math.nan  # an arm without any result hides no seed of the others
    assert on_common_seeds(means)[1, 2].tolist() == [20, 22, 23]
    assert np.isnan(on_common_seeds(means)[1, 1]).all()
    assert on_common_seeds(np.full((2, 2, 3), math.nan)).size == 0


def test_nothing_is_drawn_without_a_common_seed() -> None:
    losses = drawn(SMALL, 2, seed=8)
    losses[0, :, 0], losses[1, :, 1] = math.nan, math.nan
    assert draw(SMALL, losses) is None
    one = draw(SMALL, drawn(SMALL, 1, seed=9))
    assert one is not None and "bars" not in one.caption


def test_long_names_are_rotated_and_long_numbers_rounded() -> None:
    levels: Levels = {DROP: [0.0, 0.1, 0.2, 0.3], RATE: [1e-4, 3e-4]}
    record = record_of(levels)
    runs = runs_of(record, drawn(levels, 2, seed=10))
    found, contrasts = grid(runs, record, "val/loss"), interactions(runs, record, "val/loss", 0.02)
    assert found is not None
    plain = drawn_of(record, runs, found, contrasts)
    assert plain is not None and "rotate(-30" not in plain.file
    names = tuple(f"books/{word}.txt" for word in ("walden", "middlemarch", "moby-dick", "the-woman-in-white"))
    renamed = replace(found, levels={DROP: names, RATE: (1e-4, 0.1 * 3 / 1000)})
    made = drawn_of(record, runs, renamed, contrasts)
    assert made is not None and "rotate(-30" in made.file
    assert {"walden.txt", "lr 1e-4", "lr 3e-4"} <= set(texts(made))


def test_a_long_legend_does_not_shrink_the_panels() -> None:
    levels: Levels = {DROP: [place / 20 for place in range(16)], RATE: [place / 1000 for place in range(1, 17)]}
    few, many = draw(WIDE, drawn(WIDE, 1, seed=12)), draw(levels, drawn(levels, 1, seed=12))
    sizes = [ET.fromstring(made.file).get("viewBox", "").split()[2:] for made in (few, many) if made is not None]
    (width, height), (wide, high) = ((float(side) for side in size) for size in sizes)
    assert wide > 1.5 * width and high > height + 20
