"""The section on generated text: samples of the arms side by side, from the start to the end of training."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.analysis.evidence import Evidence
from harness.core.text import printable
from harness.report.text.numbers import count
from harness.tracking.records import Sample

_MOMENTS: Final = 5  # evaluations shown, including the first and the last
_CHARACTERS: Final = 20_000  # of a text, at most

SamplesOf = Callable[[str], Iterable[Sample]]


@dataclass(frozen=True)
class Text:
    """Texts that a run of an arm generated. `place` is the index of the arm; `greedy` is None if there is only one."""

    arm: str
    place: int
    run_id: str
    tokens: int
    text: str
    greedy: str | None = None


@dataclass(frozen=True)
class Moment:
    """One evaluation: when it was, and the texts of the arms."""

    when: str
    texts: tuple[Text, ...]


def side_by_side(evidence: Evidence, samples_of: SamplesOf) -> tuple[list[Moment], int | None]:
    """Up to five evaluations of one confirm run per arm, and the seed of these runs, or None if they differ in it.

    Args:
        evidence: of the sweep.
        samples_of: run id → its samples, in the order of training.
    """
    arms, chosen = evidence.arms, evidence.shown_runs
    written = {arm: list(samples_of(run_id)) for arm, (run_id, _) in chosen.items()}
    written = {arm: samples for arm, samples in written.items() if samples}
    moments = min(_MOMENTS, max((len(samples) for samples in written.values()), default=0))
    found = []
    for share in np.linspace(0, 1, moments):
        texts = []
        for arm, samples in written.items():
            one = samples[round(share * (len(samples) - 1))]
            greedy = None if one.greedy is None else _shown(one.greedy)
            texts.append(Text(arm, arms.index(arm), chosen[arm][0], one.tokens, _shown(one.text), greedy))
        spent = sorted({one.tokens for one in texts})
        when = " to ".join(dict.fromkeys((count(spent[0]), count(spent[-1]))))
        found.append(Moment(f"after {when} training tokens", tuple(texts)))
    seeds = {chosen[arm][1] for arm in written}
    return found, seeds.pop() if len(seeds) == 1 else None


def _shown(text: str) -> str:
    return _count_line_breaks(printable(_beginning(text), "\n\t"))


def _count_line_breaks(text: str) -> str:
    """The text with three or more line breaks in a row as `⏎ × 20`, because small models may generate mostly those."""
    return re.sub(r"\n{3,}", lambda found: f" ⏎ × {len(found[0])}\n", text).removesuffix("\n")


def _beginning(text: str) -> str:
    """A text, or its beginning and how long it is."""
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}… ({len(text):,} characters)"
