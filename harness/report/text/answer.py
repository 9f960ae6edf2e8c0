"""A comparison in words: the verdicts, their limits, and what more seeds would show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from harness.analysis.comparison import Comparability, intervals, metric_name, unit
from harness.analysis.significance import ALPHA, holm, sign_flip_seeds
from harness.analysis.statistics import Interval
from harness.analysis.verdicts import DIFFERENT, Verdict
from harness.core.text import listed, plural
from harness.report.text.names import some
from harness.report.text.numbers import chance, decimals_for, decimals_of_error, number, rounded, signed, significant

_NAMED_IN_FULL: Final = 3  # more arms than this are grouped by verdict; the table has all numbers


@dataclass(frozen=True)
class Answer:
    """A comparison in words: the findings, what to do next, and the limits of the findings."""

    findings: str
    limits: str
    next_step: str = ""

    def __str__(self) -> str:
        step = f"Next: {self.next_step}" if self.next_step else ""
        return " ".join(filter(None, (self.findings, step, self.limits)))


def answer(comparison: pd.DataFrame, basis: Comparability, searched: bool = True, next_step: str = "") -> Answer:
    """Put a comparison, as `compare` returns it, into words.

    Args:
        comparison: of the arms.
        basis: by which metric, and whether arms are ranked.
        searched: whether there were explore trials.
        next_step: what to do next.
    """
    if not comparison["seeds"].sum():
        unused = "Explore trials are not compared, because they were selected by the same validation loss. "
        lost = " ".join(_diverged(comparison)) if comparison["diverged"].sum() else ""
        return Answer(
            f"No confirm run is complete, so nothing is ranked. {lost}".strip(),
            f"{unused if searched else ''}Runs that ended early have no result.",
            next_step,
        )
    parts = [basis.reason] if basis.reason else []
    limits = ""
    if len(comparison) == 1:
        parts.append(_level(comparison.iloc[0]))
        limits = "" if comparison["seeds"].sum() < 2 else "Nothing is compared."
    elif basis.ranked:
        finding, limits = _differences(comparison)
        parts.append(finding)
    parts += _diverged(comparison)
    missing = comparison.loc[comparison["seeds"] + comparison["diverged"] == 0, "arm"]
    if len(missing):
        parts.append(f"{some(list(missing), 'arms')}: no complete confirm run, so no result.")
    return Answer(" ".join(parts), limits, next_step)


def verdict_text(verdict: object, delta: float) -> str:
    """A verdict as tables show it, with the value of δ; empty where there is no verdict."""
    if not isinstance(verdict, str):
        return ""
    return verdict.replace("δ", rounded(delta))


def _level(row: pd.Series) -> str:
    own = Interval(row["mean"], row["low"], row["high"])
    decimals = decimals_for([own.half_width])
    text = f"The {metric_name(row['metric'])} is {number(own.mean, decimals)}"
    if (seeds := row["seeds"] + row["diverged"]) < 2:
        return f"{text}. With one seed, the spread over seeds is unknown."
    return f"{text} ± {number(own.half_width, decimals)} (95 % t interval over {seeds} seeds)."


def _diverged(comparison: pd.DataFrame) -> Iterator[str]:
    """The arms with diverged runs, and what follows for their verdicts."""
    lost = comparison[comparison["diverged"] > 0]
    if lost.empty:
        return
    columns = zip(lost["arm"], lost["diverged"], lost["seeds"], strict=True)
    parts = [f"{count} of {count + complete} runs of {arm}" for arm, count, complete in columns]
    yield (
        f"{some(parts, 'arms')} diverged. A diverged run is the worst result of its arm: it counts with its loss "
        "before the first step."
    )
    if comparison["pairs"].sum():
        arms, base = lost.loc[~lost["is_baseline"], "arm"], lost["is_baseline"].any()
        if len(arms):
            yield f"So {some(list(arms), 'arms')} can only be worse or undecided."
        if base:
            yield "Against a baseline with diverged runs, an arm can only be better or undecided."


def _differences(comparison: pd.DataFrame) -> tuple[str, str]:
    """The verdicts and their limits."""
    base = comparison[comparison["is_baseline"]].iloc[0]
    if not base["seeds"] + base["diverged"]:
        return f"The baseline {base['arm']} has no complete confirm run, so there are no differences.", ""
    others = comparison[~comparison["is_baseline"]]
    scaled = others["sign_flip_p"] * (ALPHA / others["alpha"])  # like p_holm, so that α is the bound at every look
    compared = others.assign(sign_flip_holm=np.minimum(holm(scaled), 1))
    compared = compared[compared["pairs"] > 0]
    if compared.empty:
        return "No other arm shares a seed with the baseline, so there are no paired differences.", ""
    shown = compared if len(compared) <= _NAMED_IN_FULL else _largest(compared)
    sentences = [_sentence(row, interval, str(base["arm"]), len(others)) for row, interval in _rows(shown)]
    return " ".join(sentences), " ".join(_limits(compared, len(others)))


def _rows(compared: pd.DataFrame) -> Iterator[tuple[pd.Series, Interval]]:
    for (_, row), interval in zip(compared.iterrows(), intervals(compared, "difference"), strict=True):
        yield row, interval


def _largest(compared: pd.DataFrame) -> pd.DataFrame:
    """The best arm of those found better; else, of those found worse or of all, that with the largest difference."""
    better = compared[compared["verdict"] == Verdict.BETTER]
    if len(better):
        return better.loc[[better["mean"].idxmin()]]
    found = compared[compared["verdict"].isin(DIFFERENT)]
    among = found if len(found) else compared
    return among.loc[[among["difference"].abs().idxmax()]]


def predicate(verdict: str, delta: float, several: bool = False) -> str:
    """`is better`, `are undecided`, `shows no difference larger than 0.02`."""
    if verdict == Verdict.NO_DIFFERENCE:
        return f"{'show' if several else 'shows'} {verdict_text(verdict, delta)}"
    return f"{'are' if several else 'is'} {verdict}"


def _sentence(row: pd.Series, interval: Interval, base: str, comparisons: int) -> str:
    """The verdict on one arm as a sentence that can be quoted: effect, interval, pairs, test and p.

    For better and worse, effect and interval are given as a size without sign; else as arm minus baseline with sign.
    """
    verdict, arm = row["verdict"], row["arm"]
    decimals = decimals_of_error([row["difference_se"]])
    what, in_unit = _measured(str(row["metric"]))
    mean, low, high = interval.mean, interval.low, interval.high
    if row["pairs"] < 2:
        apart = f"its {what} is {_size(mean, decimals, in_unit)} than that of {base} on the one common seed"
        return f"{arm} is undecided: {apart}, so there is no interval."
    if verdict in DIFFERENT:
        verb, ends = ("lowers", (-high, -low)) if mean < 0 else ("raises", (low, high))
        said = f"{arm} {verb} the {what} by {number(abs(mean), decimals)}{in_unit} against {base}"
        between = f"{number(ends[0], decimals)} to {number(ends[1], decimals)}"
    else:
        size = f"{_size(mean, decimals, in_unit)} than that of {base}" if mean else f"that of {base} on average"
        said = f"{arm} {predicate(verdict, row['delta'])}: its {what} is {size}"
        between = f"{signed(low, decimals)} to {signed(high, decimals)}"
    over = f" over {comparisons} comparisons" if comparisons > 1 else ""
    pairs = f"{row['pairs']} paired seeds"
    corrected = "Holm p" if comparisons > 1 else "adjusted p" if row["alpha"] < ALPHA else "p"  # for several looks
    test = "skewness-adjusted t test" if row["tested_p"] > row["p"] else "paired t test"
    grounds = f"(95 % CI {between}, {pairs}, {test}, {corrected} {chance(row['p_holm'])}{over})"
    small = verdict in DIFFERENT and abs(mean) < row["delta"]
    aside = f", smaller than δ = {rounded(row['delta'])}, the smallest difference that matters" if small else ""
    return f"{said} {grounds}{aside}."


def _measured(metric: str) -> tuple[str, str]:
    """The name of a metric, and its unit as it follows a number: empty where the name contains the unit."""
    name = metric_name(metric)
    return name, "" if name.endswith(unit(metric)) else f" {unit(metric)}"


def _size(difference: float, decimals: int, in_unit: str = "") -> str:
    size = number(abs(difference), decimals)
    if float(size) == 0:
        size = f"less than {10.0**-decimals:.{decimals}f}"
    return f"{size}{in_unit} {'higher' if difference > 0 else 'lower'}"


def _limits(compared: pd.DataFrame, comparisons: int) -> Iterator[str]:
    judged = compared[compared["pairs"] > 1]
    if not judged.empty:
        trained = judged[judged["mde"].notna()]  # a diverged run is no seed noise: tests and powers do not hold for it
        if len(trained):
            yield from _skewed(trained)
            yield from _checks(trained, comparisons)
            yield _detectable(trained)
        yield from _undecided(judged[judged["verdict"] == Verdict.UNDECIDED])
    if len(judged) < len(compared):
        yield "With one seed, an effect cannot be told from seed noise."


def _skewed(judged: pd.DataFrame) -> Iterator[str]:
    """The arms that the paired t test alone would call better or worse."""
    held = judged[judged["t_verdict"].isin(DIFFERENT) & (judged["t_verdict"] != judged["verdict"])]
    for verdict, rows in held.groupby("t_verdict", sort=True):
        arms, one = list(rows["arm"]), len(rows) == 1
        yield (
            f"By the paired t test alone {some(arms, 'arms')} would be {verdict}. But the differences look skewed, and "
            f"with skewed noise that test is wrong too often on this side; the skewness-adjusted test does not confirm "
            f"{'it' if one else 'them'}. More seeds would decide."
        )


def _checks(judged: pd.DataFrame, comparisons: int) -> Iterator[str]:
    """The verdicts that assume normal seed noise without a check, and those that the sign-flip test contradicts."""
    enough = judged["alpha"].map(lambda alpha: sign_flip_seeds(comparisons, alpha))
    different = judged["verdict"].isin(DIFFERENT)
    short = (enough - judged["pairs"])[different & (judged["pairs"] < enough)]
    for missing, arms in judged.loc[short.index, "arm"].groupby(short, sort=True):
        more = plural(int(missing), "more seed")
        yield f"{_verdict_on(list(arms))} on normal seed noise; {more} would check it by the sign-flip test."
    same = judged.loc[judged["verdict"] == Verdict.NO_DIFFERENCE, "arm"]
    if len(same):
        yield f"{_verdict_on(list(same))} on normal seed noise."
    checked = judged[judged["pairs"] >= enough]
    for verdicts, found, words in (
        (DIFFERENT, False, "The sign-flip test, which does not assume normal noise, does not confirm the verdict on"),
        ((Verdict.UNDECIDED,), True, "The sign-flip test, which does not assume normal noise, finds a difference for"),
    ):
        disagree = checked[
            checked["verdict"].isin(verdicts)
            & (checked["verdict"] == checked["t_verdict"])  # the sign-flip test does not hold for skewed noise
            & ((checked["sign_flip_holm"] <= ALPHA) == found)
        ]
        if len(disagree):
            parts = [f"{row['arm']} (p {chance(row['sign_flip_holm'])})" for _, row in disagree.iterrows()]
            arms = some(parts, "arms")
            yield f"{words} {arms}."


def _verdict_on(arms: Sequence[str]) -> str:
    if len(arms) > _NAMED_IN_FULL:
        return f"The verdicts on {len(arms)} arms rest"
    return f"The verdict on {listed(arms)} rests" if len(arms) == 1 else f"The verdicts on {listed(arms)} rest"


def _detectable(judged: pd.DataFrame) -> str:
    fewest, most = int(judged["pairs"].min()), int(judged["pairs"].max())
    pairs = f"{fewest} pairs" if fewest == most else f"{fewest} to {most} pairs"
    low, high = significant(judged["mde"].min(), 2), significant(judged["mde"].max(), 2)
    size = low if low == high else f"{low} to {high} (depending on the arm)"
    return f"The smallest true difference that {pairs} of this spread find in 80 % of sweeps is {size}."


def _undecided(undecided: pd.DataFrame) -> Iterator[str]:
    """How many seeds would decide the undecided arms."""
    if undecided.empty:
        return
    yield "Undecided does not mean that arms are equal."
    delta = rounded(undecided["delta"].iloc[0])
    short = undecided[undecided["seeds_needed"] > undecided["pairs"]]
    if len(short):
        needed = short["seeds_needed"].max()
        seeds = "more than a million" if math.isinf(needed) else f"about {float(f'{needed:.2g}'):,.0f}"
        whose = "" if len(short) == len(undecided) else f" for {some(list(short['arm']), 'arms')}"
        yield f"It takes {seeds} seeds per arm{whose} to find a difference of {delta} in 80 % of sweeps."
    enough = undecided.loc[undecided["seeds_needed"] <= undecided["pairs"], "arm"]
    if len(enough):
        yield (
            f"{some(list(enough), 'arms')} had enough seeds to find a difference of {delta} in 80 % of sweeps; "
            "deciding about a smaller one takes more."
        )
