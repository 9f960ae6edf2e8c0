"""Generated texts side by side: the arms beside each other, from the start of training to its end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from harness.analysis.comparison import one_run_each
from harness.core.text import printable
from harness.report.text.numbers import count

_MOMENTS: Final = 5  # evaluations that are shown, the first and the last included

SamplesOf = Callable[[str], Iterable[tuple[int, int, str]]]


@dataclass(frozen=True)
class Text:
    """What a run of an arm wrote. `place` is the arm's among the arms."""

    arm: str
    place: int
    run_id: str
    tokens: int
    text: str


@dataclass(frozen=True)
class Moment:
    """One evaluation: when it was, and what the arms wrote there."""

    when: str
    texts: tuple[Text, ...]


def side_by_side(runs: pd.DataFrame, arms: Sequence[str], samples_of: SamplesOf) -> tuple[list[Moment], int | None]:
    """Up to five evaluations of one confirm run per arm, and the seed that these runs share, where they share one.

    Args:
        runs: as `load_runs` gives them.
        arms: names, in the order of their colours.
        samples_of: run id → its samples as (step, tokens, text), in the order of training.
    """
    chosen = one_run_each(runs, arms)
    written = {arm: list(samples_of(run_id)) for arm, (run_id, _) in chosen.items()}
    written = {arm: samples for arm, samples in written.items() if samples}
    moments = min(_MOMENTS, max((len(samples) for samples in written.values()), default=0))
    found = []
    for share in np.linspace(0, 1, moments):
        texts = []
        for arm, samples in written.items():
            _, tokens, text = samples[round(share * (len(samples) - 1))]
            shown = _close(printable(text, "\n\t"))
            texts.append(Text(arm, list(arms).index(arm), chosen[arm][0], tokens, shown))
        spent = sorted({one.tokens for one in texts})
        when = " to ".join(dict.fromkeys((count(spent[0]), count(spent[-1]))))
        found.append(Moment(f"after {when} training tokens", tuple(texts)))
    seeds = {chosen[arm][1] for arm in written}
    return found, seeds.pop() if len(seeds) == 1 else None


def _close(text: str) -> str:
    """The text with three and more line ends in a row counted, `⏎ × 20`: small models may write little else."""
    return re.sub(r"\n{3,}", lambda found: f" ⏎ × {len(found[0])}\n", text).removesuffix("\n")
