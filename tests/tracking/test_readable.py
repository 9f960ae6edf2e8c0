"""Whether a stored run can be read: each value that the harness relies on has its own type and range."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag

from harness.tracking import left_out_lines
from harness.tracking.readable import readable_runs, unreadable, whole, why_left_out

TRIAL = {
    "harness.role": "trial",
    "harness.arm": "drop_rate=0.1",
    "harness.phase": "explore",
    "harness.seed": "7",
    "harness.config_sha256": "ab",
    "harness.study": "x/drop_rate=0.1",
    "harness.trial_number": "3",
    "harness.key": "k-1_a",
}
SWEEP = {"harness.role": "sweep", "harness.opened": "1700000000000", "harness.identity": "1" * 64}


def run(
    tags: dict[str, str],
    name: str = "a run",
    params: dict[str, str] | None = None,
    metrics: dict[str, float] | None = None,
    start: Any = 1_700_000_000_000,
    end: Any = None,
) -> Run:
    info = RunInfo("4f1c", "1", "me", "FINISHED", start, end, "active", run_name=name)
    data = RunData(
        [Metric(key, value, 0, 0) for key, value in (metrics or {}).items()],
        [Param(key, value) for key, value in (params or {}).items()],
        [RunTag(key, value) for key, value in tags.items()],
    )
    return Run(info, data)


def without(tags: dict[str, str], name: str) -> dict[str, str]:
    return {key: text for key, text in tags.items() if key != f"harness.{name}"}


def test_what_the_harness_stores_can_be_read() -> None:
    params, metrics = (
        {"parameters": "124", "flops_per_token": "1e9", "mine": "{"},
        {"val/loss": 6.8, "mine": float("nan")},
    )
    for tags in (TRIAL, {**TRIAL, "harness.outcome": "complete"}, without(TRIAL, "study"), {**TRIAL, "mine": "\x1b"}):
        assert why_left_out(run(tags, params=params, metrics=metrics)) == ""
    assert why_left_out(run(SWEEP), "sweep") == ""
    assert unreadable(run({}, metrics={"val/loss": float("nan")}), "") == ""  # not a run of the harness


@pytest.mark.parametrize("name", ["arm", "phase", "seed", "config_sha256"])
def test_a_missing_tag_is_named(name: str) -> None:
    assert unreadable(run(without(TRIAL, name)), "trial").startswith(
        f"found no tag harness.{name} in the run 4f1c (a run); allowed:"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("arm", "\x1b[31mred"),
        ("arm", ""),
        ("phase", "later"),
        ("seed", "1.5"),
        ("seed", "-1"),
        ("seed", "٣"),  # a digit for `str.isdecimal`
        ("seed", "9" * 400),
        ("outcome", "good"),
        ("trial_number", "first"),
        ("study", "two\nlines"),
        ("key", "../../x"),
        ("key", "k' OR '1'='1"),
    ],
)
def test_a_tag_that_the_harness_cannot_have_stored_is_named_in_one_printable_sentence(name: str, text: str) -> None:
    sentence = unreadable(run({**TRIAL, f"harness.{name}": text}, name="two\nlines \x1b[31m"), "trial")
    assert sentence.startswith("found ") and f"as the tag harness.{name} of the run 4f1c (two\\nlines" in sentence
    assert sentence.isprintable() and len(sentence) < 500


@pytest.mark.parametrize("text", ["yesterday", "9" * 19, ""])
def test_a_sweep_needs_the_time_of_its_opening(text: str) -> None:
    assert "as the tag harness.opened of the run" in unreadable(run({**SWEEP, "harness.opened": text}), "sweep")


@pytest.mark.parametrize(("start", "end"), [(-1, None), (2**60, None), (0, 2**60)])
def test_a_time_that_is_no_date_is_named(start: int, end: int | None) -> None:
    assert "1970" in unreadable(run(TRIAL, start=start, end=end), "trial")


NAN = float("nan")


@pytest.mark.parametrize(
    ("metric", "value"),
    [("tokens", NAN), ("tokens", -1.0), ("tokens", float("inf")), ("perf/seconds", 1e300)],
)
def test_a_number_that_the_harness_cannot_have_stored_is_named(metric: str, value: float) -> None:
    assert f"as the metric {metric} of the run 4f1c" in unreadable(run(TRIAL, metrics={metric: value}), "trial")
    assert "as the parameter parameters of the run" in unreadable(run(TRIAL, params={"parameters": "many"}), "trial")


def test_runs_that_cannot_be_read_are_named_and_counted() -> None:
    told: list[str] = []
    good, bad = run(TRIAL), run(without(TRIAL, "seed"))
    assert readable_runs([good, bad, bad], told.append) == [good] and len(told) == 2
    assert left_out_lines(run=told, sweep=[]) == [f"1 run is left out: {told[0]}"]
    lines = left_out_lines(sweep=[f"s{number}" for number in range(8)], trial=["t\x1b"])
    assert lines == ["8 sweeps are left out: s0; s1; s2; s3; s4; and 3 more", "1 trial is left out: t\\x1b"]


def test_whole_numbers_in_text() -> None:
    assert [whole(text) for text in ("0", "12", str(2**63 - 1))] == [0, 12, 2**63 - 1]
    assert {whole(text) for text in (None, "", "-1", "1.0", " 1", "٣", str(2**63), "9" * 400)} == {None}
