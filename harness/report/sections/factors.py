"""The section on factors, for a grid of arms: main effects and interactions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from harness.analysis.comparison import intervals, metric_name
from harness.analysis.evidence import Evidence
from harness.analysis.factors import Interaction
from harness.analysis.grid import Grid
from harness.analysis.significance import ALPHA, holm, sign_flip_seeds
from harness.analysis.verdicts import DIFFERENT, Verdict
from harness.config.labels import explained_words
from harness.core.text import listed, noun, plural
from harness.report.figures.registry import draw
from harness.report.sections.section import Section
from harness.report.tables.factors import interaction_note, interaction_table, main_effect_note, main_effect_table
from harness.report.text.answer import predicate, verdict_text
from harness.report.text.numbers import NOTHING, chance, decimals_for, number, rounded, signed, significant

if TYPE_CHECKING:
    from harness.tracking import SweepRecord

FACTORS: Final = "factors"  # anchor of the section
_NAMED_IN_FULL: Final = 3  # more levels of a factor than this are grouped by verdict; the table has all numbers


def factor_section(evidence: Evidence) -> Section | None:
    """Text, tables and a figure about the factors of a sweep that compares several.

    Returns:
        None if fewer than two paths are compared, if all arms are equal, or if arms are not ranked.
    """
    if evidence.factors is None:
        return None
    record, found = evidence.record, evidence.factors.grid
    main_effects, contrasts = evidence.factors.levels, evidence.factors.interactions
    heading = "Effect of each factor, and interactions"
    missing = " ".join(_missing(found))
    if not (main_effects["pairs"].sum() or contrasts["seeds"].sum()):
        words = "No seed is complete in all arms that an average needs, so there are no results."
        return Section(FACTORS, heading, (f"{words} {missing}".strip(),))
    text = (
        " ".join(_interaction_words(contrasts)),
        " ".join(_main_effect_words(main_effects, contrasts)),
        " ".join(_limits(main_effects, contrasts)),
        f"{missing} Each number uses only the seeds that all the arms it needs have." if missing else "",
        _reading_words(record, found, len(contrasts), int((~main_effects["is_baseline"]).sum())),
    )
    by_factor = [rows for _, rows in main_effects.groupby("factor", sort=False)]
    return Section(
        anchor=FACTORS,
        heading=heading,
        text=tuple(paragraph for paragraph in text if paragraph),
        drawings=draw("factors", evidence),
        tables=(
            (interaction_table(contrasts), interaction_note(contrasts, len(found.levels))),
            *((main_effect_table(rows), main_effect_note(rows, main_effects)) for rows in by_factor),
        ),
    )


def _reading_words(record: SweepRecord, found: Grid, contrasts: int, differences: int) -> str:
    """How to read this secondary analysis."""
    tuned = "Every arm was searched separately, so these are effects between tuned arms. " if record.tune else ""
    words = [f"{word} is {path}" for word, path in explained_words(found.labels).items()]
    return (
        f"{tuned}This analysis is secondary: the verdicts of the sweep are those on its arms against the baseline. "
        f"Interactions ({plural(contrasts, 'test')}) and differences between levels ({plural(differences, 'test')}) "
        "are two separate families of tests, with Holm's correction within each."
        + (f" Here {', '.join(words)}." if words else "")
    )


def _interaction_words(contrasts: pd.DataFrame) -> Iterator[str]:
    """The result for each pair of factors, with its largest contrast."""
    decimals = decimals_for(interval.half_width for interval in intervals(contrasts, "interaction"))
    for (first, second), pair in contrasts.groupby(["word", "other_word"], sort=False):
        names = f"{first} and {second}"
        clear, seen = pair[pair["verdict"] == Interaction.INTERACT], pair[pair["seeds"] > 0]
        if seen.empty:
            yield f"{names} have no interaction result: no seed is complete in all the arms that it needs."
            continue
        shown = clear if len(clear) else seen
        largest = shown.loc[shown["interaction_mean"].abs().idxmax()]
        if len(clear):
            found = f"The effects of {names} depend on each other"
        elif (pair["verdict"] == Interaction.NONE).all():
            found = (
                f"The effects of {names} are additive, with {verdict_text(Interaction.NONE.value, largest['delta'])}"
            )
        else:
            found = f"Whether the effects of {names} depend on each other is undecided"
        extent = f" (in {len(clear)} of {len(pair)} contrasts)" if len(clear) and len(pair) > 1 else ""
        which = "in the largest of them, " if extent else "in the largest contrast, " if len(pair) > 1 else ""
        yield f"{found}{extent}: {which}{_contrast(largest, decimals)}."


def _contrast(row: pd.Series, decimals: int) -> str:
    """One interaction: both effects, their difference, its interval and p."""
    before, after = (signed(row[name], decimals) for name in ("effect_at_baseline", "effect_at_level"))
    mean, low, high = (row[f"interaction_{part}"] for part in ("mean", "low", "high"))
    text = (
        f"{row['name']} instead of {row['baseline_level']} changes the {metric_name(row['metric'])} by {before} with "
        f"{row['other_baseline_name']} and by {after} with {row['other_name']}, an interaction of "
        f"{signed(mean, decimals)}"
    )
    if row["seeds"] < 2:
        return f"{text} on the one common seed, so there is no interval"
    ends = f"{number(low, decimals)} to {number(high, decimals)}"
    text += f" (95 % interval {ends}, {plural(row['seeds'], 'seed')}, p {chance(row['p_holm'])})"
    small = row["verdict"] == Interaction.INTERACT and abs(mean) < row["delta"]
    return f"{text}, smaller than δ = {rounded(row['delta'])}" if small else text


def _main_effect_words(main_effects: pd.DataFrame, contrasts: pd.DataFrame) -> Iterator[str]:
    """The result for each factor, and a warning for factors that interact."""
    decimals = decimals_for(interval.half_width for interval in intervals(main_effects, "difference"))
    factors = list(dict.fromkeys(main_effects["word"]))
    for word in factors:
        rows = main_effects[main_effects["word"] == word]
        base, levels = rows.loc[rows["is_baseline"], "name"].iloc[0], rows[rows["pairs"] > 0]
        average = f"Averaged over {listed(other for other in factors if other != word)}"
        if levels.empty:
            yield f"{average}, {word} has no result: no seed is complete in all its arms."
        elif len(levels) > _NAMED_IN_FULL:
            groups = [(verdict, list(levels.loc[levels["verdict"] == verdict, "name"])) for verdict in Verdict]
            delta = levels["delta"].iloc[0]
            said = "; ".join(
                f"{listed(names)} {predicate(verdict, delta, len(names) > 1)}" for verdict, names in groups if names
            )
            yield f"{average}, against {base}: {said}."
        else:
            said = "; ".join(_level(row, decimals) for _, row in levels.iterrows())
            yield f"{average}, against {base}: {said}."
    clear = contrasts[contrasts["verdict"] == Interaction.INTERACT]
    if len(clear):
        unlike = [word for word in factors if word in {*clear["word"], *clear["other_word"]}]
        yield (
            f"For {listed(unlike)} these are averages over different effects: they hold "
            "for this set of arms on average, not for each arm."
        )


def _level(row: pd.Series, decimals: int) -> str:
    """One level against the baseline's: verdict, difference, interval and p."""
    mean, low, high = row["difference"], row["difference_low"], row["difference_high"]
    size = f"{number(abs(mean), decimals)} {'higher' if mean > 0 else 'lower'}" if mean else "the same on average"
    text = f"{row['name']} {predicate(row['verdict'], row['delta'])}, {size}"
    if row["pairs"] < 2:
        return f"{text} on the one common seed, so there is no interval"
    ends = f"{number(low, decimals)} to {number(high, decimals)}"
    text += f" (95 % interval {ends}, {plural(row['pairs'], 'seed')}, p {chance(row['p_holm'])})"
    small = row["verdict"] in DIFFERENT and abs(mean) < row["delta"]
    return f"{text}, smaller than δ = {rounded(row['delta'])}" if small else text


