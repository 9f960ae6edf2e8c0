"""Writes reports: reads a sweep from the tracking store and writes all files of its report into one folder."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd

from harness.analysis.evidence import Evidence, read_evidence
from harness.analysis.labelled import renamed_arms, with_labels
from harness.analysis.planned import set_aside
from harness.core import metrics
from harness.core.files import write_text
from harness.core.gc_pause import gc_paused
from harness.core.metrics import Point
from harness.report.assemble import assemble, in_order
from harness.report.folder import check_folder, write_folder
from harness.report.page.content import Content
from harness.report.page.latex import latex_table
from harness.report.page.render import render_html, render_markdown
from harness.report.text.provenance import several_sweeps
from harness.tracking import (
    NothingToReport,
    TrackingError,
    load_frames,
    load_passage,
    load_patch,
    load_positions,
    load_samples,
    load_sweep,
    ui_command,
)

if TYPE_CHECKING:
    from harness.report.tables.table import Table
# The beginning of a text that is a formula, also in the wide characters of East Asian fonts.
_FORMULA: Final = re.compile(r"\s*[=@\uff1d\uff20]|\s*[-+\uff0b\uff0d](?![\d.,\s±–−e%]*$)")
_ROWS: Final = 500_000  # of a part of a long CSV file
_FOLDER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report, and its answer.

    Attributes:
        folder: the folder with all files of the report.
        html: the page, one self-contained file.
        markdown: the same as Markdown, with links to `figures/`.
        comparison: as `compare` returns it; its last column, `label`, has the names that the page gives to arms.
        key: label and name of each arm, where labels do not give all settings.
        lines: the comparison as a short table of strings, header first.
        headline: the answer in one line; empty where no arm has a verdict.
        answer: the comparison in words.
        warnings: those that may change the answer, each a sentence or two.
        notes: which sweep of its name each one is, where there are several.
        sweeps: content of each sweep, and its comparison as in `comparison`.
    """

    folder: Path
    html: Path
    markdown: Path
    comparison: pd.DataFrame
    key: list[tuple[str, str]]
    lines: list[list[str]]
    headline: str
    answer: str
    warnings: list[str]
    notes: list[str]
    sweeps: Sequence[tuple[Content, pd.DataFrame]] = ()


def write_report(
    experiment: str,
    uri: str | None = None,
    out: Path = Path("reports"),
    sweep: str | None = None,
    patch: bool = False,
) -> ReportFiles:
    """Write the report of a sweep into `<out>/<experiment>/`. The same runs give byte-identical files.

    Args:
        experiment: name of the sweep.
        uri: MLflow tracking URI; by default the one that sweeps use.
        out: folder of reports, created if missing.
        sweep: parent run id; by default the sweep that was started or resumed last.
        patch: whether the report has the uncommitted changes to the code. They may be private, and reports are sent
            around; with the sweep's run in MLflow they are kept in any case.

    Raises:
        TrackingError: the store, experiment or sweep does not exist, the sweep has no runs, or the folder has files of
            somebody else.
    """
    check_folder(out / experiment)
    evidence, curves = read_sweep(experiment, uri, sweep)
    return write_files(content_of(evidence, uri, patch), curves, out / experiment)


@gc_paused()
def read_sweep(experiment: str, uri: str | None = None, sweep: str | None = None) -> tuple[Evidence, pd.DataFrame]:
    """The statistics of a sweep, and its curves. Arguments and errors are those of `write_report`."""
    if not _FOLDER_NAME.fullmatch(experiment):
        raise TrackingError(f"experiment: found {experiment!r}; allowed: letters, digits, - and _")
    record = load_sweep(experiment, uri, sweep)
    runs, curves = load_frames(experiment, uri, record.run_id)
    record = replace(record, left_out=(*record.left_out, *runs.attrs.get("left_out", ())))
    runs = in_order(runs, record)
    if runs.empty or metrics.VAL_LOSS not in runs:
        why = "; ".join(record.left_out) or "so there is nothing to report"
        raise NothingToReport(f"the sweep {record.run_id} of {experiment!r} has no run with a loss yet, {why}")
    compares_context = "model.context_length" in record.compare
    positions = load_positions(experiment, uri, record.run_id) if compares_context else None
    evidence = read_evidence(record, runs, curves, positions)
    return evidence, set_aside(curves, evidence.unplanned)


@gc_paused()
def content_of(evidence: Evidence, uri: str | None = None, patch: bool = False) -> Content:
    """The content of a sweep's report, with its figures. Arguments are those of `write_report`."""
    record = evidence.record
    shown, labels = with_labels(evidence)
    return assemble(
        shown,
        lambda run_id: load_samples(run_id, uri),
        ui_command(uri),
        lambda run_id: load_passage(run_id, uri),
        load_patch(record.run_id, uri) if record.dirty and patch else "",
        labels,
    )


