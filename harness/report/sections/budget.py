"""The section on budgets: whether arms had equal tokens, steps, FLOPs or time, and what the sweep cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pandas as pd

from harness.analysis.budget import BUDGET
from harness.analysis.evidence import Evidence
from harness.core import metrics
from harness.core.text import listed, noun
from harness.report.figures.registry import draw
from harness.report.sections.section import Section
from harness.report.tables.table import ARM, Cell, Column, Table, formatted, table_with_runs
from harness.report.text.numbers import count, duration, setting, significant

if TYPE_CHECKING:
    from harness.tracking import SweepRecord

TOLERANCE: Final = 0.01  # largest relative difference that counts as matched, because runs end with whole steps
_TOKENIZER: Final = "data.tokenizer"


def flops_text(value: float) -> str:
    """An amount of FLOPs: `count`, extended by P and E."""
    for unit, size in (("P", 1e15), ("E", 1e18)):
        if 0.9995 * size <= value < 999.5 * size:
            return f"{value / size:.3g} {unit}"
    return count(value)


def _mean_count(value: float) -> str:
    """A mean of counts: three significant digits below 100 if it is not a whole number."""
    return significant(value, 3) if value < 100 and value % 1 else count(value)


def _time(value: float) -> str:
    """Like `duration`, but with tenths of a second below a minute."""
    return f"{value:.1f} s" if value < 60 else duration(value)


@dataclass(frozen=True)
class Amount:
    """One quantity that may or may not be equal between arms.

    Attributes:
        kind: the kind of budget, or another identifier.
        name: its name in a sentence.
        values: arm → mean over its confirm runs; arms without a value are left out.
        to_text: formats a value.
    """

    kind: str
    name: str
    values: Mapping[str, float]
    to_text: Callable[[float], str]

    @property
    def excess(self) -> float:
        """The largest value relative to the smallest, minus 1; NaN for fewer than two arms or a smallest value of 0."""
        found = list(self.values.values())
        return max(found) / min(found) - 1 if len(found) > 1 and min(found) > 0 else math.nan

    @property
    def matched(self) -> bool:
        """Whether the values of all arms agree within `TOLERANCE`."""
        return self.excess <= TOLERANCE

    @property
    def ends(self) -> tuple[str, str]:
        """The arms with the smallest and the largest value."""
        return min(self.values, key=self.values.__getitem__), max(self.values, key=self.values.__getitem__)


def budget_section(evidence: Evidence) -> Section | None:
    """What was equal between the arms, and the cost of a run and an arm; None while no confirm run is complete."""
    if evidence.chosen.empty:
        return None
    arms, costs, totals = evidence.arms, evidence.run_costs, evidence.arm_costs
    paragraphs = [_budget_words(evidence)] + ([_parity_words(evidence)] if len(arms) > 1 else [])
    costs_note = _COSTS_NOTE + (_SECONDS_NOTE if costs["training_seconds"].notna().any() else "")
    return Section(
        anchor="budget",
        heading="Training budget and cost of each arm" if len(arms) > 1 else "Training budget and cost",
        text=tuple(text for text in paragraphs if text),
        drawings=draw("budget", evidence),
        tables=((_costs_table(costs), costs_note), (_totals_table(totals, bool(evidence.record.tune)), _TOTALS_NOTE)),
    )


_COSTS_NOTE: Final = (
    "Means over the complete confirm runs. FLOPs: tokens · (6·N + 12·layers·emb_dim·context_length), with N the number "
    "of parameters without the two embedding tables. Time is that of the run's own clock: training, evaluations and "
    "samples, without the start of its worker and without interruptions. Other runs may have trained at the same time, "
    "so time and tokens per second are not a benchmark."
)
_SECONDS_NOTE: Final = " Training time is the budget of the spec; a run ends with the step that exceeds it."
_TOTALS_NOTE: Final = (
    "All runs of an arm, whatever their outcome, each with its amounts at its end; times of runs that trained in "
    "parallel are added."
)


_FORMATS: Final[Mapping[str, Callable[[float], str]]] = {
    "tokens": lambda value: f"{count(value)} tokens",
    "epochs": lambda value: f"{setting(value)} {noun(value, 'epoch')}",
    "steps": lambda value: f"{count(value)} {noun(value, 'step')}",
    "flops": lambda value: f"{flops_text(value)} FLOPs",
    "seconds": lambda value: f"{duration(value)} of training",
}


def _budget_words(evidence: Evidence) -> str:
    """The budget of the spec, as a sentence."""
    record, found = evidence.record, evidence.budgets
    if not found:
        return ""
    several = len(found) > 1 or any(len(set(values.values())) > 1 for values in found.values())
    texts = [
        " to ".join(dict.fromkeys(_FORMATS[kind](end(values.values())) for end in (min, max)))
        for kind, values in found.items()
    ]
    sentence = f"The spec gives each run {' or '.join(texts)}."
    if several and _any_budget(record.compare):
        return f"{sentence} The sweep compares budgets."
    if several and _any_budget(record.tune):
        return f"{sentence} The search chose the budget of each arm."
    return sentence


def _any_budget(paths: Iterable[str]) -> bool:
    return any(path.startswith(BUDGET) for path in paths)


def _amounts(costs: pd.DataFrame, kinds: Iterable[str]) -> list[Amount]:
    """The quantities that may be matched and that all arms have; epochs and seconds only if they are the budget."""
    found = [
        Amount("tokens", "tokens", _known(costs, "tokens"), count),
        Amount("steps", "steps", _known(costs, "steps"), _mean_count),
        Amount("flops", "FLOPs", _known(costs, "flops"), flops_text),
    ]
    if "epochs" in kinds:
        found.append(Amount("epochs", "epochs", _known(costs, metrics.EPOCHS), setting))
    if "seconds" in kinds:
        found.append(Amount("seconds", "training time", _known(costs, "training_seconds"), duration))
    arms = int((costs["runs"] > 0).sum())
    return [amount for amount in found if 1 < len(amount.values) == arms]


def _known(costs: pd.DataFrame, column: str) -> dict[str, float]:
    """Arm → value, without arms that have none."""
    values = costs.set_index("arm")[column].dropna()
    return {str(arm): float(value) for arm, value in values.items()}


def _parity_words(evidence: Evidence) -> str:
    """The quantities that are matched, how much the others differ, and the tokens of the search."""
    record, costs, kinds = evidence.record, evidence.run_costs, evidence.budgets
    amounts = _amounts(costs, kinds)
    apart = [amount for amount in amounts if not amount.matched]
    missed = [] if _any_budget(record.compare) else [amount for amount in apart if amount.kind in kinds]
    parameters = Amount("parameters", "parameters", _known(costs, "parameters"), count)
    wall = Amount("wall", "wall time", _known(costs, "seconds"), _time)
    return " ".join(
        [
            *(
                f"The arms differ in their budget, which should be equal: {_difference_words(amount)}."
                for amount in missed
            ),
            *([_matched([amount for amount in amounts if amount.matched])] if amounts else []),
            *_different([amount for amount in (*apart, parameters) if amount not in missed]),
            *_different([wall], "; other runs may have trained at the same time, so this is not a benchmark"),
            *_tokenizers(evidence.chosen),
            *_searched(record, evidence.arm_costs),
            *_left_out(costs),
        ]
    )


def _matched(amounts: Sequence[Amount]) -> str:
    if not amounts:
        return "Neither tokens nor steps nor FLOPs are equal between the arms."
    return f"Equal between the arms: {listed(f'{amount.name} per run ({_range(amount)})' for amount in amounts)}."


def _range(amount: Amount) -> str:
    """`8,192`, or `8,192 to 8,200` if the arms differ slightly."""
    return " to ".join(dict.fromkeys(amount.to_text(amount.values[arm]) for arm in amount.ends))


def _different(amounts: Sequence[Amount], ending: str = "") -> Iterator[str]:
    text = "; ".join(_difference_words(amount) for amount in amounts if amount.excess > TOLERANCE)
    if text:
        yield f"{text[0].upper()}{text[1:]}{ending}."


def _difference_words(amount: Amount) -> str:
    factor = 1 + amount.excess
    size = f"{significant(100 * amount.excess, 2)} %" if factor < 2 else f"a factor of {significant(factor, 2)}"
    size = f"up to {size}" if len(amount.values) > 2 else size
    verb = "differs" if amount.name.endswith("time") else "differ"
    ends = ", ".join(f"{amount.to_text(amount.values[arm])} for {arm}" for arm in amount.ends)
    return f"{amount.name} {verb} by {size} ({ends})"


def _tokenizers(chosen: pd.DataFrame) -> Iterator[str]:
    if _TOKENIZER in chosen and chosen[_TOKENIZER].nunique() > 1:
        yield "The arms have different tokenizers, so equal numbers of tokens are different amounts of text."


def _searched(record: SweepRecord, totals: pd.DataFrame) -> Iterator[str]:
    """The tokens that the search of each arm trained on."""
    amount = Amount("search", "tokens", _known(totals, "explore_tokens"), lambda value: f"{count(value)} tokens")
    if not record.tune or len(amount.values) < 2 or math.isnan(amount.excess):
        return
    each = " and on ".join(f"{amount.to_text(amount.values[arm])} for {arm}" for arm in amount.ends)
    yield f"The search trained on {f'{_range(amount)} in each arm' if amount.matched else each}."


def _left_out(costs: pd.DataFrame) -> Iterator[str]:
    missing = list(costs.loc[costs["runs"] == 0, "arm"])
    if missing:
        yield f"{listed(missing)}: no complete confirm run, so not included here."


def _costs_table(costs: pd.DataFrame) -> Table:
    columns: list[tuple[str, str, Callable[[float], str]]] = [
        ("Runs", "runs", count),
        ("Parameters", "parameters", count),
        ("Steps", "steps", _mean_count),
        ("Tokens", "tokens", count),
        ("FLOPs", "flops", flops_text),
        ("Time", "seconds", duration),
        ("Tokens/s", "tokens_per_second", _mean_count),
    ]
    if costs["training_seconds"].notna().any():
        columns.insert(5, ("Training time", "training_seconds", duration))
    return _table(costs, columns)


def _totals_table(totals: pd.DataFrame, searched: bool) -> Table:
    phases = [("Search", "explore")] if searched else []
    columns: list[tuple[str, str, Callable[[float], str]]] = []
    for label, phase in [*phases, ("Confirm", "confirm")]:
        columns += [
            (f"{label} runs", f"{phase}_runs", count),
            (f"{label} tokens", f"{phase}_tokens", count),
            (f"{label} time", f"{phase}_seconds", duration),
        ]
    return _table(totals, [*columns, ("Total FLOPs", "flops", flops_text)])


def _table(frame: pd.DataFrame, columns: Sequence[tuple[str, str, Callable[[float], str]]]) -> Table:
    """One row per arm, with the ids of its runs."""
    arms = (Column(ARM, numeric=False), [Cell(str(arm)) for arm in frame["arm"]])
    return table_with_runs(
        frame["run_ids"],
        [arms, *((Column(label), formatted(frame[name], to_text)) for label, name, to_text in columns)],
    )
