"""Writes reports: reads a sweep from the tracking store, puts every file of its report into one folder."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd

from harness.analysis.comparison import common_ground, compare
from harness.core import metrics
from harness.core.files import write_text
from harness.core.gc_pause import uncollected
from harness.core.metrics import Point
from harness.core.outcomes import Phase
from harness.report.page.latex import latex_table
from harness.report.page.render import Content, render_html, render_markdown
from harness.report.sections import token_losses as passages
from harness.report.sections.samples import SamplesOf, side_by_side
from harness.report.sections.token_losses import PassageOf
from harness.report.tables.table import answer_table, best_table, comparison_lines
from harness.report.text.provenance import Opening
from harness.tracking import (
    SweepRecord,
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
    from harness.report.figures.drawing import Drawing
    from harness.report.sections.section import Section
    from harness.report.tables.table import Table

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
    content, curves = read_sweep(experiment, uri, sweep)
    return write_files(content, curves, out / experiment)


@uncollected()
def read_sweep(experiment: str, uri: str | None = None, sweep: str | None = None) -> tuple[Content, pd.DataFrame]:
    """All that the report of a sweep is made of, and its curves; arguments and errors are those of `write_report`."""
    if not _FOLDER_NAME.fullmatch(experiment):
        raise TrackingError(f"experiment: found {experiment!r}; allowed: letters, digits, - and _")
    record = load_sweep(experiment, uri, sweep)
    runs, curves = load_frames(experiment, uri, record.run_id)
    runs = in_order(runs, record)
    if runs.empty or metrics.VAL_LOSS not in runs:
        raise TrackingError(
            f"the sweep {record.run_id} of {experiment!r} has no run with a loss yet, so there is nothing to report"
        )
    compares_context = "model.context_length" in record.compare
    positions = load_positions(experiment, uri, record.run_id) if compares_context else None
    content = assemble(
        record,
        runs,
        curves,
        lambda run_id: load_samples(run_id, uri),
        ui_command(uri),
        positions,
        lambda run_id: load_passage(run_id, uri),
        load_patch(record.run_id, uri) if record.dirty else "",
    )
    return content, curves


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
    samples_of: SamplesOf,
    command: str,
    positions: pd.DataFrame | None = None,
    passage_of: PassageOf = lambda _: (),
    patch: str = "",
) -> Content:
    """Compare, draw and choose samples.

    Args:
        record, runs, curves: as the tracking readers give them, of one sweep.
        samples_of: run id → its samples as (step, tokens, text).
        command: the shell command that shows all runs.
        positions: as `load_positions` gives them, for a sweep that compares context lengths.
        passage_of: run id → the scored tokens of a passage of the validation text.
        patch: what was changed on top of the commit.
    """
    from harness.report.figures import axes as figures  # matplotlib: not before something is drawn
    from harness.report.figures import by_position as contexts
    from harness.report.figures import forest
    from harness.report.figures.loss_curves import AXES, loss_curves

    arms = [arm.name for arm in record.arms]
    ground = common_ground(runs)
    baseline = record.baseline if len(arms) > 1 and ground.ranked else None
    comparison = compare(runs, baseline, ground.metric, arms, record.study.get("delta"), record.study.get("looks"))
    moments, seed = side_by_side(runs, arms, samples_of)
    over = [(axis, loss_curves(curves, runs, arms, ground.metric, axis)) for axis in AXES]
    seeds = figures.final_losses(runs, comparison)
    lead = forest.forest(comparison)
    by_position = contexts.losses_by_position(positions, runs, arms) if positions is not None else None
    return Content(
        record=record,
        runs=runs,
        comparison=comparison,
        ground=ground,
        leading=_there(lead if lead is not None else seeds),
        curves=[(axis, drawing) for axis, drawing in over if drawing is not None],
        drawings=_there(by_position),
        resting=_there(seeds if lead is not None else None),
        sections=_sections(record, runs, comparison, curves),
        moments=moments,
        sample_seed=seed,
        passage=passages.passage(runs, comparison, arms, passage_of),
        opening=Opening(command, record.experiment_id),
        patch=patch,
    )


def _there(*drawings: Drawing | None) -> list[Drawing]:
    return [drawing for drawing in drawings if drawing is not None]


def _sections(record: SweepRecord, runs: pd.DataFrame, comparison: pd.DataFrame, curves: pd.DataFrame) -> list[Section]:
    """The parts of the report that only some sweeps have, in the order they are read."""
    from harness.report.sections import (  # matplotlib: not before something is drawn
        budget as budgets,
    )
    from harness.report.sections import (
        factors as factor_section,
    )
    from harness.report.sections import (
        search as searches,
    )
    from harness.report.sections import (
        seed_noise as noise,
    )

    metric = str(comparison["metric"].iloc[0])
    found = (
        factor_section.factor_section(runs, record, comparison, record.study.get("looks")),
        noise.noise_section(record, runs, metric),
        _with_best(searches.search_section(record, runs, metric, curves), record, runs),
        budgets.budget_section(record, runs),
    )
    return [section for section in found if section is not None]


def _with_best(section: Section | None, record: SweepRecord, runs: pd.DataFrame) -> Section | None:
    """The search, with what it chose in each arm."""
    if section is None:
        return None
    chosen = best_table(runs, [arm.name for arm in record.arms], list(record.tune))
    return replace(section, tables=((chosen, _CHOSEN), *section.tables))


@uncollected()
def write_files(content: Content, curves: pd.DataFrame, folder: Path) -> ReportFiles:
    """Write every file of a report; each is replaced as a whole, and a figure that no longer exists is removed."""
    pictures = folder / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    drawings = content.every_drawing
    for drawing in drawings:
        write_text(pictures / drawing.filename, drawing.file)
    _drop_others(pictures, "*.svg", {drawing.filename for drawing in drawings})
    table = answer_table(content.comparison)
    files = {
        "runs.csv": content.runs.to_csv(index=False, lineterminator="\n"),
        "curves.csv": _long_csv(curves),
        "comparison.csv": content.comparison.to_csv(index=False, lineterminator="\n"),
        "comparison.tex": latex_table(table, content.record.question or content.record.name),
        **{f"tables/{name}.csv": _csv(one) for name, one in content.every_table.items()},
        "report.md": render_markdown(content),
        "report.html": render_html(content),
    }
    _drop_others(folder / "tables", "*.csv", {name.removeprefix("tables/") for name in files})
    for name, text in files.items():
        write_text(folder / name, text)
    return ReportFiles(
        folder=folder,
        html=folder / "report.html",
        markdown=folder / "report.md",
        comparison=content.comparison,
        lines=comparison_lines(content.comparison),
        answer=" ".join([str(content.answer), *_noise(content)]),
        warnings=content.warnings,
    )


def _drop_others(folder: Path, pattern: str, current: set[str]) -> None:
    """Make a folder, and remove from it what an earlier report had and this one has not."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(pattern):
        if old.name not in current:
            old.unlink()


