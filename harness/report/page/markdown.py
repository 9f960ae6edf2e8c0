"""Markdown for text, tables, code and figures."""

from __future__ import annotations

import re

import jinja2

from harness.core.text import fenced
from harness.report.figures.drawing import Drawing
from harness.report.tables.table import Table
from harness.report.text.folding import folded
from harness.report.text.numbers import short_id

_RUNS_NAMED = 12  # most run ids in a row of a table


class _Raw(str):
    """Text that is already Markdown and must not be escaped."""

    __slots__ = ()


def prepare(environment: jinja2.Environment) -> None:
    """Make a Jinja environment escape its output for Markdown, and add the filters of the Markdown template."""
    environment.finalize = markdown
    environment.filters |= {
        "fenced": _fenced,
        "table": table_of,
        "picture": picture_of,
        "linked": _linked,
        "how_to_read": how_to_read,
    }


_SPECIAL = re.compile(r"([\\`*_{}\[\]|#~$])")


def markdown(value: object) -> str:
    """Escape a value for Markdown: one line, no markup, no HTML."""
    if isinstance(value, _Raw):
        return value
    line = " ".join(str(value).split())
    return _SPECIAL.sub(r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _fenced(text: str) -> _Raw:
    return _Raw(fenced(text.rstrip()))


def picture_of(drawing: Drawing) -> _Raw:
    """An image link to a drawing's file, and its caption."""
    return _Raw(f"![{markdown(drawing.title)}](figures/{drawing.filename})\n\n{how_to_read(drawing.caption)}")


def how_to_read(text: str) -> _Raw:
    """A caption or note; the rest of a long one is folded."""
    start, rest = folded(text)
    fold = f"\n\n<details><summary>How to read this</summary>\n\n{markdown(rest)}\n\n</details>" if rest else ""
    return _Raw(markdown(start) + fold)


def _linked(drawing: Drawing, text: str) -> _Raw:
    return _Raw(f"[{markdown(text)}](figures/{drawing.filename})")


def table_of(table: Table) -> _Raw:
    """A pipe table; if rows have runs behind them, their ids are in a last column."""
    named = any(row.runs for row in table.rows)
    header = [markdown(column.label) for column in table.columns] + ["Runs"] * named
    rule = ["---:" if column.numeric else ":---" for column in table.columns] + [":---"] * named
    lines = [header, rule]
    for row in table.rows:
        cells = [f"[{markdown(cell.text)}]({cell.href})" if cell.href else markdown(cell.text) for cell in row.cells]
        ids = [f"`{short_id(run)}`" for run in row.runs]
        if len(ids) > _RUNS_NAMED:
            ids[_RUNS_NAMED - 1 :] = [f"and {len(ids) - _RUNS_NAMED + 1} more"]
        lines.append(cells + [" ".join(ids)] * named)
    return _Raw("\n".join(f"| {' | '.join(line)} |" for line in lines))
