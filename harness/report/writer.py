"""Writes reports: reads a sweep from the tracking store, puts every file of its report into one folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd

from harness.metrics import Point
from harness.outcomes import Phase
from harness.problems import printable
from harness.report.comparison import common_ground, compare, verdict_runs
from harness.report.page import Content, Sample, render_html, render_markdown
from harness.report.tables import answer_table, best_table, comparison_lines, latex_table
from harness.tracking import (
    SweepRecord,
    TrackingError,
    load_curves,
    load_positions,
    load_runs,
    load_samples,
    load_sweep,
    ui_command,
)

if TYPE_CHECKING:
    from harness.report.sections import Section

_CHOSEN: Final = (
    "The configuration of each arm: its explore trial of lowest validation loss. That loss was selected, so it is no "
    "result; the confirm runs are."
)
_FOLDER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class ReportFiles:
    """Where a report is and what it says.

    Attributes:
        folder: everything the report consists of.
        html: the page, one file that needs no other.
        markdown: the same, with links to `figures/`.
        comparison: as `compare` gives it.
        lines: the comparison as a short table of strings, its headings first.
        answer: the comparison in words.
        warnings: what may change it, each a sentence or two.
    """

    folder: Path
    html: Path
    markdown: Path
    comparison: pd.DataFrame
    lines: list[list[str]]
    answer: str
    warnings: list[str]


def write_report(
    experiment: str, uri: str | None = None, out: Path = Path("reports"), sweep: str | None = None
) -> ReportFiles:
    """Write the report of a sweep into `<out>/<experiment>/`. The same runs give the same bytes.

    Args:
        experiment: name of the sweep.
        uri: MLflow's tracking address; by default the one that sweeps use.
        out: folder of reports, made where it is missing.
        sweep: a parent run's id; by default the sweep that was started or resumed last.

    Raises:
        TrackingError: no such store, experiment or sweep, or a sweep without runs.
    """
    if not _FOLDER_NAME.fullmatch(experiment):
        raise TrackingError(f"experiment: found {experiment!r}; allowed: letters, digits, - and _")
    record = load_sweep(experiment, uri, sweep)
    runs = in_order(load_runs(experiment, uri, record.run_id), record)
    if runs.empty:
        raise TrackingError(
            f"the sweep {record.run_id} of {experiment!r} has no run yet, so there is nothing to report"
        )
    curves = load_curves(experiment, uri, record.run_id)
    compares_context = "model.context_length" in record.compare
    positions = load_positions(experiment, uri, record.run_id) if compares_context else None
    content = assemble(record, runs, curves, lambda run_id: load_samples(run_id, uri), ui_command(uri), positions)
    return write_files(content, curves, out / experiment)


def in_order(runs: pd.DataFrame, record: SweepRecord) -> pd.DataFrame:
    """Runs by arm as in the spec, then phase, trial number or seed: not by the order in which workers finished."""
    place = {arm.name: index for index, arm in enumerate(record.arms)}
    phase = {phase: index for index, phase in enumerate(Phase)}
    keys = pd.DataFrame(
        {
            "arm": runs["arm"].map(place).astype(float),
            "phase": runs["phase"].map(phase).astype(float),
            "trial": pd.to_numeric(runs["trial_number"]).astype(float),
            "seed": pd.to_numeric(runs["seed"]).astype(float),
            "run_id": runs["run_id"],
        }
    )
    return runs.loc[keys.sort_values(list(keys)).index].reset_index(drop=True)


def assemble(
    record: SweepRecord,
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    samples_of: Callable[[str], Iterable[tuple[int, int, str]]],
    command: str,
    positions: pd.DataFrame | None = None,
) -> Content:
    """Compare, draw and choose samples.

    Args:
        record, runs, curves: as the tracking readers give them, of one sweep.
        samples_of: run id → its samples as (step, tokens, text).
        command: the shell command that shows all runs.
        positions: as `load_positions` gives them, for a sweep that compares context lengths.
    """
    from harness.report import contexts, figures  # matplotlib: not before something is drawn

    arms = [arm.name for arm in record.arms]
    ground = common_ground(runs)
    baseline = record.baseline if len(arms) > 1 and ground.ranked else None
    comparison = compare(runs, baseline, ground.metric, arms, record.study.get("delta"), record.study.get("looks"))
    drawings = (
        figures.final_losses(runs, comparison),
        figures.loss_curves(curves, runs, arms, ground.metric),
        contexts.losses_by_position(positions, runs, arms) if positions is not None else None,
    )
    return Content(
        record=record,
        runs=runs,
        comparison=comparison,
        ground=ground,
        drawings=[drawing for drawing in drawings if drawing is not None],
        sections=_sections(record, runs, comparison),
        samples=_samples(runs, arms, samples_of),
        ui_command=command,
    )


def _sections(record: SweepRecord, runs: pd.DataFrame, comparison: pd.DataFrame) -> list[Section]:
    """The parts of the report that only some sweeps have, in the order they are read."""
    from harness.report import budgets, factor_section, noise, searches  # matplotlib: not before something is drawn

    metric = str(comparison["metric"].iloc[0])
    found = (
        factor_section.factor_section(runs, record, comparison, record.study.get("looks")),
        noise.noise_section(record, runs, metric),
        _with_best(searches.search_section(record, runs, metric), record, runs),
        budgets.budget_section(record, runs),
    )
    return [section for section in found if section is not None]


def _with_best(section: Section | None, record: SweepRecord, runs: pd.DataFrame) -> Section | None:
    """The search, with what it chose in each arm."""
    if section is None:
        return None
    chosen = best_table(runs, [arm.name for arm in record.arms], list(record.tune))
    return replace(section, tables=((chosen, _CHOSEN), *section.tables))


def _samples(
    runs: pd.DataFrame, arms: list[str], samples_of: Callable[[str], Iterable[tuple[int, int, str]]]
) -> list[Sample]:
    """First and last text of the first confirm run of each arm."""
    chosen, found = verdict_runs(runs), []
    for arm in arms:
        for run_id in chosen.loc[chosen["arm"] == arm, "run_id"].head(1):
            texts = [(tokens, printable(text, "\n\t")) for _, tokens, text in samples_of(run_id)]
            if texts:
                found.append(Sample(arm, run_id, tuple(texts[:1] + texts[1:][-1:])))
    return found


def write_files(content: Content, curves: pd.DataFrame, folder: Path) -> ReportFiles:
    """Write every file of a report; each is replaced as a whole, and a figure that no longer exists is removed."""
    pictures = folder / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    drawings = [*content.drawings, *(drawing for section in content.sections for drawing in section.drawings)]
    for drawing in drawings:
        _write(pictures / drawing.filename, drawing.file)
    current = {drawing.filename for drawing in drawings}
    for old in pictures.glob("*.svg"):
        if old.name not in current:
            old.unlink()
    table = answer_table(content.comparison)
    files = {
        "runs.csv": content.runs.to_csv(index=False, lineterminator="\n"),
        "curves.csv": curves.to_csv(index=False, lineterminator="\n"),
        "comparison.csv": content.comparison.to_csv(index=False, lineterminator="\n"),
        "comparison.tex": latex_table(table, content.record.question or content.record.name),
        "report.md": render_markdown(content),
        "report.html": render_html(content),
    }
    for name, text in files.items():
        _write(folder / name, text)
    return ReportFiles(
        folder=folder,
        html=folder / "report.html",
        markdown=folder / "report.md",
        comparison=content.comparison,
        lines=comparison_lines(content.comparison),
        answer=" ".join([str(content.answer), *_noise(content)]),
        warnings=content.warnings,
    )


def _noise(content: Content) -> Iterable[str]:
    """What seeds alone do, where this is what the sweep was for."""
    return next((section.text for section in content.sections if section.anchor == "noise"), ())


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole: whoever opens it finds the old text or the new one, never half of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # A half surrogate (a file name, a byte of some text) must not cost the report.
        fresh.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def loss_curve(curves: pd.DataFrame | Iterable[Point], path: Path) -> None:
    """Draw the training and validation loss of one run over its tokens, as an SVG file.

    Args:
        curves: the run's points as the trainer yields them, or its rows of `load_curves`.
        path: the file to write.

    Raises:
        ValueError: there is no loss to draw.
    """
    from harness.report import figures

    frame = curves if isinstance(curves, pd.DataFrame) else _frame(curves)
    _write(path, figures.run_curve(frame).file)


def _frame(points: Iterable[Point]) -> pd.DataFrame:
    rows = [(point.tokens, name, value) for point in points for name, value in point.metrics.items()]
    return pd.DataFrame(rows, columns=["tokens", "metric", "value"])
