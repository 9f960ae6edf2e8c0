"""The page of six kinds of sweeps, measured in a browser: nothing is cut, outside, equal or over something else.

Figures only scale with the page, so their texts are measured at the widest one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import example_sweep as example
from browser import browser, needs_browser, show, violations
from example_grid import drawn, record_of, runs_of
from harness.analysis.labelled import with_labels
from harness.report.assemble import assemble, in_order
from harness.report.page.render import render_html
from harness.tracking import SweepRecord

pytestmark = [pytest.mark.slow, needs_browser]

WIDTHS = (1400, 800, 390)
GRID: Mapping[str, list[Any]] = {
    "model.drop_rate": [0.0, 0.1, 0.2],
    "model.qkv_bias": [False, True],
    "train.optimizer": ["adamw", "muon"],
}
CONTEXTS: Mapping[str, list[Any]] = {"model.context_length": [32, 64, 128, 256]}
Found = tuple[SweepRecord, pd.DataFrame]


def _two_arms() -> Found:
    record = example.record(tune=example.TUNE)
    return record, example.frame([*example.explore_runs(), *example.confirm_runs()])


def _twelve_arms() -> Found:
    record = record_of(GRID)
    losses = drawn(GRID, 6, seed=3) + np.array([0.0, 0.05, 0.3])[:, None, None, None]
    return record, runs_of(record, losses)


def _one_arm(seeds: int) -> Found:
    record = example.record({"all": {}}, baseline="all", study={"trials": 0, "seeds": seeds}, compare=())
    rows = [example.run(seed, "all", {}, seed=seed, loss=5 + 0.1 * seed, test=5.2) for seed in range(2, 2 + seeds)]
    return record, example.frame(rows)


def _diverged() -> Found:
    rows = [
        example.run(10 * place + seed, arm, values, seed=seed, outcome="diverged", reason="loss is nan")
        for place, (arm, values) in enumerate(example.ARMS.items())
        for seed in (2, 3, 4)
    ]
    return example.record(), example.frame(rows).assign(**{"val/loss": math.nan, "initial_val_loss": 10.8})


def _contexts() -> Found:
    record = record_of(CONTEXTS)
    return record, runs_of(record, drawn(CONTEXTS, 4, seed=5) - np.arange(4)[:, None] * 0.1)


SWEEPS: Mapping[str, Callable[[], Found]] = {
    "two arms": _two_arms,
    "twelve arms of three factors": _twelve_arms,
    "one arm": lambda: _one_arm(4),
    "a single run": lambda: _one_arm(1),
    "everything diverged": _diverged,
    "four context lengths": _contexts,
}

# Texts of each figure that lie outside of it, or over one another (by more than a fifth of the smaller one).
FIGURES = """
  const found = [];
  for (const svg of document.querySelectorAll('figure svg')) {
    if (!svg.checkVisibility()) continue;
    const [frame, name] = [svg.getBoundingClientRect(), svg.closest('figure').id];
    const turned = (node) => node.closest('[transform*=rotate]') !== null;
    const words = [...svg.querySelectorAll('text')].filter((node) => node.textContent.trim());
    const boxes = words.map((node) => [node.textContent, node.getBoundingClientRect(), turned(node)]);
    boxes.forEach(([text, box, aslant], at) => {
      if (box.left < frame.left - 1 || box.right > frame.right + 1) found.push(`${name}: ${text} is outside`);
      if (box.top < frame.top - 1 || box.bottom > frame.bottom + 1) found.push(`${name}: ${text} is outside`);
      for (const [other, place, alsoAslant] of boxes.slice(at + 1)) {
        const width = Math.min(box.right, place.right) - Math.max(box.left, place.left);
        const height = Math.min(box.bottom, place.bottom) - Math.max(box.top, place.top);
        if (aslant || alsoAslant || width <= 0 || height <= 0) continue; // their boxes are larger
        const smaller = Math.min(box.width * box.height, place.width * place.height);
        if (width * height > 0.2 * smaller) found.push(`${name}: ${text} lies over ${other}`);
      }
    });
  }
  return found;
"""

# Elements that are wider than the page or cut what they hold; boxes that scroll are meant to.
CUT = """
  const wide = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > wide) found.push('the page scrolls sideways');
  for (const node of document.querySelectorAll('main *, header *')) {
    if (!node.checkVisibility() || node.closest('svg, pre, .scroll')) continue;
    const box = node.getBoundingClientRect(), named = `${node.localName} ${node.textContent.slice(0, 40)}`;
    if (box.right > wide + 1 || box.left < -1) found.push(`${named} is outside`);
    const hides = getComputedStyle(node).overflowX !== 'visible';
    if (hides && node.scrollWidth > node.clientWidth + 1) found.push(`${named} is cut`);
  }
  return found;
"""

# Names of arms, of which no two may be equal in one place.
LABELS = """
  const tables = [...document.querySelectorAll(':is(section[id$=answer], section[id$=arms]) table')];
  const rows = tables.map((table) => [...table.tBodies[0].rows].filter((row) => row.dataset.arm));
  const places = rows.map((of) => of.map((row) => row.cells[0].firstChild.nextSibling?.textContent.trim()));
  places.push([...document.querySelectorAll('.arms label')].map((node) => node.textContent.trim()));
  return places;
"""


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser() as running:
        yield running


@pytest.mark.parametrize("name", SWEEPS)
def test_nothing_is_cut_equal_outside_or_overlapping(name: str, tmp_path: Path, driver: Any) -> None:
    record, runs = SWEEPS[name]()
    runs = in_order(runs, record)
    shown, labels = with_labels(example.evidence(record, runs, example.curves_of(runs)))
    content = assemble(shown, example.samples_of, "python -m mlflow ui", labels=labels)
    page = tmp_path / "report.html"
    page.write_text(render_html(content), "utf-8")
    for width in WIDTHS:
        show(driver, page, width)
        assert driver.execute_script(CUT) == []
        if width == WIDTHS[0]:
            assert driver.execute_script(FIGURES) == []
            assert driver.get_log("browser") == []
        places = driver.execute_script(LABELS)
        assert all(len(place) == len(set(place)) for place in places)
        if len(record.arms) > 1 and name != "everything diverged":  # which has no table of arms
            assert [len(place) for place in places][:1] == [len(place) for place in places][-1:] == [len(record.arms)]
    assert violations(driver) == []  # at the narrowest


def test_the_measures_can_find_faults(tmp_path: Path, driver: Any) -> None:
    page = tmp_path / "bad.html"
    text = '<text x="1" y="50">one label</text><text x="4" y="52">another</text><text x="90" y="20">far outside</text>'
    figure = f'<figure id="bad"><svg viewBox="0 0 100 100" width="100" style="overflow: hidden">{text}</svg></figure>'
    page.write_text(f'<main>{figure}<p style="width: 2000px">wide</p></main>', "utf-8")
    show(driver, page, WIDTHS[0])
    found = driver.execute_script(FIGURES)
    assert found[0] == "bad: one label lies over another" and "bad: far outside is outside" in found
    assert "the page scrolls sideways" in driver.execute_script(CUT)
