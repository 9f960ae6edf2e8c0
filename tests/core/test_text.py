from __future__ import annotations

import pytest

from harness.core.text import fenced, listed, plural, unbroken


@pytest.mark.parametrize(
    ("text", "fence"), [("plain", "```"), ("```\ncode\n```", "````"), ("a ````` b", "``````"), ("`", "```")]
)
def test_a_fence_is_longer_than_any_run_of_backticks_inside(text: str, fence: str) -> None:
    assert fenced(text) == f"{fence}text\n{text}\n{fence}"


def test_words_are_listed_and_counted() -> None:
    assert [listed("a"), listed("ab"), listed("abc")] == ["a", "a and b", "a, b and c"]
    assert [plural(0, "run"), plural(1, "run"), plural(2, "run")] == ["0 runs", "1 run", "2 runs"]


def test_no_line_ends_inside_a_number_with_its_sign_or_unit() -> None:
    text = "a p = 0.0029, p < 0.0001, δ = 0.02, 5.3 ± 0.1, 95 % and a step = b"
    assert unbroken(text).replace("\N{NO-BREAK SPACE}", "_") == (
        "a p_=_0.0029, p_<_0.0001, δ_=_0.02, 5.3 ±_0.1, 95_% and a step = b"
    )
