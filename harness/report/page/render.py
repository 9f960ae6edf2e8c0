"""The report as one HTML page and as Markdown: what stands where. How it looks is in `templates/`."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from markupsafe import Markup

from harness.analysis.significance import ALPHA, EXACT_UP_TO, RANDOM_FLIPS, look_levels
from harness.core import metrics
from harness.core.outcomes import Phase
from harness.core.text import listed, plural
from harness.report.figures.drawing import Drawing, renamed
from harness.report.page import markdown
from harness.report.page.content import Content
from harness.report.tables.comparison import answer_table, evidence_table
from harness.report.tables.differences import arm_differences, run_values
from harness.report.tables.runs import trials_table
from harness.report.tables.table import Row, Table
from harness.report.text.numbers import count, rounded, short_id, significant
from harness.report.text.provenance import provenance
from harness.report.warnings.collect import fixed_settings

if TYPE_CHECKING:
    from harness.tracking import SweepRecord

_TEMPLATES = Path(__file__).parent / "templates"
_PATCH_SHOWN = 100_000  # characters


def render_html(content: Content) -> str:
    """The whole page: styles, drawings and the script inside, nothing fetched from anywhere."""
    title = content.record.question or content.record.name
    return render_page(title, _byline(content.record, content.runs), [render_sweep(content)])


def render_page(title: str, byline: Sequence[str], bodies: Sequence[Markup]) -> str:
    """A page around the parts that `render_sweep` gives."""
    script = (_TEMPLATES / "page.js").read_text("utf-8")
    return (
        _environment(autoescape=True)
        .get_template("report.html.j2")
        .render(
            title=title,
            byline=byline,
            bodies=bodies,
            css=Markup((_TEMPLATES / "report.css").read_text("utf-8")),
            script=Markup(script),
            # The page may run this one script and nothing that slipped into it.
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def render_sweep(content: Content, prefix: str = "", level: int = 2) -> Markup:
    """One sweep as a part of a page.

    Args:
        content: the sweep.
        prefix: before each of its ids, so that a page can hold several sweeps.
        level: of its headings.
    """
    arms = {arm.name: place for place, arm in enumerate(content.record.arms)}

    def arm_place(table: Table, row: Row) -> int | None:
        return arms.get(table.arm(row))

    environment = _environment(autoescape=True)
    template = environment.get_template("sweep.html.j2", globals={"arm_place": arm_place, "inline": _inline})
    return Markup(template.render(**_parts(content), p=prefix, level=level))


def render_overview(
    answers: Sequence[tuple[str, str, str]], arms: Table, note: str, settings: Table, drawings: Sequence[Drawing]
) -> Markup:
    """What stands above the chapters of several sweeps.

    Args:
        answers: name, question and findings of each sweep.
        arms: all their arms, with the `note` that stands under it.
        settings: what differs between the sweeps.
        drawings: of all of them.
    """
    environment = _environment(autoescape=True)
    helpers = {"arm_place": lambda _table, _row: None, "inline": _inline}
    template = environment.get_template("overview.html.j2", globals=helpers)
    return Markup(template.render(answers=answers, arms=arms, note=note, settings=settings, drawings=drawings))


def _inline(drawing: Drawing, prefix: str) -> Markup:
    return Markup(renamed(drawing.inline, prefix))


def _unbroken(text: str) -> str:
    """A text in which no line ends between a number and its per cent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def render_markdown(content: Content) -> str:
    """The same for GitHub, with links to the files in `figures/`."""
    environment = _environment(autoescape=False)
    markdown.prepare(environment)
    record = content.record
    text = environment.get_template("report.md.j2").render(
        **_parts(content), title=record.question or record.name, byline=_byline(record, content.runs)
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _environment(**options: Any) -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options
    )
    environment.filters |= {"short": short_id, "count": count, "unbroken": _unbroken}
    return environment


def _parts(content: Content) -> dict[str, Any]:
    record, runs = content.record, content.runs
    has_result = bool(content.comparison["seeds"].sum())
    arms = [arm.name for arm in record.arms]
    return {
        "name": record.name,
        "answer": content.answer,
        "answer_table": answer_table(content.comparison) if has_result else None,
        "answer_note": _note(content),
        "leading": content.leading,
        "curves": content.curves,
        "drawings": content.drawings,
        "evidence": evidence_table(content.comparison),
        "evidence_drawings": content.evidence_figures,
        "evidence_note": _evidence_note(content.comparison, record.study.get("looks", ())),
        "sections": content.sections,
        "passage": content.passage,
        "samples": content.moments,
        "sample_seed": content.sample_seed,
        "prompt": _prompt(runs),
        "warnings": content.warnings,
        "warned": plural(len(content.serious_warnings), "warning") if content.serious_warnings else "",
        "fixed": fixed_settings(runs),
        "opening": content.opening.words,
        "trials": trials_table(runs, list(record.tune), content.opening.address),
        "differences": arm_differences(runs, arms),
        "pair_json": run_values(runs),
        "provenance": provenance(record, runs, content.opening.command),
        "spec_text": record.spec_text,
        "patch": _cut(content.patch),
        "patch_size": plural(content.patch.count("\n"), "line"),
    }


