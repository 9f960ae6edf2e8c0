"""JSON of anybody is read within bounds on size, depth and numbers."""

from __future__ import annotations

import json
import math

import pytest

from harness.core import bounded_json
from harness.core.bounded_json import MAX_DEPTH, MAX_WHOLE, read_json


@pytest.mark.parametrize("value", [None, True, "é\ud800", MAX_WHOLE, -MAX_WHOLE, 0.1, 1e-320, [1, {"a": [2.5]}], {}])
def test_what_the_harness_writes_is_read_back(value: object) -> None:
    text = json.dumps(value)
    for found in (read_json(text), read_json(text.encode())):
        assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not valid JSON"),
        ("[1,", "is not valid JSON"),
        (b"\xff\xfe\xff", "is not valid JSON"),
        ("9" * 400, "holds a number that is out of range"),
        ("9" * 5000, "holds a number that is out of range"),
        (str(MAX_WHOLE + 1), "holds a number that is out of range"),
        ("[1e999]", "holds a number that is out of range"),
        ("[NaN]", "holds a number that is out of range"),
        ("[-Infinity]", "holds a number that is out of range"),
        ("[" * 100_000, f"is nested more than {MAX_DEPTH} deep"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"is nested more than {MAX_DEPTH} deep"),
        ('{"a":' * 500 + "1" + "}" * 500, f"is nested more than {MAX_DEPTH} deep"),
    ],
)
def test_anything_else_is_refused_with_a_reason(text: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=rf"^{why}$"):
        read_json(text)


def test_bounds_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    monkeypatch.setattr(bounded_json, "MAX_BYTES", 2**20)
    assert len(read_json(json.dumps("x" * (2**20 - 2)))) == 2**20 - 2
    with pytest.raises(ValueError, match=r"^has more than 1 MB$"):
        read_json(json.dumps("x" * (2**20 - 1)))


def test_numbers_that_are_not_finite_are_read_where_they_are_expected() -> None:
    found = read_json("[NaN, Infinity, 1e999]", finite=False)
    assert math.isnan(found[0]) and found[1:] == [math.inf, math.inf]
