"""Names of settings, seeds and values in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from harness.config.fields import short_name
from harness.core.text import listed, noun, plural, printable
from harness.report.text.numbers import setting, short_id

if TYPE_CHECKING:
    import pandas as pd

_SOME: Final = 4  # arms or pairs that a sentence names; the others are counted
_CHARACTERS: Final = 180  # limit for the names in a sentence
_NAMED: Final = 4  # names that a sentence lists; the others are counted


def named(words: Sequence[str]) -> str:
    """`a, b and c`; for many names `a, b, c, d and 3 more`."""
    extra = len(words) - _NAMED
    return listed(words if extra < 2 else [*words[:_NAMED], f"{extra} more"])


def seeds_named(seeds: Iterable[Any]) -> str:
    """`seed 3`, `seeds 2 and 3`, `seeds 2 to 5 and 9`."""
    known = sorted({int(seed) for seed in seeds})
    return f"{noun(len(known), 'seed')} {seed_numbers(known)}"


def seed_numbers(seeds: Iterable[Any]) -> str:
    """`3`, `2 and 3`, `2 to 5 and 9`."""
    known = sorted({int(seed) for seed in seeds})
    # Consecutive seeds have the same difference between seed and index.
    runs = [[seed for _, seed in group] for _, group in groupby(enumerate(known), lambda pair: pair[1] - pair[0])]
    parts = [[f"{run[0]} to {run[-1]}"] if len(run) > 2 else list(map(str, run)) for run in runs]
    return named([text for part in parts for text in part])


def unplanned_named(runs: pd.DataFrame, unplanned: Mapping[str, str]) -> str:
    """The sentence about confirm runs outside the plan.

    Args:
        runs: of the sweep.
        unplanned: run id → why it is outside the plan.
    """
    rows = runs.loc[runs["run_id"].isin(list(unplanned)), ["run_id", "arm", "seed"]].itertuples(index=False)
    found = [
        f"{printable(str(arm))}, seed {seed}, run {short_id(run_id)} ({unplanned[run_id]})"
        for run_id, arm, seed in rows
    ]
    are = "are outside the plan and are" if len(found) > 1 else "is outside the plan and is"
    return (
        f"{plural(len(found), 'confirm run')} {are} left out of the verdicts: {named(found)}. Find out who added "
        f"{'them' if len(found) > 1 else 'it'} to the store; a run that nobody needs can be deleted in MLflow."
    )


def values_named(values: dict[str, Any]) -> str:
    """Tuned values as `learning_rate=1.2e-3, weight_decay=0.1`."""
    return ", ".join(f"{short_name(path)}={setting(value)}" for path, value in values.items())


def p_word(rows: pd.DataFrame) -> str:
    """How the p-values of compared rows are corrected: `Holm`, `adjusted` (for looks or skewness only), or empty."""
    compared = rows[rows["pairs"] > 0]
    if len(rows) - int(rows["is_baseline"].sum()) > 1:
        return "Holm"
    return "adjusted" if (compared["p_holm"] > compared["p"] * (1 + 1e-9)).any() else ""


def p_heading(word: str) -> str:
    """`p (Holm)`, `p (adjusted)`, `p`."""
    return f"p ({word})" if word else "p"


def some(names: Sequence[str], what: str) -> str:
    """`a, b and c`; a long list is shortened to `a, b and 3 more arms`."""
    kept = [
        name for place, name in enumerate(names[:_SOME]) if not place or len("".join(names[: place + 1])) < _CHARACTERS
    ]
    more = len(names) - len(kept)
    return listed([*kept, f"{more} more {what if more > 1 else what.removesuffix('s')}"] if more else kept)
