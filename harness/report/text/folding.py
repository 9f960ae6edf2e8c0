"""Divides long captions and notes: their beginning is shown, the rest under "How to read this"."""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 330  # characters of a caption that is shown whole: three lines of the page
_SHOWN: Final = 230  # characters of the beginning of a longer one: two lines
_SENTENCE: Final = re.compile(r"(?<=[.?!]) (?=[A-Z±Δ])")


def folded(text: str) -> tuple[str, str]:
    """The beginning of a text, and the rest; empty for a text of at most three lines. Sentences stay whole."""
    if len(text) <= LONGEST:
        return text, ""
    first, *sentences = _SENTENCE.split(text)
    while sentences and len(first) + len(sentences[0]) < _SHOWN:
        first += f" {sentences.pop(0)}"
    return first, " ".join(sentences)