@gc_paused()
def write_files(content: Content, curves: pd.DataFrame, folder: Path) -> ReportFiles:
    """Write all files of a report, each replaced atomically; errors as for `harness.report.folder.write_folder`."""
    comparison = with_names(content.comparison, content)
    files = {
        "runs.csv": _frame_csv(with_names(content.runs, content)),
        "curves.csv": _long_csv(curves),
        "comparison.csv": _frame_csv(comparison),
        "comparison.tex": latex_table(content.answer_table, content.record.question or content.record.name),
        **{f"figures/{drawing.filename}": drawing.file for drawing in content.figures},
        **{f"tables/{name}.csv": _csv(one) for name, one in content.tables.items()},
        "report.md": render_markdown(content),
        "report.html": render_html(content),
    }
    write_folder(folder, files)
    return ReportFiles(
        folder=folder,
        html=folder / "report.html",
        markdown=folder / "report.md",
        comparison=comparison,
        key=content.labels.key if content.labels else [],
        lines=content.answer_table.lines(),
        headline=str(content.headline or ""),
        answer=" ".join([str(content.answer), *_noise(content)]),
        warnings=content.serious_warnings,
        notes=several_sweeps(content.record),
        sweeps=[(content, comparison)],
    )


def with_names(frame: pd.DataFrame, content: Content) -> pd.DataFrame:
    """A frame with the names of arms in place of their labels, and the labels in the last column."""
    if content.labels is None:
        return frame
    return renamed_arms(frame, content.labels.of_arms).assign(label=frame["arm"])


def _csv(table: Table) -> str:
    """A table as CSV with its displayed text, and the ids of the runs behind each row."""
    named = any(row.runs for row in table.rows)
    rows = [[cell.text for cell in row.cells] + [" ".join(row.runs)] * named for row in table.rows]
    header = [column.label for column in table.columns] + ["Runs"] * named
    return _frame_csv(pd.DataFrame(rows, columns=header))


def _frame_csv(frame: pd.DataFrame) -> str:
    return without_formulas(frame).to_csv(index=False, lineterminator="\n")


def without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with an apostrophe before texts that a spreadsheet would run as a formula, such as `=1+1`, in any cell.

    Signed numbers (`+0.14 ± 0.05`) stay. Source: OWASP, "CSV Injection".
    """
    safe = frame.copy(deep=False)
    for place, kind in enumerate(frame.dtypes):  # names of columns may repeat
        if not pd.api.types.is_numeric_dtype(kind):
            column = frame.iloc[:, place]
            cells = column.cat.categories if isinstance(kind, pd.CategoricalDtype) else column
            cells = column.unique() if isinstance(kind, pd.StringDtype) else cells
            if texts := {cell: f"'{cell}" for cell in cells if _is_formula(cell)}:
                safe.isetitem(place, column.astype(object).replace(texts))
    safe.columns = [f"'{name}" if _is_formula(name) else name for name in frame.columns]
    return safe


def _is_formula(cell: object) -> bool:
    return isinstance(cell, str) and _FORMULA.match(cell) is not None


def _long_csv(frame: pd.DataFrame) -> Iterator[str]:
    """A frame as CSV in parts, by pyarrow: with millions of rows, pandas takes ten times as long."""
    import pyarrow as pa
    from pyarrow import csv

    for first in range(0, max(1, len(frame)), _ROWS):
        text, rows = io.BytesIO(), without_formulas(frame.iloc[first : first + _ROWS])
        options = csv.WriteOptions(include_header=not first)
        csv.write_csv(pa.Table.from_pandas(rows, preserve_index=False), text, options)
        yield text.getvalue().decode("utf-8")


def _noise(content: Content) -> Iterable[str]:
    """The text on seed noise, for a sweep that measures it."""
    return next((section.text for section in content.sections if section.anchor == "noise"), ())


def loss_curve(curves: pd.DataFrame | Iterable[Point], path: Path) -> None:
    """Draw the training and validation loss of one run over training tokens into an SVG file.

    Args:
        curves: the run's points as the trainer yields them, or its rows of `load_curves`.
        path: the file to write.

    Raises:
        ValueError: the run has no loss.
    """
    from harness.report.figures.run_curve import run_curve

    frame = curves if isinstance(curves, pd.DataFrame) else _frame(curves)
    write_text(path, run_curve(frame).file)


def _frame(points: Iterable[Point]) -> pd.DataFrame:
    rows = [(point.tokens, name, value) for point in points for name, value in point.metrics.items()]
    return pd.DataFrame(rows, columns=["tokens", "metric", "value"])
