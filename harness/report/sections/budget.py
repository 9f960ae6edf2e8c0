"""What each arm was given: whether a comparison is one at equal tokens, steps, FLOPs or time, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pandas as pd

from harness.analysis.columns import numbers
from harness.analysis.comparison import verdict_runs
from harness.core import metrics
from harness.core.outcomes import Phase
from harness.core.text import listed
from harness.report.sections.section import Section
from harness.report.tables.table import ARM, Cell, Column, Table, resting_on, spelled
from harness.report.text.numbers import count, duration, setting, significant

if TYPE_CHECKING:
    from harness.tracking import SweepRecord

TOLERANCE: Final = 0.01  # arms whose amounts differ by no more than this share are matched: runs end with whole steps
KINDS: Final = ("tokens", "epochs", "steps", "flops", "seconds")  # of which a spec sets exactly one
_BUDGET: Final = "train.budget."
_TOKENIZER: Final = "data.tokenizer"


def flops_text(value: float) -> str:
    """An amount of FLOPs, with P and E where the units of `count` end."""
    for unit, size in (("P", 1e15), ("E", 1e18)):
        if 0.9995 * size <= value < 999.5 * size:
            return f"{value / size:.3g} {unit}"
    return count(value)


def _mean_count(value: float) -> str:
    """A mean of counts: with three significant digits where whole numbers would hide a difference."""
    return significant(value, 3) if value < 100 and value % 1 else count(value)


def _time(value: float) -> str:
    """Like `duration`, to a tenth of a second under a minute."""
    return f"{value:.1f} s" if value < 60 else duration(value)


@dataclass(frozen=True)
class Amount:
    """One quantity that arms may or may not have had the same of.

    Attributes:
        kind: the kind of budget that it is, or what else it is called by.
        name: in a sentence.
        values: arm → mean over its confirm runs; arms without any are left out.
        spell: how a value is written.
    """

    kind: str
    name: str
    values: Mapping[str, float]
    spell: Callable[[float], str]

    @property
    def excess(self) -> float:
        """By what share the arm with most exceeds the arm with least; NaN for fewer than two arms or without any."""
        found = list(self.values.values())
        return max(found) / min(found) - 1 if len(found) > 1 and min(found) > 0 else math.nan

    @property
    def matched(self) -> bool:
        """Whether all arms had the same, to within `TOLERANCE`."""
        return self.excess <= TOLERANCE

    @property
    def ends(self) -> tuple[str, str]:
        """The arms with least and with most."""
        return min(self.values, key=self.values.__getitem__), max(self.values, key=self.values.__getitem__)


def run_costs(runs: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """What a confirm run of each arm took: means over the complete ones, NaN where nothing is known.

    Args:
        runs: as `load_runs` gives them, of one sweep.
        arms: names and order of the rows.

    Returns:
        One row per arm: `arm`, `runs`; `parameters`, `steps`, `tokens`, `epochs`; `flops`, tokens times those of one
        token; `seconds`, wall time; `tokens_per_second` of wall time; `training_seconds`, the budget of one that is
        in seconds; `run_ids`, separated by spaces.
    """
    chosen = verdict_runs(runs)
    rows = []
    for arm in arms:
        mine = chosen[chosen["arm"] == arm]
        tokens, seconds = numbers(mine, "tokens"), numbers(mine, "seconds")
        amounts = {
            **{name: numbers(mine, name) for name in ("parameters", "steps")},
            "tokens": tokens,
            "epochs": numbers(mine, metrics.EPOCHS),
            "flops": tokens * numbers(mine, "flops_per_token"),
            "seconds": seconds,
            "tokens_per_second": tokens / seconds.where(seconds > 0),
            "training_seconds": numbers(mine, f"{_BUDGET}seconds"),
        }
        means = {name: float(values.mean()) for name, values in amounts.items()}
        rows.append({"arm": arm, "runs": len(mine), **means, "run_ids": " ".join(mine["run_id"])})
    return pd.DataFrame(rows)


def arm_costs(runs: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """What was spent on each arm in all, however its runs ended.

    Args:
        runs, arms: as for `run_costs`.

    Returns:
        One row per arm: `arm`; of its explore runs `explore_runs`, `explore_tokens`, `explore_seconds`; of all others
        (confirm runs, those that were replaced too) `confirm_runs`, `confirm_tokens`, `confirm_seconds`; `flops` of
        both; `run_ids`, separated by spaces. A run counts with what it had done when it ended, NaN where none is known.
    """
    rows = []
    for arm in arms:
        mine = runs[runs["arm"] == arm]
        searched = mine["phase"] == Phase.EXPLORE
        row: dict[str, object] = {"arm": arm}
        for phase, part in (("explore", mine[searched]), ("confirm", mine[~searched])):
            row |= {f"{phase}_runs": len(part)}
            row |= {f"{phase}_{name}": float(numbers(part, name).sum(min_count=1)) for name in ("tokens", "seconds")}
        flops = float((numbers(mine, "tokens") * numbers(mine, "flops_per_token")).sum(min_count=1))
        rows.append({**row, "flops": flops, "run_ids": " ".join(mine["run_id"])})
    return pd.DataFrame(rows)


def budget_section(record: SweepRecord, runs: pd.DataFrame) -> Section | None:
    """What was matched between the arms, and what a run and an arm cost.

    Args:
        record, runs: as the tracking readers give them, of one sweep.

    Returns:
        None while no confirm run is complete.
    """
    if verdict_runs(runs).empty:
        return None
    arms = [arm.name for arm in record.arms]
    costs, totals = run_costs(runs, arms), arm_costs(runs, arms)
    paragraphs = [_set(record, runs)] + ([_parity(record, runs, costs, totals)] if len(arms) > 1 else [])
    costs_note = _COSTS_NOTE + (_SECONDS_NOTE if costs["training_seconds"].notna().any() else "")
    return Section(
        anchor="budget",
        heading="What each arm was given" if len(arms) > 1 else "What the runs cost",
        text=tuple(text for text in paragraphs if text),
        tables=((_costs_table(costs), costs_note), (_totals_table(totals, bool(record.tune)), _TOTALS_NOTE)),
    )


_COSTS_NOTE: Final = (
    "Means over the complete confirm runs. FLOPs: tokens · (6·N + 12·layers·emb_dim·context_length), N being all "
    "parameters but the two embedding tables. Time is wall time with start, evaluations and samples, measured with "
    "other runs beside it, so neither it nor tokens per second is a benchmark."
)
_SECONDS_NOTE: Final = " Training time is the budget that the spec sets; a run ends with the step that passes it."
_TOTALS_NOTE: Final = (
    "All runs of an arm, whatever their outcome, each with what it had done when it ended; time adds up over runs that "
    "trained side by side."
)


def _budgets(runs: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Kind → arm → what the spec sets for its confirm runs."""
    chosen = verdict_runs(runs)
    found: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        values = numbers(chosen, _BUDGET + kind)
        means = values.groupby(chosen["arm"], sort=False).mean().dropna()
        if len(means):
            found[kind] = {str(arm): float(value) for arm, value in means.items()}
    return found


