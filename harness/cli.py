"""What the commands share: where they write, and how they end when something is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.outcomes import Exit

_WARNINGS_SHOWN = 5

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def fail(message: object, code: int = Exit.MISTAKE) -> NoReturn:
    """Write `message` to standard error, as it is, and leave with `code`."""
    err.print(str(message), markup=False, soft_wrap=True)
    raise typer.Exit(code)


def show_table(lines: Sequence[Sequence[str]]) -> None:
    """Print rows of cells, the headings first; wider than the screen rather than with shortened names."""
    headings, *rows = lines
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, heading in enumerate(headings):
        words = not any(sign.isdigit() for row in rows for sign in row[place])
        table.add_column(heading, justify="left" if place == 0 or words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # an arm's name is no markup
    needed = sum(max(len(line[place]) for line in lines) + 2 for place in range(len(headings)))
    Console(width=max(out.width, needed), highlight=False).print(table)


def show_answer(lines: Sequence[Sequence[str]], answer: str, warnings: Sequence[str]) -> None:
    """Print a comparison: its table, its words, and what may change them."""
    show_table(lines)
    out.print(f"\n{answer}\n", markup=False)
    for warning in warnings[:_WARNINGS_SHOWN]:
        out.print(f"warning: {warning}", markup=False)
    if len(warnings) > _WARNINGS_SHOWN:
        out.print(f"and {len(warnings) - _WARNINGS_SHOWN} more in the report", markup=False)
    if warnings:
        out.print()
