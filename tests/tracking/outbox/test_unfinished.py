"""A run on disk is read as a whole or named: a journal with a valid checksum may still be anybody's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from harness.core.outcomes import Outcome
from harness.tracking import schema, unfinished_runs
from harness.tracking.outbox.journal import BEGIN, END, INTERRUPTED, POINT, TAG, Journal
from stored_runs import DATA, trial_info

POINT_OF_RUN = {
    "step": 8,
    "tokens": 512,
    "progress": 0.2,
    "seconds": math.nan,
    "metrics": {"val/loss": 5.0},
    "sample": "a",
}
ENDED = {"outcome": "complete", "reason": ""}
INFO = {**schema.describe_trial(trial_info()), "data": DATA}


def read(folder: Path, *entries: tuple[str, Any], key: str = "0a1b") -> tuple[int, list[str]]:
    """The number of runs that are read from a folder with one journal, and the sentences about what is left out."""
    journal = Journal(folder / key)
    for kind, content in entries:
        journal.append(kind, content)
    told: list[str] = []
    return len(unfinished_runs(folder, told.append)), told


def test_what_the_harness_writes_is_read(tmp_path: Path) -> None:
    entries = [
        (BEGIN, INFO),
        (POINT, POINT_OF_RUN),
        (TAG, {"device": "cpu"}),
        (INTERRUPTED, {"reason": "x"}),
        (END, ENDED),
    ]
    assert read(tmp_path, *entries) == (1, [])
    [run] = unfinished_runs(tmp_path)
    assert run.outcome is Outcome.COMPLETE and run.points[0].metrics == {"val/loss": 5.0}


@pytest.mark.parametrize(
    "entries",
    [
        [(BEGIN, {**INFO, "arm": 3})],
        [(BEGIN, {**INFO, "seed": -1})],
        [(BEGIN, {**INFO, "study": "x"})],
        [(BEGIN, {**INFO, "data": {"name": "x"}})],
        [(BEGIN, {**INFO, "config": []})],
        [(BEGIN, INFO), (POINT, {**POINT_OF_RUN, "step": "8"})],
        [(BEGIN, INFO), (POINT, {**POINT_OF_RUN, "metrics": []})],
        [(BEGIN, INFO), (POINT, {**POINT_OF_RUN, "metrics": {"val/loss": "low"}})],
        [(BEGIN, INFO), (POINT, {**POINT_OF_RUN, "metrics": {"\x1b": 1.0}})],
        [(BEGIN, INFO), (POINT, POINT_OF_RUN), (POINT, {**POINT_OF_RUN, "sample": 3})],
        [(BEGIN, INFO), (POINT, {**POINT_OF_RUN, "greedy": 3})],
        [(BEGIN, INFO), (TAG, {"device": 3})],
        [(BEGIN, INFO), (INTERRUPTED, {})],
        [(BEGIN, INFO), (END, {"outcome": "good", "reason": ""})],
        [(BEGIN, INFO), (END, {"outcome": "complete", "reason": None})],
        [(BEGIN, INFO), ("other", {})],
    ],
)
def test_a_journal_that_makes_no_sense_is_named(entries: list[tuple[str, Any]], tmp_path: Path) -> None:
    found, told = read(tmp_path, *entries)
    assert found == 0 and len(told) == 1 and "0a1b/journal.jsonl holds no run that" in told[0]


def test_a_folder_whose_name_is_no_key_is_named_in_printable_text(tmp_path: Path) -> None:
    found, told = read(tmp_path, (BEGIN, INFO), key="two\nlines")
    assert found == 0 and told[0].isprintable()
    (tmp_path / "empty").mkdir()
    assert len(unfinished_runs(tmp_path)) == 0
