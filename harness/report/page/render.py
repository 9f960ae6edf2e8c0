"""Renders the report as one HTML page and as Markdown. Layout and style are in `templates/`."""

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
from harness.core.text import listed, plural, sampling_words, unbroken
from harness.report.figures.drawing import Drawing, renamed
from harness.report.page import markdown
from harness.report.page.content import Content
from harness.report.sections.factors import FACTORS
from harness.report.tables.differences import run_values
from harness.report.tables.runs import trials_table
from harness.report.tables.table import Row, Table
from harness.report.text.folding import folded
from harness.report.text.names import p_heading, p_word
from harness.report.text.numbers import count, rounded, short_id, significant
from harness.report.text.provenance import cost, energy, provenance
from harness.report.warnings.collect import fixed_settings

if TYPE_CHECKING:
    from harness.tracking import SweepRecord

_EXPONENT = re.compile(r"(\de-)(?=\d)")
_TEMPLATES = Path(__file__).parent / "templates"
_PATCH_SHOWN = 100_000  # characters
_LARGEST_DELTA = 10.0  # nats; more is not shown as a percentage of perplexity


def render_html(content: Content) -> str:
    """The whole page as one self-contained file: styles, drawings and script are inline."""
    title = content.record.question or content.record.name
    return render_page(title, _byline(content.record, content.runs), [render_sweep(content)])


