"""What is wrong with a file, said so that it can be mended: where, which field, what was found, what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.core.text import _clipped, printable


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
