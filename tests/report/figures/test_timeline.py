"""The timeline: which run trained when, and beside which others."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

import example_sweep as example
from harness.report.figures.drawing import Drawing
from harness.report.figures.timeline import lanes, timeline, without_breaks

SVG = "{http://www.w3.org/2000/svg}"
ARM = "drop_rate=0.0"


def rows(*times: tuple[float, float, str]) -> list[dict[str, Any]]:
    """Confirm runs of one arm: minutes after the start, seconds, node."""
    return [
        {
            **example.run(place, ARM, example.ARMS[ARM], seed=place, loss=5.0),
            "started": example.START + timedelta(minutes=begin),
            "seconds": seconds,
            "node": node or None,
        }
        for place, (begin, seconds, node) in enumerate(times, 2)
    ]


def drawn(found: list[dict[str, Any]]) -> Drawing | None:
    return timeline(example.evidence(example.record(), example.frame(found)))


def texts(drawing: Drawing) -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(drawing.file).iter(f"{SVG}text")]


def test_runs_that_overlap_are_in_different_lanes_and_a_free_lane_is_used_again() -> None:
    begin, length = np.array([0.0, 1.0, 4.0, 5.0, 9.0]), np.array([4.0, 9.0, 1.0, 1.0, 1.0])
    assert lanes(begin, length, [""] * 5) == [("", 1), ("", 2), ("", 1), ("", 1), ("", 1)]
    assert lanes(begin, length, ["a", "b", "b", "a", "a"]) == [("a", 1), ("b", 1), ("b", 2), ("a", 1), ("a", 1)]


def test_long_breaks_are_cut_out() -> None:
    starts, cuts = without_breaks(np.array([100.0, 105.0, 1000.0, 1011.0]), np.array([10.0, 5.0, 10.0, 10.0]))
    assert starts.tolist() == [0.0, 5.0, 10.0, 21.0] and cuts == [10.0]  # the break of one second stays


def test_every_run_is_a_bar_that_tells_its_times() -> None:
    found = drawn(rows((0, 90, ""), (1, 120, ""), (600, 30, "")))
    assert found is not None and found.caption.count("cut out") == 1
    assert {"worker 1", "worker 2", "time since the first run began, min"} <= set(texts(found))
    titles = [node.findtext(f"{SVG}title") for node in ET.fromstring(found.inline).iter() if "data-read" in node.attrib]
    assert titles[1] == f"{ARM} · seed 3: confirm, complete, 2 min 00 s, from 2025-03-01 12:01:00 UTC"
    assert len(titles) == 3


def test_workers_are_named_by_their_machine() -> None:
    found = drawn(rows((0, 90, "one"), (0, 90, "two"), (2, 90, "one")))
    assert found is not None and {"one, 1", "two, 1"} <= set(texts(found))


@pytest.mark.parametrize("times", [[], [(0, 60, "")], [(0, float("nan"), ""), (1, 60, "")]])
def test_fewer_than_two_runs_have_no_timeline(times: list[tuple[float, float, str]]) -> None:
    assert drawn([*rows(*times), example.run(90, ARM, {}, outcome="failed") | {"seconds": 0.0}]) is None
