"""What figures tell on request: the titles of marks, and the scales by which lines are read."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest

import example_sweep as example
from harness.analysis.comparison import compare
from harness.report.figures.axes import on_one_grid
from harness.report.figures.drawing import DASHES, arm_style
from harness.report.figures.final_losses import final_losses
from harness.report.figures.forest import forest
from harness.report.figures.loss_curves import loss_curves

SVG = "{http://www.w3.org/2000/svg}"
ARM, BASELINE = example.LOSSES


def titles(inline: str, marked: str) -> list[str]:
    """The titles of all elements with this attribute."""
    nodes = [node for node in ET.fromstring(inline).iter() if marked in node.attrib]
    return [node.findtext(f"{SVG}title", "") for node in nodes]


def test_marks_tell_the_numbers_of_the_comparison() -> None:
    runs = example.frame(example.confirm_runs())
    evidence = example.evidence(example.record(), runs)
    drawn, final = forest(compare(runs, BASELINE, arms=[ARM, BASELINE])), final_losses(evidence)
    assert drawn and final
    said = f"{ARM}: +0.233 (−0.054 to 0.520), p = 0.0728"
    assert titles(drawn.inline, "data-read") == [f"{BASELINE}: baseline", said, said]  # the mark and its interval
    found = titles(final.inline, "data-read")
    own = [f"{arm}, seed {seed}: {loss:.3f}" for arm in (BASELINE, ARM) for seed, loss in example.LOSSES[arm].items()]
    apart = {seed: loss - example.LOSSES[BASELINE][seed] for seed, loss in example.LOSSES[ARM].items()}
    paired = [f"{ARM}, seed {seed}: +{difference:.3f}" for seed, difference in apart.items()]
    assert [text for text in found if "seed" in text] == own + paired
    assert f"{ARM}: mean 5.400, 95 % interval 4.903 to 5.897" in found
    assert f"{ARM}: mean +0.233, 95 % interval −0.054 to 0.520" in found
    assert titles(final.file, "data-read") == found  # the file on GitHub has them too


def test_lines_can_be_read_by_the_scale_of_their_panel() -> None:
    runs = example.frame(example.confirm_runs())
    curves = example.curves_of(runs)
    drawn = loss_curves(example.evidence(example.record(), runs, curves))
    assert drawn
    panels = [node for node in ET.fromstring(drawn.inline).iter() if "data-panel" in node.attrib]
    facts: list[dict[str, Any]] = [json.loads(node.attrib["data-panel"]) for node in panels]
    assert [one["name"] for one in facts] == ["Training loss", "Validation loss", "Validation minus training loss"]
    for node, one, metric in zip(panels[:2], facts[:2], ("train/loss", "val/loss"), strict=True):
        lines = [line for line in node.iter() if "data-line" in line.attrib]
        assert [line.findtext(f"{SVG}title", "").split("\n")[0] for line in lines] == [ARM, BASELINE]
        for line, arm in zip(lines, (ARM, BASELINE), strict=True):
            path = next(line.iter(f"{SVG}path")).attrib["d"]
            x, y = map(float, re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)[-1])
            left, top, right, bottom = one["box"]
            at = np.interp(x, [left, right], one["xs"])
            value = one["ys"][0] + (bottom - y) / (bottom - top) * (one["ys"][1] - one["ys"][0])
            mine = curves[(curves["arm"] == arm) & (curves["metric"] == metric)]
            tokens, losses = on_one_grid(mine.assign(at=mine["tokens"].astype(float)))
            assert at == pytest.approx(tokens[-1], rel=1e-3)
            assert value == pytest.approx(losses.mean(axis=0)[-1], abs=2e-3)


def test_no_two_of_24_arms_look_alike_and_none_is_dotted() -> None:
    looks = [arm_style(index) for index in range(24)]
    assert len({(colour, dash) for colour, dash, _ in looks}) == 24
    assert len({(colour, marker) for colour, _, marker in looks}) == 24
    assert ":" not in DASHES


@pytest.mark.parametrize(("count", "marked"), [(6, False), (7, True)])
def test_lines_have_markers_if_there_are_more_arms_than_colours(count: int, marked: bool) -> None:
    arms = {f"drop_rate=0.{place}": {"model.drop_rate": place / 10} for place in range(count)}
    runs = example.frame(example.confirm_runs({arm: {2: 5.0, 3: 5.1} for arm in arms}))
    curves = example.curves_of(runs, points=5).query("metric == 'val/loss'")
    drawn = loss_curves(example.evidence(example.record(arms), runs, curves))
    assert drawn
    lines = [node for node in ET.fromstring(drawn.inline).iter() if "data-line" in node.attrib]
    assert len(lines) == count
    assert all((len(list(line.iter(f"{SVG}use"))) > 1) == marked for line in lines)
