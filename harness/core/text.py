"""Words and values as text: printable, quoted, listed, counted."""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Iterable

from harness.core.secrets import without_secrets

SAME_COMMAND = "the same command resumes it"  # advice after a sweep that did not finish
TRIES_AGAIN = "the same command tries again"  # advice after a store did not take something

_SHOWN = 80  # maximum length of a value or a field's name in a message, in characters

_JOINERS = "\u200c\u200d"  # parts of letters and emoji; not printable by themselves


def printable(text: str, also: str = "") -> str:
    """The text with control characters escaped, so that it is one line and changes no terminal's state.

    Args:
        text: any text.
        also: characters to keep, such as a newline.
    """
    kept = _JOINERS + also
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


# Control characters but tab and newline, and those that change the direction of text (Unicode's UAX 9): they can make a
# text look like another one.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """A text of several lines with control characters and marks of the writing direction escaped."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown(value: object) -> str:
    """A value as messages quote it: one line, at most 80 characters, without passwords in addresses."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:  # Python limits the digits of `str`
        return f"a number of more than {_SHOWN} digits"
    return _clipped(str(value) if isinstance(value, datetime.date) else without_secrets(repr(value)))


def _clipped(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "…"


def unknown(found: str, allowed: Iterable[str], kind: str = "field") -> str:
    """`unknown <kind>; did you mean …? allowed: …`, with a suggestion if an allowed name is similar."""
    names = sorted(allowed)
    near = difflib.get_close_matches(found[:_SHOWN], names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown {kind} {shown(found)}; {hint}allowed: {', '.join(names)}"


def listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def fenced(text: str) -> str:
    """A Markdown code block, its fence longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


_TOGETHER = re.compile(r"(?<=\d) (?=%)|(?<=\b[pδ]) (?=[=<≤] ?\d)|(?<=[=<≤]) (?=[−\d])|(?<=±) (?=\d)")


def unbroken(text: str) -> str:
    """The text with no-break spaces where no line may end: in `15 %` and `p = 0.003`."""
    return _TOGETHER.sub("\N{NO-BREAK SPACE}", text)


def noun(number_of: float, word: str) -> str:
    """The word for this many: `run` for 1, else `runs`."""
    return word if number_of == 1 else f"{word}s"


def plural(number_of: int, word: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{number_of} {noun(number_of, word)}"


def sampling_words(temperature: float, top_k: int | None) -> str:
    """How a text is sampled: `sampled at temperature 0.8, top-k 40`."""
    return f"sampled at temperature {temperature:g}{'' if top_k is None else f', top-k {top_k}'}"


_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_key(text: object) -> bool:
    """Whether this is the key of a run, which is also the name of its folder."""
    return isinstance(text, str) and _KEY.fullmatch(text) is not None
