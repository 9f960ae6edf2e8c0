"""The section on token losses: a passage of the validation text under two arms, with the probability of each token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import pandas as pd

from harness.analysis.evidence import Evidence
from harness.report.tables.table import Cell, Column, Row, Table, sortable
from harness.report.text.numbers import number, significant

# Lower ends of the colour classes of tokens, in nats.
LEVELS: Final = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0)
_SHOWN: Final = 8  # tokens in the table of differences
_BEFORE: Final = 5  # tokens of context in that table
_TOKENS: Final = 1000  # of the passage, at most: runs store 200
_CHARACTERS: Final = 200  # of a token, at most: the longest of a tokenizer has 128
_PART: Final = "·"  # in place of a token that is only a part of a character
_ARMS: Final = 6  # most arms on the page (two are shown at a time): each takes about 40 kB

Scored = Sequence[tuple[str, float]]  # text of each token, and its probability
PassageOf = Callable[[str], Scored]


@dataclass(frozen=True)
class Token:
    """One token: its text, the colour class of its loss, and its tooltip."""

    text: str
    level: int
    title: str


@dataclass(frozen=True)
class ArmPassage:
    """The passage as scored by one run of an arm; `mean` is the mean loss in nats, as text."""

    arm: str
    place: int
    run_id: str
    mean: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class Passage:
    """The same passage under several arms; the page shows the first two until the reader chooses others.

    Attributes:
        note: how to read it.
        texts: one per arm.
        table: the tokens on which the first two arms differ most; None for one arm or for different tokens.
    """

    note: str
    texts: tuple[ArmPassage, ...]
    table: Table | None

    @property
    def scale(self) -> tuple[str, ...]:
        """Names of the colour classes."""
        between = [f"{low:g} to {high:g}" for low, high in pairwise(LEVELS[1:])]
        return (f"under {LEVELS[1]:g}", *between, f"over {LEVELS[-1]:g}")


def passage(evidence: Evidence, passage_of: PassageOf) -> Passage | None:
    """The passage under the baseline, then under the other arms, largest difference to the baseline first.

    Args:
        evidence: of the sweep.
        passage_of: run id → its scored tokens, possibly none.

    Returns:
        None if no run has scored tokens.
    """
    arms, chosen = evidence.arms, evidence.shown_runs
    wanted = [arm for arm in _furthest_first(evidence.comparison) if arm in chosen][:_ARMS]
    stored = {arm: tokens for arm in wanted if (tokens := passage_of(chosen[arm][0]))}
    if not stored:
        return None
    scored = {arm: _beginning(tokens) for arm, tokens in stored.items()}
    most = max(map(len, stored.values()))
    texts = tuple(
        ArmPassage(
            arm,
            arms.index(arm),
            chosen[arm][0],
            number(sum(map(_loss, tokens)) / len(tokens), 3),
            tuple(_token(one) for one in tokens),
        )
        for arm, tokens in scored.items()
    )
    seeds = {chosen[arm][1] for arm in scored}
    parts = any(not text for tokens in scored.values() for text, _ in tokens)
    of_seed = f", seed {seeds.pop()}" if len(seeds) == 1 else ""
    note = (
        f"The beginning of the validation split, scored by the last checkpoint{of_seed}. The stronger the colour of a "
        "token, the larger its loss, that is, the lower its probability given the tokens before it in the window. "
        "Point at a token, or move through the text with the arrow keys, to read its probability."
        + (f" {_PART} is a part of a character, which stands at its last part." if parts else "")
        + (f" Only the first {_TOKENS:,} of {most:,} stored tokens are shown." if most > _TOKENS else "")
    )
    return Passage(note, texts, _differences(scored))


def _beginning(scored: Scored) -> list[tuple[str, float]]:
    """The first tokens of a passage, none of them long, so that the page stays small whatever a run has stored."""
    return [(text[:_CHARACTERS], chance) for text, chance in scored[:_TOKENS]]


def _furthest_first(comparison: pd.DataFrame) -> list[str]:
    base = list(comparison.loc[comparison["is_baseline"], "arm"])
    others = comparison[~comparison["is_baseline"] & (comparison["seeds"] > 0)]
    apart = others.loc[others["difference"].abs().sort_values(ascending=False, na_position="last").index, "arm"]
    return [*base, *apart]


def _loss(scored: tuple[str, float]) -> float:
    return -math.log(max(scored[1], 1e-12))


def _token(scored: tuple[str, float]) -> Token:
    text, chance = scored
    level = sum(_loss(scored) >= end for end in LEVELS) - 1
    name = f"“{_shown(text)}”" if text else "part of a character:"
    return Token(text or _PART, level, f"{name} probability {_probability(chance)}, loss {number(_loss(scored), 2)}")


def _shown(text: str) -> str:
    """A token's text with whitespace made visible."""
    return text.replace("\n", "⏎").replace("\t", "⇥") if text.strip() else text.replace(" ", "␣").replace("\n", "⏎")


def _probability(chance: float) -> str:
    return significant(chance, 2) if chance >= 0.01 else f"{chance:.1e}".replace("e-0", "e-")


def _differences(scored: dict[str, list[tuple[str, float]]]) -> Table | None:
    if len(scored) < 2:
        return None
    (first, one), (second, other) = list(scored.items())[:2]
    if [text for text, _ in one] != [text for text, _ in other]:
        return None
    apart = [_loss(b) - _loss(a) for a, b in zip(one, other, strict=True)]
    places = sorted(range(len(apart)), key=lambda at: -abs(apart[at]))[:_SHOWN]
    columns = (
        Column("Token", numeric=False),
        Column("After", numeric=False),
        Column(f"Probability, {first}"),
        Column(f"Probability, {second}"),
        Column("Loss difference, nats"),
    )
    rows = []
    for at in places:
        before = "".join(text for text, _ in one[max(0, at - _BEFORE) : at])
        rows.append(
            Row(
                (
                    Cell(_shown(one[at][0]).strip() or _PART),
                    Cell(f"…{' '.join(before.split())}" if before.strip() else "start of text"),
                    sortable(one[at][1], _probability(one[at][1])),
                    sortable(other[at][1], _probability(other[at][1])),
                    sortable(apart[at], f"{apart[at]:+.2f}".replace("-", "−")),
                )
            )
        )
    return Table(columns, tuple(rows))
