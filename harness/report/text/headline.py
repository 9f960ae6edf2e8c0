"""The answer in one line that needs no statistics: a verdict in a word or two, and what it means in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import pandas as pd

from harness.analysis.comparison import Comparability, metric_name, unit
from harness.analysis.verdicts import Verdict
from harness.core.text import listed, plural
from harness.report.text.numbers import decimals_of_error, number, rounded, significant

_WORDS: Final = {
    Verdict.BETTER: "Better",
    Verdict.WORSE: "Worse",
    Verdict.NO_DIFFERENCE: "No difference",
    Verdict.UNDECIDED: "Undecided",
}
_KINDS: Final = {
    Verdict.BETTER: "better",
    Verdict.WORSE: "worse",
    Verdict.NO_DIFFERENCE: "equal",
    Verdict.UNDECIDED: "undecided",
}
_TIMES: Final = 2.0  # from this factor on, a higher perplexity is given as a factor and not as a percentage
_HUGE: Final = 20.0  # nats; beyond, a factor says nothing


@dataclass(frozen=True)
class Headline:
    """The answer in one line.

    Attributes:
        kind: `better`, `worse`, `equal`, `undecided`, or `none` where arms have no verdict. The page colours by it.
        verdict: the verdict, in words that stand alone.
        words: what it means: one sentence.
    """

    kind: str
    verdict: str
    words: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.words}"


def headline(comparison: pd.DataFrame, basis: Comparability) -> Headline | None:
    """The line of a comparison, as `compare` returns it; None where no arm has a verdict."""
    judged = comparison[~comparison["is_baseline"] & comparison["verdict"].notna()]
    if judged.empty or not basis.ranked:
        return None
    base = str(comparison.loc[comparison["is_baseline"], "arm"].iloc[0])
    if len(judged) == 1:
        verdict = Verdict(judged["verdict"].iloc[0])
        return Headline(_KINDS[verdict], _WORDS[verdict], _of_one(judged.iloc[0], base))
    return _of_several(judged, base)


def _of_one(row: pd.Series, base: str) -> str:
    if row["verdict"] == Verdict.UNDECIDED:
        return f"{plural(int(row['pairs']), 'seed')} cannot tell whether {row['arm']} is better or worse than {base}."
    if row["verdict"] == Verdict.NO_DIFFERENCE:
        return f"{row['arm']} and {base} differ by less than {rounded(row['delta'])} {unit(str(row['metric']))}."
    verb = "has" if _is_loss(row) else "needs"
    return f"{row['arm']} {verb} {_effect(row)} than {base}{_perplexity(row)}."


def _of_several(judged: pd.DataFrame, base: str) -> Headline:
    counts = judged["verdict"].value_counts()
    words = {**_WORDS, Verdict.NO_DIFFERENCE: f"equal within {rounded(judged['delta'].iloc[0])}"}
    found = [f"{counts[verdict]} {words[verdict].lower()}" for verdict in Verdict if verdict in counts]
    better = judged[judged["verdict"] == Verdict.BETTER]
    if len(better):
        best = better.loc[better["mean"].idxmin()]
        kind, result = "better", f"{best['arm']} is the best, with {_effect(best)}{_perplexity(best)}"
    elif Verdict.UNDECIDED in counts:
        kind, result = "undecided", "none is known to be better"
    else:
        kind, result = "equal" if Verdict.NO_DIFFERENCE in counts else "worse", "none is better"
    return Headline(kind, listed(found), f"of {len(judged)} arms compared with {base}, {result}.")


def _effect(row: pd.Series) -> str:
    """`a validation loss 0.14 nats higher`, `0.14 bits more per byte of the validation text`."""
    more = row["difference"] > 0
    size = number(abs(row["difference"]), decimals_of_error([row["difference_se"]]))
    if _is_loss(row):
        return f"a {metric_name(str(row['metric']))} {size} nats {'higher' if more else 'lower'}"
    return f"{size} bits {'more' if more else 'less'} per byte of the validation text"


def _is_loss(row: pd.Series) -> bool:
    return unit(str(row["metric"])) == "nats per token"


def _perplexity(row: pd.Series) -> str:
    """`, about 15 % higher perplexity`: exp(difference) is the ratio of two perplexities; empty for other metrics."""
    if not _is_loss(row):
        return ""
    difference = row["difference"]
    if not difference < math.log(_TIMES):
        return f", about {significant(math.exp(difference), 2)} times the perplexity" if difference < _HUGE else ""
    percent = significant(abs(math.expm1(difference)) * 100, 2)
    return f", about {percent} % {'higher' if difference > 0 else 'lower'} perplexity"
