"""What is wrong with a file, said so that it can be mended: where, which field, what was found, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake. `line` counts from 1; 0 means that no line can be named (a value from the command line)."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.field}: {self.message}" if self.field else f"{place}: {self.message}"


class SpecError(ValueError):
    """Every mistake of a spec together; `str()` gives one line a mistake."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = sorted(set(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def unknown(found: str, allowed: Iterable[str], kind: str = "field") -> str:
    """`unknown <kind>; did you mean …? allowed: …`, the nearest name first where one is near."""
    names = sorted(allowed)
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown {kind} {found!r}; {hint}allowed: {', '.join(names)}"
