"""One report of several sweeps side by side, each with its own verdicts; refused if they cannot be compared."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from harness.analysis.comparison import intervals
from harness.analysis.evidence import Evidence
from harness.core import metrics
from harness.core.text import listed, plural
from harness.report.figures.drawing import Drawing
from harness.report.folder import check_folder, write_folder
from harness.report.page.content import Content
from harness.report.page.latex import latex_table
from harness.report.page.markdown import markdown, picture_of, table_of
from harness.report.page.render import preliminary, render_chapter, render_overview, render_page
from harness.report.tables.comparison import seeds_cells, verdict_cells
from harness.report.tables.differences import same_everywhere
from harness.report.tables.table import ARM, Cell, Column, Row, Table, formatted, table_with_runs, with_half_widths
from harness.report.text.numbers import signed, significant
from harness.report.text.provenance import several_sweeps
from harness.report.write import ReportFiles, content_of, read_sweep, with_names, without_formulas, write_files
from harness.tracking import TrackingError

_GROUND: Final = ("data.vocab", "data.split.val", "data.split.test")  # parameters that decide the validation targets
_LONGEST_NAME: Final = 120  # characters of a folder's name
_SEPARATE: Final = (
    "Each sweep has its own baseline, seeds and correction. Arms of different sweeps are shown side by side but not "
    "tested against each other, because no analysis plan includes such tests."
)


def write_reports(
    names: Sequence[str], uri: str | None = None, out: Path = Path("reports"), patch: bool = False
) -> ReportFiles:
    """Write one report of several sweeps into `<out>/<name>+<name>/`, with the report of each sweep in a subfolder.

    Args:
        names: names of two or more sweeps; of each name the sweep that was started or resumed last.
        uri: MLflow tracking URI; by default the one that sweeps use.
        out: folder of reports, created if missing.
        patch: as for `write_report`.

    Raises:
        TrackingError: a sweep cannot be reported (see `write_report`), or the sweeps cannot be compared.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise TrackingError(f"names: found {listed(names) if names else 'none'}; allowed: two or more different sweeps")
    read = [read_sweep(name, uri) for name in names]
    if reasons := list(_obstacles([evidence for evidence, _ in read])):
        raise TrackingError(f"{listed(names)} cannot be in one report: {'; '.join(reasons)}")
    contents = [content_of(evidence, uri, patch) for evidence, _ in read]
    folder = out / folder_name(names)
    check_folder(folder)  # before a report of one sweep is written into it
    for content, (_, curves) in zip(contents, read, strict=True):
        write_files(content, curves, folder / content.record.name)
    return _write(contents, folder)


def folder_name(names: Sequence[str]) -> str:
    """`a+b` for the sweeps a and b; if that is too long for a file system, the first name, a count and a hash of all.

    File systems allow 255 bytes per name.
    """
    joined = "+".join(names)
    if len(joined) <= _LONGEST_NAME:
        return joined
    return f"{names[0][:60]}+{len(names) - 1}-more-{hashlib.sha256(joined.encode()).hexdigest()[:8]}"


def _obstacles(sweeps: Sequence[Evidence]) -> Iterator[str]:
    """The reasons why sweeps cannot be compared: different validation targets or metrics."""
    first, *others = (evidence.record for evidence in sweeps)
    for evidence in sweeps:
        if evidence.metric != metrics.VAL_LOSS or not evidence.ranked:
            yield f"{evidence.record.name} compares tokenizers or texts, so its arms have no common loss"
    for other, evidence in zip(others, sweeps[1:], strict=True):
        facts = (
            ("texts", "sha256", lambda value: str(value)[:8]),
            ("tokenizers", "tokenizer", str),
            ("tokenizer files", "tokenizer_sha256", lambda value: str(value)[:8]),
            ("tokens of the validation split", "tokens", lambda value: f"{value['val']:,}"),
        )
        different = [
            f"{what} ({to_text(first.data[key])} and {to_text(other.data[key])})"
            for what, key, to_text in facts
            if key in first.data and key in other.data and to_text(first.data[key]) != to_text(other.data[key])
        ]
        used = [(name, _used(sweeps[0], name), _used(evidence, name)) for name in _GROUND]
        different += [f"{name} ({ours} and {theirs})" for name, ours, theirs in used if ours != theirs]
        if different:
            yield f"{first.name} and {other.name} have different {listed(different)}"
        elif first.data["fingerprint"] != other.data["fingerprint"]:
            yield f"{first.name} and {other.name} were scored on different tokens of the same text (different splits)"


def _used(evidence: Evidence, name: str) -> str:
    """The values of a parameter in a sweep's runs."""
    values = evidence.runs[name].dropna().unique() if name in evidence.runs else []
    return listed(sorted(map(str, values))) if len(values) else "unknown"


