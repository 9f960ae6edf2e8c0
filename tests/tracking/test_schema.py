"""Parameters as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tracking import schema

whole = st.integers(-(2**63) + 1, 2**63 - 1)  # more is in no configuration, and in no column of a frame
json_values = st.none() | st.booleans() | whole | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(json_values | st.lists(json_values, max_size=3).map(tuple))
def test_a_parameter_is_read_back_with_its_type(value: object) -> None:
    text = schema.encode_param(value)
    back = schema.decode_param(text)
    assert (type(back), back) == (type(value), value)
    assert text.isprintable()


@pytest.mark.parametrize(
    "value", ["1e-3", "true", "null", "NaN", '"quoted"', "[", "[" * 100_000, " 1", "", "a\nb", "é"]
)
def test_a_string_that_looks_like_something_else_stays_a_string(value: str) -> None:
    assert schema.decode_param(schema.encode_param(value)) == value


def test_an_address_that_an_older_version_stored_is_read_without_its_password() -> None:
    stored = {"train.seed": "1", "data.url": "http://me:hunter2@host/a.txt?sig=x"}
    assert schema.decode_params(stored) == {"data.url": "http://host/a.txt", "train.seed": 1}