def render_page(title: str, byline: Sequence[str], bodies: Sequence[Markup]) -> str:
    """A page around the parts that `render_sweep` returns."""
    script = "\n".join((_TEMPLATES / name).read_text("utf-8") for name in ("page.js", "zoom.js"))
    return (
        _environment(autoescape=True)
        .get_template("report.html.j2")
        .render(
            title=title,
            byline=byline,
            bodies=bodies,
            css=Markup((_TEMPLATES / "report.css").read_text("utf-8")),
            script=Markup(script),
            # The content security policy permits only this script.
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def render_sweep(content: Content, prefix: str = "", level: int = 2) -> Markup:
    """One sweep as a part of a page.

    Args:
        content: the sweep.
        prefix: prefix of all ids, so that a page can hold several sweeps.
        level: level of its headings.
    """
    arms = {arm.name: place for place, arm in enumerate(content.record.arms)}

    def arm_place(table: Table, row: Row) -> int | None:
        return arms.get(table.arm(row))

    environment = _environment(autoescape=True)
    template = environment.get_template("sweep.html.j2", globals={"arm_place": arm_place, "inline": _inline})
    return Markup(template.render(**_parts(content), p=prefix, level=level))


def render_chapter(content: Content) -> Markup:
    """One of several sweeps on a page, under its own heading."""
    record = content.record
    heading = Markup('<h2 id="{}-chapter">{}</h2>').format(record.name, record.question or record.name)
    return heading + render_sweep(content, f"{record.name}-", 3)


def render_overview(
    answers: Sequence[tuple[str, str, str]], arms: Table, note: str, settings: Table, drawings: Sequence[Drawing]
) -> Markup:
    """The overview above the chapters of a report of several sweeps.

    Args:
        answers: name, question and findings of each sweep.
        arms: table of all arms.
        note: text below that table.
        settings: table of the settings that differ between the sweeps.
        drawings: figures with all sweeps.
    """
    environment = _environment(autoescape=True)
    helpers = {"arm_place": lambda _table, _row: None, "inline": _inline}
    template = environment.get_template("overview.html.j2", globals=helpers)
    return Markup(template.render(answers=answers, arms=arms, note=note, settings=settings, drawings=drawings))


def _inline(drawing: Drawing, prefix: str) -> Markup:
    return Markup(renamed(drawing.inline, prefix))


def _unbroken(text: str) -> str:
    """`harness.core.text.unbroken`, and numbers such as 3e-4 that do not break after their hyphen."""
    return _EXPONENT.sub("\\1\N{WORD JOINER}", unbroken(text))


def _whole_settings(label: str) -> str:
    """The label of an arm, which breaks only between its settings."""
    parts = (part.replace(" ", "\N{NO-BREAK SPACE}") for part in label.split(" · "))
    return _unbroken(" · ".join(parts))


def render_markdown(content: Content) -> str:
    """The report as Markdown for GitHub, with links to the files in `figures/`."""
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
    environment.filters |= {"short": short_id, "count": count, "folded": folded}
    environment.filters |= {"unbroken": _unbroken, "whole_settings": _whole_settings}
    return environment


def _parts(content: Content) -> dict[str, Any]:
    record, runs = content.record, content.runs
    has_result = bool(content.comparison["seeds"].sum())
    trials = trials_table(runs, list(record.tune), content.mlflow_pages.address, content.evidence.metric)
    return {
        "name": record.name,
        "headline": content.headline,
        "answer": content.answer,
        "answer_table": content.answer_table if has_result else None,
        "answer_note": _note(content),
        "key": content.key,
        "metrics_table": content.metrics_table,
        "answer_figures": content.answer_figures,
        "loss_curves": content.loss_curves,
        "curve_figures": content.curve_figures,
        "evidence": content.evidence_table,
        "evidence_figures": content.evidence_figures,
        "evidence_note": _evidence_note(content.comparison, record.study.get("looks", ())),
        "factors": next((part for part in content.sections if part.anchor == FACTORS), None),
        "sections": [part for part in content.sections if part.anchor != FACTORS],
        "one_arm": content.one_arm,
        "passage": content.passage,
        "samples": content.moments,
        "sample_seed": content.sample_seed,
        "prompt": _only(runs, "train.sample.prompt", ""),
        "sampled": _sampled(runs),
        "warnings": content.warnings,
        "warned": plural(len(content.serious_warnings), "warning") if content.serious_warnings else "",
        "fixed": fixed_settings(runs),
        "mlflow_pages": content.mlflow_pages.instructions,
        "trials": trials.without_arms if content.one_arm else trials,
        "differences": content.differences,
        "pair_json": run_values(runs),
        "provenance": provenance(record, runs, content.mlflow_pages.command),
        "spec_text": record.spec_text,
        "patch": _cut(content.patch),
        "patch_size": plural(content.patch.count("\n"), "line"),
    }


def _cut(patch: str) -> str:
    if len(patch) <= _PATCH_SHOWN:
        return patch
    return f"{patch[:_PATCH_SHOWN]}\n(cut here; the whole patch is the artifact dirty.patch of the sweep's run)"


def preliminary(runs: Iterable[pd.DataFrame]) -> list[str]:
    """The byline's entry "preliminary", if some runs of the sweeps are still training."""
    running = sum(int(one["outcome"].isna().sum()) for one in runs)
    return [f"preliminary: {plural(running, 'run')} still training"] if running else []


def _byline(record: SweepRecord, runs: pd.DataFrame) -> list[str]:
    counts = {phase: int((runs["phase"] == phase).sum()) for phase in Phase}
    sizes = [plural(size, f"{phase} run") for phase, size in counts.items() if size]
    name = [f"experiment {record.name}", f"sweep {short_id(record.run_id)}"]
    arms = [plural(len(record.arms), "arm")] if len(record.arms) > 1 else []
    when = [f"{record.opened or record.started:%Y-%m-%d}"]
    return [*preliminary([runs]), *name, *arms, *sizes, *when, *filter(None, [record.host, cost(runs), energy(record)])]


def _note(content: Content) -> str:
    """The note below the answer table."""
    comparison = content.comparison
    words = ["Each row is an arm: one combination of the compared settings."] if len(comparison) > 1 else []
    if content.labels is not None and len(comparison) > 1:
        words += [content.labels.explained] if content.labels.explained else []
    if content.record.tune:
        words.append(
            f"Explore trials search the hyperparameters{'' if content.one_arm else ' of each arm'}; confirm runs train "
            f"{'the' if content.one_arm else 'its'} best configuration again on new "
            "seeds, and only they are compared."
        )
    if comparison["low"].notna().any():
        words.append("± is the half-width of the 95 % t interval over seeds; one seed has none (–).")
    if content.evidence.metric == metrics.VAL_LOSS:
        words.append(
            "Losses are of the last checkpoint, in nats per token (natural logarithm), over every token of the split."
        )
    if comparison["diverged"].sum():
        words.append("A diverged run counts with its loss before the first step; the test loss leaves it out.")
    if content.evidence.metric == metrics.VAL_LOSS:
        words.append("Perplexity is the exponential of the mean validation loss.")
    if comparison["pairs"].sum():
        words.append("Δ: arm minus baseline, averaged over pairs of runs that share a seed; negative is better.")
        if comparison.loc[comparison["seeds"] > 0, "seeds"].nunique() > 1:
            words.append("Arms have different numbers of seeds, so Δ is not the difference of their means.")
    if comparison["common_context_mean"].notna().any():
        words.append(
            "Common context: the validation loss over the targets with at least the shortest context length before "
            "them, so all arms are scored on the same targets."
        )
    if comparison["test_seeds"].sum():
        words.append("Each confirm run was evaluated once on the test split, after its last step.")
    return " ".join(words)


def _evidence_note(comparison: pd.DataFrame, looks: Sequence[int]) -> str:
    """The note below the evidence table: the rule for verdicts, and the columns."""
    comparisons = int((~comparison["is_baseline"]).sum())
    threshold = float(comparison["delta"].max())
    delta, level = rounded(threshold), rounded(100 * (1 - ALPHA / max(1, comparisons)))
    corrected = f" with Holm's correction for {comparisons} comparisons" if comparisons > 1 else ""
    if comparison["metric"].iloc[0] == metrics.VAL_LOSS:
        many = threshold > _LARGEST_DELTA
        size = "in nats per token" if many else f"about {significant(100 * math.expm1(threshold), 2)} % of perplexity"
    else:
        size = "set in nats per token, converted by the baseline's tokens per byte"
    drawn = f", from {RANDOM_FLIPS:,} random sign patterns" if comparison["pairs"].max() > EXACT_UP_TO else ""
    return (
        f"Better or worse: the two-sided paired t test over seeds{corrected} has p ≤ {ALPHA}{_skew_note(comparison)}. "
        "No difference larger "
        f"than {delta}: the test does not reject, and the {level} % t interval of the difference lies between −{delta} "
        f"and {delta} (δ, study.delta in the spec: the smallest difference that matters; {size}). Undecided: neither. "
        "Sign-flip p: of the sign-flip permutation test, which does not assume normal noise; uncorrected"
        f"{drawn}. d_z: Cohen's effect size, Δ over the standard deviation of the paired differences. P(better): share "
        "of seeds on which the arm beats the baseline. Detectable: the true difference found in 80 % of sweeps with "
        f"this many pairs. Seeds for {delta}: the number of seeds that find a true difference of that size in 80 % of "
        "sweeps." + _looks_note(looks, p_heading(p_word(comparison)))
    )


def _skew_note(comparison: pd.DataFrame) -> str:
    """That the test was adjusted, if it was for some arm."""
    if not (comparison["tested_p"] > comparison["p"]).any():
        return ""
    return ", adjusted for skewness (Hall 1992) where the differences look skewed; p is without the adjustment"


def _looks_note(looks: Sequence[int], heading: str) -> str:
    """How several looks at the verdicts keep the error rate; empty for one look."""
    if len(looks) < 2:
        return ""
    levels = listed(significant(level, 2) for level in look_levels(looks))
    return (
        f" Verdicts were read after {listed(map(str, looks))} seeds, and only arms that were still undecided got more "
        "seeds: an arm's verdict is its first that is not undecided. Each of these looks has its own level "
        f"({levels}, together {ALPHA}; Kim and DeMets 1987) instead of {ALPHA}. {heading} is scaled so that {ALPHA} is "
        "the bound at every look, and the interval of Δ is widened so that it contains the true difference in 95 % of "
        "sweeps, whichever look was the last."
    )


def _only(runs: pd.DataFrame, column: str, otherwise: Any) -> Any:
    """The value of a column in which the runs agree."""
    values = runs[column].dropna().unique() if column in runs else []
    return values[0] if len(values) == 1 else otherwise


def _sampled(runs: pd.DataFrame) -> str:
    """How the sampled texts were drawn, as far as it is the same in all runs."""
    temperature = _only(runs, "train.sample.temperature", None)
    if temperature is None:
        return "sampled"
    top_k = _only(runs, "train.sample.top_k", None)
    return sampling_words(temperature, None if top_k is None else int(top_k))
