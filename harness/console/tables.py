"""Tables on standard output."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.config.labels import ArmLabels
from harness.console.cli import out
from harness.core.text import unbroken

_WARNINGS_SHOWN: Final = 5
_KEY_SHOWN: Final = 24  # arms: one screen
_LEAST_LABEL: Final = 12  # characters of labels that are always shown
_SIDE_BY_SIDE: Final = 72  # minimum width of a terminal, in cells, to show two texts side by side


def show_table(lines: Sequence[Sequence[str]]) -> None:
    """Print rows of cells, the headings first. A table wider than the terminal is not cut, so that names stay whole.

    Columns with a digit in any row are aligned to the right, except the first column.
    """
    lines = [[out.shown(cell, "") for cell in line] for line in lines]
    headings, *rows = lines
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, heading in enumerate(headings):
        words = not any(sign.isdigit() for row in rows for sign in row[place])
        table.add_column(heading, justify="left" if place == 0 or words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # rich would read markup in a string
    needed = sum(max(len(line[place]) for line in lines) + 2 for place in range(len(headings)))
    Console(width=max(out.width, needed), highlight=False).print(table)


def show_arms(lines: Sequence[Sequence[str]], labels: ArmLabels, marks: Mapping[str, str] | None = None) -> None:
    """Print a table with one row per arm under its headings: the first cell is the arm's name, shown as its label.

    Labels that do not fit beside the other columns are replaced by codes, with a key below the table.

    Args:
        lines: cells, the headings first.
        labels: of the arms.
        marks: arm → what is written after its label.
    """
    headings, *rows = lines
    marks = marks or {}
    taken = sum(max(len(line[place]) for line in lines) + 2 for place in range(1, len(headings)))
    of = labels.fitting(max(_LEAST_LABEL, out.width - taken - max(map(len, marks.values()), default=0)))
    show_table([headings, *((of[row[0]] + marks.get(row[0], ""), *row[1:]) for row in rows)])
    show_key(labels.key or ([] if of == labels.of else [(of[name], labels.of[name]) for name in labels.names]))


def show_key(key: Sequence[tuple[str, str]]) -> None:
    """Print the settings behind the labels of arms, one line for each of the first ones."""
    if key:
        out.print()
    for label, settings in key[:_KEY_SHOWN]:
        out.print(f"{label} is {out.shown(settings, '')}", soft_wrap=True)
    if len(key) > _KEY_SHOWN:
        out.print(f"and so on; the report has the settings of all {len(key)} arms")


def show_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print labels and values in two columns; long values are wrapped."""
    table = Table.grid(padding=(0, 2))
    for label, value in facts:
        table.add_row(label, Text(out.shown(value, ""), overflow="fold"))
    out.print(table)


def show_answer(
    headline: str,
    lines: Sequence[Sequence[str]],
    answer: str,
    warnings: Sequence[str],
    key: Sequence[tuple[str, str]] = (),
) -> None:
    """Print a comparison: the answer in one line, its table with a key, the answer in words, and the first warnings."""
    if headline:
        _print_text(headline, "bold")
        out.print()
    show_table(lines)
    show_key(key)
    out.print()
    _print_text(answer)
    out.print()
    for warning in warnings[:_WARNINGS_SHOWN]:
        _print_text(f"warning: {warning}")
    if len(warnings) > _WARNINGS_SHOWN:
        out.print(f"and {len(warnings) - _WARNINGS_SHOWN} more in the report")
    if warnings:
        out.print()


def _print_text(text: str, style: str = "") -> None:
    """Print a text in lines that fit the terminal; no line ends inside `p = 0.003`."""
    for line in textwrap.wrap(unbroken(text), max(20, out.width), break_on_hyphens=False) or [""]:
        out.print(line.replace("\N{NO-BREAK SPACE}", " "), style=style, soft_wrap=True)


def show_texts(a: Sequence[tuple[str, str]], b: Sequence[tuple[str, str]]) -> None:
    """Print pairs of headed texts: side by side, or below each other as A and B in a narrow terminal.

    Args:
        a, b: (heading, text) of each text; the shorter list is padded with `–`.
    """
    for pair in zip_longest(a, b):
        cells = [
            Text.assemble((out.shown(f"{one[0]}\n"), "dim"), out.shown(one[1].strip())) if one else Text(out.shown("–"))
            for one in pair
        ]
        if out.width < _SIDE_BY_SIDE:
            for letter, cell in zip("AB", cells, strict=True):
                out.print(Text(f"{letter}  ") + cell)
            continue
        table = Table(box=None, pad_edge=False, expand=True, show_header=False, padding=(0, 2, 1, 0))
        table.add_column(ratio=1, overflow="fold")
        table.add_column(ratio=1, overflow="fold")
        table.add_row(*cells)
        out.print(table)
