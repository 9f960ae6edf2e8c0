"""What is wrong with a file, said so that it can be mended: where, which field, what was found, what is allowed."""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SHOWN = 80  # characters of a value, or of a field's name
_JOINERS = "\u200c\u200d"  # between the parts of letters and of emoji; not printable by themselves


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake. `line` counts from 1; 0 means that no line can be named (a value from the command line)."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        field = f" {_clipped(self.field)}:" if self.field else ""
        return printable(f"{place}:{field} {self.message}")


class SpecError(ValueError):
    """Every mistake of a spec together; `str()` gives one line a mistake."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = sorted(set(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def printable(text: str, also: str = "") -> str:
    """The text in which a terminal finds no command and no second line: control characters are written as escapes.

    Those in `also`, such as a line's end, are left.
    """
    kept = _JOINERS + also
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """A value as a message quotes it: on one line, and not longer than one."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:  # whose digits Python may refuse to write
        return f"a number of more than {_SHOWN} digits"
    return _clipped(str(value) if isinstance(value, datetime.date) else repr(value))


def _clipped(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "…"


def unknown(found: str, allowed: Iterable[str], kind: str = "field") -> str:
    """`unknown <kind>; did you mean …? allowed: …`, the nearest name first where one is near."""
    names = sorted(allowed)
    near = difflib.get_close_matches(found[:_SHOWN], names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown {kind} {shown(found)}; {hint}allowed: {', '.join(names)}"