def _csv(table: Table) -> str:
    """A table as it is read, with the ids of the runs behind each row."""
    named = any(row.runs for row in table.rows)
    rows = [[cell.text for cell in row.cells] + [" ".join(row.runs)] * named for row in table.rows]
    header = [column.label for column in table.columns] + ["Runs"] * named
    return pd.DataFrame(rows, columns=header).to_csv(index=False, lineterminator="\n")


def _long_csv(frame: pd.DataFrame) -> str:
    """A frame of up to millions of rows; pandas takes ten times as long to write them."""
    import pyarrow as pa
    from pyarrow import csv

    text = io.BytesIO()
    csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), text)
    return text.getvalue().decode("utf-8")


def _noise(content: Content) -> Iterable[str]:
    """What seeds alone do, where this is what the sweep was for."""
    return next((section.text for section in content.sections if section.anchor == "noise"), ())


def loss_curve(curves: pd.DataFrame | Iterable[Point], path: Path) -> None:
    """Draw the training and validation loss of one run over its tokens, as an SVG file.

    Args:
        curves: the run's points as the trainer yields them, or its rows of `load_curves`.
        path: the file to write.

    Raises:
        ValueError: there is no loss to draw.
    """
    from harness.report.figures import axes as figures

    frame = curves if isinstance(curves, pd.DataFrame) else _frame(curves)
    write_text(path, figures.run_curve(frame).file)


def _frame(points: Iterable[Point]) -> pd.DataFrame:
    rows = [(point.tokens, name, value) for point in points for name, value in point.metrics.items()]
    return pd.DataFrame(rows, columns=["tokens", "metric", "value"])
