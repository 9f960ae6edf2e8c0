"""The report as one HTML page and as Markdown: what stands where. How it looks is in `templates/`."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from markupsafe import Markup

from harness import metrics
from harness.outcomes import Phase
from harness.report.caveats import caveats, fixed_settings
from harness.report.comparison import Ground
from harness.report.flaws import Caveat
from harness.report.formats import count, duration, listed, plural, rounded, short_id, significant
from harness.report.method import plan_lines
from harness.report.sections import Section
from harness.report.significance import ALPHA, EXACT_UP_TO, RANDOM_FLIPS, look_levels
from harness.report.svg import Drawing
from harness.report.tables import Table, answer_table, evidence_table, trials_table
from harness.report.wording import Answer, answer

if TYPE_CHECKING:
    from harness.tracking import SweepRecord

_TEMPLATES = Path(__file__).parent / "templates"
_RUNS_NAMED = 12  # runs that a row of a Markdown table names
_OPEN_UP_TO = 40  # rows of the table of all runs that are shown unfolded


@dataclass(frozen=True)
class Sample:
    """Text that one confirm run generated at its first and at its last evaluation: (tokens seen, text) each."""

    arm: str
    run_id: str
    texts: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Content:
    """Everything a report is made of."""

    record: SweepRecord
    runs: pd.DataFrame
    comparison: pd.DataFrame
    ground: Ground
    drawings: Sequence[Drawing]
    sections: Sequence[Section]
    samples: Sequence[Sample]
    ui_command: str

    @cached_property
    def caveats(self) -> list[Caveat]:
        """What limits the comparison, alarms first."""
        return caveats(self.record, self.runs)

    @property
    def warnings(self) -> list[str]:
        """The caveats that may change what the sweep concludes."""
        return [caveat.text for caveat in self.caveats if caveat.alarm]

    @property
    def answer(self) -> Answer:
        """The comparison in words."""
        return answer(self.comparison, self.ground)


class _Raw(str):
    """Text that is Markdown already, or stands in a code block."""

    __slots__ = ()


def render_html(content: Content) -> str:
    """The whole page: styles, drawings and the few lines of script inside, nothing fetched from anywhere."""
    script = (_TEMPLATES / "sort.js").read_text("utf-8")
    environment = _environment(autoescape=True)
    return environment.get_template("report.html.j2").render(
        **_parts(content),
        css=Markup((_TEMPLATES / "report.css").read_text("utf-8")),
        script=Markup(script),
        # The page may run this one script and nothing that slipped into it.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        figures={drawing.name: drawing for drawing in content.drawings},
        safe=Markup,
    )


def render_markdown(content: Content) -> str:
    """The same for GitHub, with links to the files in `figures/`."""
    environment = _environment(autoescape=False, finalize=_markdown)
    environment.filters["fenced"] = _fenced
    environment.filters["table"] = _markdown_table
    environment.filters["picture"] = _picture
    pictures = {drawing.name: drawing for drawing in content.drawings}
    text = environment.get_template("report.md.j2").render(**_parts(content), figures=pictures)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _environment(**options: Any) -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options
    )
    environment.filters |= {"short": short_id, "count": count}
    return environment


def _parts(content: Content) -> dict[str, Any]:
    record, runs = content.record, content.runs
    trials = trials_table(runs, list(record.tune))
    has_result = bool(content.comparison["seeds"].sum())
    return {
        "title": record.question or record.name,
        "name": record.name,
        "byline": _byline(record, runs),
        "answer": content.answer,
        "answer_table": answer_table(content.comparison) if has_result else None,
        "answer_note": _note(content),
        "evidence": evidence_table(content.comparison),
        "evidence_note": _evidence_note(content.comparison, record.study.get("looks", ())),
        "sections": content.sections,
        "trials": trials,
        "trials_open": len(trials.rows) <= _OPEN_UP_TO,
        "samples": content.samples,
        "prompt": _prompt(runs),
        "caveats": content.caveats,
        "warned": plural(len(content.warnings), "warning") if content.warnings else "",
        "fixed": fixed_settings(runs),
        "provenance": _provenance(content),
        "spec_text": record.spec_text,
    }


def _byline(record: SweepRecord, runs: pd.DataFrame) -> list[str]:
    counts = {phase: int((runs["phase"] == phase).sum()) for phase in Phase}
    sizes = [plural(size, f"{phase} run") for phase, size in counts.items() if size]
    return [f"experiment {record.name}", f"sweep {short_id(record.run_id)}", plural(len(record.arms), "arm"), *sizes]


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
    words.append("Tokens and time are per run.")
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


def _provenance(content: Content) -> list[tuple[str, str]]:
    record, runs, data = content.record, content.runs, content.record.data
    text = "text of the base configuration" if any(path.startswith("data.") for path in record.compare) else "text"
    rows = [
        ("command", record.command),
        ("commit", record.commit + (", with uncommitted changes" if record.dirty else "")),
        ("sweep", record.run_id),
        (text, f"{data['name']} ({data['source']})"),
        ("its sha256", data["sha256"]),
        ("its tokens", f"{_splits(data['tokens'])} (tokenizer {data['tokenizer']})"),
        ("their sha256", data["fingerprint"]),
        ("its bytes", _splits(data["bytes"])),
        ("search", _search(record)),
        ("trained", f"{count(_total(runs, 'tokens'))} tokens in {duration(_total(runs, 'seconds'))} of run time"),
        *plan_lines(record),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("all curves", content.ui_command),
    ]
    return [(label, str(value)) for label, value in rows if value]


def _total(runs: pd.DataFrame, column: str) -> float:
    return float(pd.to_numeric(runs[column], errors="coerce").sum()) if column in runs else math.nan


def _splits(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {size:,}" for split, size in sizes.items())


def _search(record: SweepRecord) -> str:
    study = record.study
    if not record.tune:
        return ""
    return f"sampler {study['sampler']}, pruner {study['pruner']}, {plural(study['trials'], 'trial')} per arm"


_SPECIAL = re.compile(r"([\\`*_{}\[\]|#~$])")


def _markdown(value: object) -> str:
    """Escape whatever a template prints: one line, no markup, no HTML."""
    if isinstance(value, _Raw):
        return value
    line = " ".join(str(value).split())
    return _SPECIAL.sub(r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _fenced(text: str) -> _Raw:
    """A code block whose fence is longer than any run of backticks inside it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return _Raw(f"{fence}text\n{text.rstrip()}\n{fence}")


def _picture(drawing: Drawing) -> _Raw:
    return _Raw(f"![{_markdown(drawing.title)}](figures/{drawing.filename})\n\n{_markdown(drawing.caption)}")


def _markdown_table(table: Table) -> _Raw:
    """A pipe table; where rows rest on several runs, these are named in a last column."""
    named = any(row.runs for row in table.rows)
    header = [_markdown(column.label) for column in table.columns] + ["Runs"] * named
    rule = ["---:" if column.numeric else ":---" for column in table.columns] + [":---"] * named
    lines = [header, rule]
    for row in table.rows:
        cells = [_markdown(cell.text) for cell in row.cells]
        ids = [f"`{short_id(run)}`" for run in row.runs]
        if len(ids) > _RUNS_NAMED:
            ids[_RUNS_NAMED - 1 :] = [f"and {len(ids) - _RUNS_NAMED + 1} more"]
        lines.append(cells + [" ".join(ids)] * named)
    return _Raw("\n".join(f"| {' | '.join(line)} |" for line in lines))