_SPELLED: Final[Mapping[str, Callable[[float], str]]] = {
    "tokens": lambda value: f"{count(value)} tokens",
    "epochs": lambda value: f"{setting(value)} epoch{'' if value == 1 else 's'}",
    "steps": lambda value: f"{count(value)} step{'' if value == 1 else 's'}",
    "flops": lambda value: f"{flops_text(value)} FLOPs",
    "seconds": lambda value: f"{duration(value)} of training",
}


def _set(record: SweepRecord, runs: pd.DataFrame) -> str:
    """What the spec set."""
    found = _budgets(runs)
    if not found:
        return ""
    several = len(found) > 1 or any(len(set(values.values())) > 1 for values in found.values())
    texts = [
        " to ".join(dict.fromkeys(_SPELLED[kind](end(values.values())) for end in (min, max)))
        for kind, values in found.items()
    ]
    sentence = f"The spec gives each run {' or '.join(texts)}."
    if several and _any_budget(record.compare):
        return f"{sentence} The budget itself is what is compared."
    if several and _any_budget(record.tune):
        return f"{sentence} The search chose the budget of each arm."
    return sentence


def _any_budget(paths: Iterable[str]) -> bool:
    return any(path.startswith(_BUDGET) for path in paths)


def _amounts(runs: pd.DataFrame, costs: pd.DataFrame) -> list[Amount]:
    """What arms may be matched in: of epochs and seconds only what the spec set. All arms with results have it."""
    found = [
        Amount("tokens", "tokens", _known(costs, "tokens"), count),
        Amount("steps", "steps", _known(costs, "steps"), _mean_count),
        Amount("flops", "FLOPs", _known(costs, "flops"), flops_text),
    ]
    kinds = _budgets(runs)
    if "epochs" in kinds:
        found.append(Amount("epochs", "epochs", _known(costs, metrics.EPOCHS), setting))
    if "seconds" in kinds:
        found.append(Amount("seconds", "training time", _known(costs, "training_seconds"), duration))
    arms = int((costs["runs"] > 0).sum())
    return [amount for amount in found if 1 < len(amount.values) == arms]


