"""A part of the report as data: a heading, words, drawings and tables. The page and the Markdown only set it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.report.figures.drawing import Drawing
from harness.report.tables.table import Table


@dataclass(frozen=True)
class Section:
    """One part of the report, in the order it is read: heading, text, drawings, tables, each with a note below.

    Attributes:
        anchor: a slug, its id on the page.
        heading: what it is about.
        text: paragraphs.
        drawings: figures, each with its own caption.
        tables: each with the note that says what its figures mean.
    """

    anchor: str
    heading: str
    text: tuple[str, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    tables: tuple[tuple[Table, str], ...] = ()
