"""A table as standalone HTML for a notebook."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import escape

from harness.report.tables.table import Table


def html_table(table: Table) -> str:
    """A table as HTML for a notebook, with all text escaped."""

    def row(cells: Iterable[str], tag: str) -> str:
        styled = zip(table.columns, cells, strict=True)
        inside = (
            f'<{tag} style="text-align:{"right" if column.numeric else "left"}">{escape(text)}</{tag}>'
            for column, text in styled
        )
        return f"<tr>{''.join(inside)}</tr>"

    head = row((column.label for column in table.columns), "th")
    body = "\n".join(row((cell.text for cell in one.cells), "td") for one in table.rows)
    return f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table>"