def _limits(main_effects: pd.DataFrame, contrasts: pd.DataFrame) -> Iterator[str]:
    """The minimum detectable effects, and what the tests assume."""
    levels = main_effects[~main_effects["is_baseline"]].rename(columns={"seeds": "complete", "pairs": "seeds"})
    where = contrasts["name"] + " with " + contrasts["other_name"]
    for what, rows in (("interaction", contrasts.assign(name=where)), ("difference between levels", levels)):
        scaled = rows["sign_flip_p"] * (ALPHA / rows["alpha"])  # like p_holm, so that α is the bound at every look
        judged = rows.assign(sign_flip_holm=np.minimum(holm(scaled), 1))
        judged = judged[(judged["seeds"] > 1) & judged["mde"].notna()]  # mde is NaN where runs diverged
        if judged.empty:
            continue
        low, high = significant(judged["mde"].min(), 2), significant(judged["mde"].max(), 2)
        size = low if low == high else f"{low} to {high}"
        yield f"The smallest true {what} that these seeds find in 80 % of sweeps is {size}."
        yield from _sign_flips(judged, what, len(rows))
    if (contrasts.loc[contrasts["seeds"] > 1, "verdict"] == Interaction.UNDECIDED).any():
        yield "An undecided interaction may exist: undecided does not mean that effects are additive."
    if max(main_effects["pairs"].max(), contrasts["seeds"].max()) < 2:
        yield "With one seed, an effect cannot be told from seed noise."