def _known(costs: pd.DataFrame, column: str) -> dict[str, float]:
    """Arm → value, for the arms that have one."""
    values = costs.set_index("arm")[column].dropna()
    return {str(arm): float(value) for arm, value in values.items()}


def _parity(record: SweepRecord, runs: pd.DataFrame, costs: pd.DataFrame, totals: pd.DataFrame) -> str:
    """Which quantities are matched, how far the others lie apart, and what the search spent."""
    amounts = _amounts(runs, costs)
    apart = [amount for amount in amounts if not amount.matched]
    missed = [] if _any_budget(record.compare) else [amount for amount in apart if amount.kind in _budgets(runs)]
    parameters = Amount("parameters", "parameters", _known(costs, "parameters"), count)
    wall = Amount("wall", "wall time", _known(costs, "seconds"), _time)
    return " ".join(
        [
            *(f"The arms differ in what was to be matched: {_apart(amount)}." for amount in missed),
            *([_matched([amount for amount in amounts if amount.matched])] if amounts else []),
            *_different([amount for amount in (*apart, parameters) if amount not in missed]),
            *_different([wall], ", measured with other runs beside it, so it is no benchmark"),
            *_tokenizers(runs),
            *_searched(record, totals),
            *_left_out(costs),
        ]
    )


def _matched(amounts: Sequence[Amount]) -> str:
    if not amounts:
        return "Neither tokens nor steps nor FLOPs are matched between the arms."
    return f"Matched between the arms: {listed(f'{amount.name} per run ({_range(amount)})' for amount in amounts)}."


def _range(amount: Amount) -> str:
    """`8,192`, or `8,192 to 8,200` where the arms have not quite the same."""
    return " to ".join(dict.fromkeys(amount.spell(amount.values[arm]) for arm in amount.ends))


def _different(amounts: Sequence[Amount], ending: str = "") -> Iterator[str]:
    text = "; ".join(_apart(amount) for amount in amounts if amount.excess > TOLERANCE)
    if text:
        yield f"{text[0].upper()}{text[1:]}{ending}."


def _apart(amount: Amount) -> str:
    factor = 1 + amount.excess
    size = f"{significant(100 * amount.excess, 2)} %" if factor < 2 else f"a factor of {significant(factor, 2)}"
    size = f"up to {size}" if len(amount.values) > 2 else size
    verb = "differs" if amount.name.endswith("time") else "differ"
    ends = ", ".join(f"{amount.spell(amount.values[arm])} for {arm}" for arm in amount.ends)
    return f"{amount.name} {verb} by {size} ({ends})"


def _tokenizers(runs: pd.DataFrame) -> Iterator[str]:
    chosen = verdict_runs(runs)
    if _TOKENIZER in chosen and chosen[_TOKENIZER].nunique() > 1:
        yield "The arms have different tokenizers, so equal tokens are not equal amounts of text."


def _searched(record: SweepRecord, totals: pd.DataFrame) -> Iterator[str]:
    """What the search read in each arm."""
    amount = Amount("search", "tokens", _known(totals, "explore_tokens"), lambda value: f"{count(value)} tokens")
    if not record.tune or len(amount.values) < 2 or math.isnan(amount.excess):
        return
    each = " and on ".join(f"{amount.spell(amount.values[arm])} for {arm}" for arm in amount.ends)
    yield f"The search trained on {f'{_range(amount)} in each arm' if amount.matched else each}."


def _left_out(costs: pd.DataFrame) -> Iterator[str]:
    missing = list(costs.loc[costs["runs"] == 0, "arm"])
    if missing:
        yield f"{listed(missing)}: no complete confirm run, so not counted here."


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
    return _table(totals, [*columns, ("FLOPs in all", "flops", flops_text)])


def _table(frame: pd.DataFrame, columns: Sequence[tuple[str, str, Callable[[float], str]]]) -> Table:
    """One row per arm, with the ids of the runs behind it."""
    arms = (Column(ARM, numeric=False), [Cell(str(arm)) for arm in frame["arm"]])
    return resting_on(
        frame["run_ids"], [arms, *((Column(label), spelled(frame[name], spell)) for label, name, spell in columns)]
    )
