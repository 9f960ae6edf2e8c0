"""A section of the report as data: heading, text, drawings and tables. The page and the Markdown only format it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.report.figures.drawing import Drawing
from harness.report.tables.table import Table


@dataclass(frozen=True)
class Section:
    """One section of the report. The attributes are in the order of the page.

    Attributes:
        anchor: a slug, the id on the page.
        heading: the title.
        text: paragraphs.
        drawings: figures, each with its caption.
        tables: tables, each with a note that explains its columns.
    """

    anchor: str
    heading: str
    text: tuple[str, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    tables: tuple[tuple[Table, str], ...] = ()

    @property
    def without_arms(self) -> Section:
        """The section of a sweep of one arm: tables have no column of arms."""
        return replace(self, tables=tuple((table.without_arms, note) for table, note in self.tables))
