"""Mistakes in a file: line, field, what was found and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.core.secrets import without_secrets
from harness.core.text import _clipped, printable


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake. `line` starts at 1; 0 where there is no line (a value from the command line)."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        field = f" {_clipped(self.field)}:" if self.field else ""
        return printable(without_secrets(f"{place}:{field} {self.message}"))


class SpecError(ValueError):
    """All mistakes of a spec; `str()` gives one line per mistake."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = sorted(set(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))