def _cut(patch: str) -> str:
    if len(patch) <= _PATCH_SHOWN:
        return patch
    return f"{patch[:_PATCH_SHOWN]}\n(cut here; the whole patch is the artifact dirty.patch of the sweep's run)"


def preliminary(runs: Iterable[pd.DataFrame]) -> list[str]:
    """A word of warning for the byline, where some of the sweeps' runs have not ended."""
    running = sum(int(one["outcome"].isna().sum()) for one in runs)
    return [f"preliminary: {plural(running, 'run')} still training"] if running else []


def _byline(record: SweepRecord, runs: pd.DataFrame) -> list[str]:
    counts = {phase: int((runs["phase"] == phase).sum()) for phase in Phase}
    sizes = [plural(size, f"{phase} run") for phase, size in counts.items() if size]
    name = [f"experiment {record.name}", f"sweep {short_id(record.run_id)}", plural(len(record.arms), "arm")]
    return [*preliminary([runs]), *name, *sizes]


def _note(content: Content) -> str:
    """What the figures of the answer table mean."""
    comparison = content.comparison
    words = ["± is the half-width of the 95 % t interval over seeds; one seed has none (–)."]
    if content.ground.metric == metrics.VAL_LOSS:
        words.append("Losses are of the last checkpoint, in nats per token, over every token of the split.")
    words.append("Perplexity is the exponential of the mean validation loss.")
    if comparison["pairs"].sum():
        words.append("Δ: arm minus baseline, averaged over pairs of runs that share a seed; negative is better.")
        if comparison.loc[comparison["seeds"] > 0, "seeds"].nunique() > 1:
            words.append("Arms have different numbers of seeds, so Δ is not the difference of their means.")
    if comparison["common_context_mean"].notna().any():
        words.append(
            "Common context: the same loss over the targets that have at least the shortest context behind them in "
            "every arm's window, so all arms answer the same questions."
        )
    if comparison["test_seeds"].sum():
        words.append("The test split was read once by each confirm run.")
    return " ".join(words)


def _evidence_note(comparison: pd.DataFrame, looks: Sequence[int]) -> str:
    """What the figures of the evidence table mean, and the rule behind the verdicts."""
    comparisons = int((~comparison["is_baseline"]).sum())
    threshold = float(comparison["delta"].max())
    delta, level = rounded(threshold), rounded(100 * (1 - ALPHA / max(1, comparisons)))
    corrected = f" with Holm's correction for {comparisons} comparisons" if comparisons > 1 else ""
    if comparison["metric"].iloc[0] == metrics.VAL_LOSS:
        size = f"about {significant(100 * math.expm1(threshold), 2)} % of perplexity"
    else:
        size = "written in nats per token, here at the baseline's tokens per byte"
    drawn = f", over {RANDOM_FLIPS:,} drawn patterns of signs" if comparison["pairs"].max() > EXACT_UP_TO else ""
    return (
        f"Better or worse: the paired t test over seeds, two-sided{corrected}, has p ≤ {ALPHA}. No difference larger "
        f"than {delta}: not that, and the {level} % t interval of the difference lies between −{delta} and {delta} "
        f"(study.delta in the spec, the smallest difference that matters; {size}). Undecided: neither. "
        f"Sign-flip p: a test that needs no normal noise, not corrected{drawn}. d_z: Δ in units of the spread of the "
        "paired differences. P(better): share of seeds on which the arm was the better one. Detectable: the true "
        f"difference found in 80 % of sweeps with these pairs. Seeds for {delta}: how many find a true difference of "
        "that size in 80 % of sweeps." + _looks_note(looks)
    )


def _looks_note(looks: Sequence[int]) -> str:
    """How verdicts were read several times without losing their error rate; empty for one look."""
    if len(looks) < 2:
        return ""
    levels = listed(significant(level, 2) for level in look_levels(looks))
    return (
        f" Verdicts were read after {listed(map(str, looks))} seeds, and only arms that were still undecided got more: "
        f"a verdict is the first that was not undecided. Each reading has a level of its own ({levels}, together "
        f"{ALPHA}; Kim and DeMets 1987) in the place of {ALPHA}. p (Holm) is scaled so that {ALPHA} is the bound "
        "whichever reading it comes from, and the interval of Δ is widened so that it holds the true difference in "
        "95 % of sweeps whichever was the last."
    )


def _prompt(runs: pd.DataFrame) -> str:
    column = "train.sample.prompt"
    prompts = runs[column].dropna().unique() if column in runs else []
    return str(prompts[0]) if len(prompts) == 1 else ""