def _write(contents: Sequence[Content], folder: Path) -> ReportFiles:
    from harness.report.figures.forest import forest  # matplotlib: not before something is drawn

    names = [content.record.name for content in contents]
    shown = pd.concat([_named(content, content.comparison) for content in contents], ignore_index=True)
    drawn = forest(shown.assign(arm=shown["sweep"] + ": " + shown["arm"]))
    table = arms_table(shown)
    by_name = [_named(content, with_names(content.comparison, content)) for content in contents]
    comparison = pd.concat(by_name, ignore_index=True)
    title = f"{listed(names)}: {plural(len(names), 'sweep')} side by side"
    byline = [f"{len(contents)} sweeps", plural(len(comparison), "arm"), "the same validation text"]
    byline = [*preliminary(content.runs for content in contents), *byline]
    overview = render_overview(
        [(content.record.name, content.record.question, content.answer.findings) for content in contents],
        table,
        _SEPARATE,
        settings_table(contents),
        [] if drawn is None else [drawn],
    )
    bodies = [overview]
    for content in contents:
        bodies.append(render_chapter(content))
    files = {
        "report.html": render_page(title, byline, bodies),
        "report.md": _markdown(title, contents, table, drawn),
        "comparison.csv": without_formulas(comparison).to_csv(index=False, lineterminator="\n"),
        "comparison.tex": latex_table(table, title),
        **({"figures/forest.svg": drawn.file} if drawn else {}),
    }
    write_folder(folder, files)
    return ReportFiles(
        folder=folder,
        html=folder / "report.html",
        markdown=folder / "report.md",
        comparison=comparison,
        key=list(_key(contents)),
        lines=table.lines(),
        headline="",
        answer=" ".join(f"{content.record.name}: {content.answer.findings}" for content in contents),
        warnings=[f"{content.record.name}: {warning}" for content in contents for warning in content.serious_warnings],
        notes=[note for content in contents for note in several_sweeps(content.record)],
        sweeps=[(content, with_names(content.comparison, content)) for content in contents],
    )


def _named(content: Content, comparison: pd.DataFrame) -> pd.DataFrame:
    return comparison.assign(sweep=content.record.name)


def _key(contents: Sequence[Content]) -> Iterator[tuple[str, str]]:
    """Sweep and label, and name, of the arms whose label does not give all settings."""
    for content in contents:
        for label, name in content.labels.key if content.labels else ():
            yield f"{content.record.name}: {label}", name


def arms_table(comparison: pd.DataFrame) -> Table:
    """The arms of several sweeps, best mean first, each with its difference to its own sweep's baseline."""
    ordered = comparison.sort_values(["mean", "sweep", "arm"], ignore_index=True)
    found = intervals(ordered, "difference")
    columns = [
        (Column("Sweep", numeric=False), [Cell(str(name)) for name in ordered["sweep"]]),
        (Column(ARM, numeric=False), [Cell(str(arm)) for arm in ordered["arm"]]),
        (Column("Verdict", numeric=False), verdict_cells(ordered, baseline=True)),
        (Column("Seeds"), seeds_cells(ordered)),
        (Column("Val loss"), with_half_widths(intervals(ordered))),
        (
            Column("Δ to its baseline"),
            with_half_widths(found, signed, errors=ordered["difference_se"]),
        ),
        (Column("Test loss"), with_half_widths(intervals(ordered, "test"))),
        (Column("Perplexity", minor=True), formatted(ordered["perplexity"], significant)),
    ]
    return table_with_runs([""] * len(ordered), columns)


def settings_table(contents: Sequence[Content]) -> Table:
    """Parameters that are constant within a sweep but differ between sweeps."""
    fixed = [same_everywhere(content.runs) for content in contents]
    paths = list(dict.fromkeys(path for one in fixed for path in one))
    rows = [
        Row((Cell(path), *(Cell(one.get(path, "varies")) for one in fixed)))
        for path in paths
        if len({one.get(path, "varies") for one in fixed}) > 1
    ]
    columns = (Column(content.record.name, numeric=False) for content in contents)
    return Table((Column("Parameter", numeric=False), *columns), tuple(rows))


def _markdown(title: str, contents: Sequence[Content], table: Table, drawn: Drawing | None) -> str:
    parts = [f"# {markdown(title)}"]
    for content in contents:
        name = content.record.name
        answer = markdown(content.answer.findings)
        parts.append(f"**[{markdown(content.record.question or name)}]({name}/report.md)** {answer}")
    parts += [table_of(table), markdown(_SEPARATE)]
    if drawn is not None:
        parts.append(picture_of(drawn))
    differing = settings_table(contents)
    if differing.rows:
        parts += ["## Settings that differ between the sweeps", table_of(differing)]
    return re.sub(r"\n{3,}", "\n\n", "\n\n".join(parts)) + "\n"
