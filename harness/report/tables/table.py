"""Tables as plain cells; the page, the terminal and LaTeX only format them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from harness.analysis.statistics import Interval
from harness.report.text.numbers import (
    NOTHING,
    count,
    decimals_for,
    decimals_of_error,
    number,
)

ARM: Final = "Arm"  # heading of the column that names arms


@dataclass(frozen=True)
class Cell:
    """One cell: its text, the number to sort by (None: sort by text), and its link ("": none)."""

    text: str
    value: float | None = None
    href: str = ""


@dataclass(frozen=True)
class Column:
    """One column. `minor` columns are left out where space is short, as in a terminal; `long` ones hold sentences."""

    label: str
    numeric: bool = True
    minor: bool = False
    long: bool = False


@dataclass(frozen=True)
class Row:
    """One row of cells.

    Attributes:
        cells: one per column.
        runs: ids of the runs that the values come from.
        run: the run id, in a table that lists runs.
        result: false for a run that is not complete.
    """

    cells: tuple[Cell, ...]
    runs: tuple[str, ...] = ()
    run: str = ""
    result: bool = True


@dataclass(frozen=True)
class Table:
    """Columns and rows of equal length."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def arm(self, row: Row) -> str:
        """The arm of a row; empty if the table has no column of arms."""
        names = [column.label for column in self.columns]
        return row.cells[names.index(ARM)].text if ARM in names else ""

    @property
    def without_arms(self) -> Table:
        """The table without its column of arms, for a sweep of one arm."""
        kept = [index for index, column in enumerate(self.columns) if column.label != ARM]
        if len(kept) == len(self.columns):
            return self
        rows = (replace(row, cells=tuple(row.cells[index] for index in kept)) for row in self.rows)
        return Table(tuple(self.columns[index] for index in kept), tuple(rows))

    def lines(self) -> list[list[str]]:
        """The header and the rows as strings, without minor columns."""
        kept = [index for index, column in enumerate(self.columns) if not column.minor]
        header = [self.columns[index].label for index in kept]
        return [header, *([row.cells[index].text for index in kept] for row in self.rows)]


def seeds_text(value: float) -> str:
    """A number of seeds; ∞ for more than a million."""
    return number(value, 0) if math.isinf(value) else count(value)


def table_with_runs(run_ids: Iterable[object], columns: Sequence[tuple[Column, list[Cell]]]) -> Table:
    """A table from columns, with the ids of the runs behind each row, separated by spaces."""
    rows = zip(*(cells for _, cells in columns), strict=True)
    return Table(
        tuple(column for column, _ in columns),
        tuple(Row(cells, tuple(str(ids).split())) for cells, ids in zip(rows, run_ids, strict=True)),
    )


def formatted(values: Iterable[float], to_text: Callable[[float], str]) -> list[Cell]:
    """Numbers formatted by `to_text`."""
    return [sortable(float(value), to_text(float(value))) for value in values]


def sortable(value: float, text: str) -> Cell:
    """A formatted number, sorted by its value; NaN is sorted by its text."""
    return Cell(text, None if math.isnan(value) else float(value))


def with_half_widths(
    found: Sequence[Interval],
    to_text: Callable[[float, int], str] = number,
    baseline: Iterable[bool] | None = None,
    errors: Iterable[float] | None = None,
) -> list[Cell]:
    """Means ± half-widths, `5.310 ± 0.050`; `± –` for a mean without an interval, or nothing if no mean has one.

    Args:
        found: one interval per row; NaN gives a dash.
        to_text: formats a mean: `number`, or `signed` for differences.
        baseline: per row, whether the cell says `baseline` instead of a number.
        errors: standard errors. The smallest gets two significant digits; None: the narrowest half-width does.
    """
    widths = [interval.half_width for interval in found]
    any_width = any(math.isfinite(width) for width in widths)
    decimals = decimals_for(widths) if errors is None else decimals_of_error(errors)
    marked = [False] * len(found) if baseline is None else list(baseline)
    cells = []
    for interval, is_baseline in zip(found, marked, strict=True):
        mean = to_text(interval.mean, decimals)
        half = f" ± {number(interval.half_width, decimals)}" if any_width else ""
        text = mean if mean == NOTHING else f"{mean}{half}"
        cells.append(Cell("baseline") if is_baseline else sortable(interval.mean, text))
    return cells