def _sign_flips(judged: pd.DataFrame, what: str, tests: int) -> Iterator[str]:
    """The verdicts that assume normal noise without a check, and those that the sign-flip test does not confirm."""
    judged = judged.assign(
        missing=[sign_flip_seeds(tests, a) - n for a, n in zip(judged["alpha"], judged["seeds"], strict=True)]
    )
    called = judged[judged["verdict"].isin([*DIFFERENT, Interaction.INTERACT])]
    if (called["missing"] > 0).any():
        more = plural(int(called["missing"].max()), "more seed")
        yield f"Each {what} that was found rests on normal seed noise; {more} would check it by the sign-flip test."
    denied = called[(called["missing"] <= 0) & (called["sign_flip_holm"] > ALPHA)]
    if len(denied):
        names = listed(f"{row['name']} (p {chance(row['sign_flip_holm'])})" for _, row in denied.iterrows())
        yield f"The sign-flip test, which does not assume normal noise, does not confirm the {what} of {names}."


def _missing(found: Grid) -> Iterator[str]:
    """The arms that lack a result for a seed that another arm has, and those that diverged."""
    diverged = found.diverged.reshape(found.arms.size, len(found.seeds))
    lost_by = {str(name): mine.sum() for name, mine in zip(found.arms.ravel(), diverged, strict=True) if mine.any()}
    if lost_by:
        said = listed(f"{plural(int(count), 'run')} of {name}" for name, count in lost_by.items())
        yield (
            f"Diverged: {said}. These count with their loss before the first step; interactions that need them are "
            "undecided, and the figure leaves them out."
        )
    has = ~np.isnan(found.values.reshape(found.arms.size, len(found.seeds)))
    if not has.any():
        return
    names = [str(name) for name in found.arms.ravel()]
    none = [name for name, mine in zip(names, has, strict=True) if not mine.any()]
    if none:
        yield f"No complete confirm run: {listed(none)}. Results that need such an arm are left out ({NOTHING})."
    lacking: dict[str, list[str]] = {}
    for name, mine in zip(names, has, strict=True):
        lost = [str(seed) for seed, lack in zip(found.seeds, has.any(axis=0) & ~mine, strict=True) if lack]
        if mine.any() and lost:
            lacking.setdefault(f"{noun(len(lost), 'seed')} {listed(lost)}", []).append(name)
    if lacking:
        said = "; ".join(f"{seeds} of {listed(arms)}" for seeds, arms in lacking.items())
        yield f"Not complete: {said}."
