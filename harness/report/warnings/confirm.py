"""What may be wrong with the confirm runs: which there are, on which seeds, and how long they trained."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from harness.analysis.columns import SEED, numbers, training_seeds
from harness.analysis.evidence import Evidence
from harness.analysis.verdicts import Verdict
from harness.core import metrics
from harness.core.outcomes import Outcome
from harness.core.text import listed, plural
from harness.report.text.names import named, seeds_named
from harness.report.text.numbers import count
from harness.report.warnings.kinds import Detector, ReportWarning, WarningKind

_LOST: Final = (Outcome.DIVERGED, Outcome.OOM, Outcome.FAILED)
_RESULTS: Final = (Outcome.COMPLETE, Outcome.DIVERGED)
# What decides how many tokens an epoch's training has.
_EPOCHS: Final = ("arm", "train.budget.epochs", "train.batch_tokens", "train.batch_size", "model.context_length")
# What tells how long a run should have trained, and how long it did.
_BUDGETS: Final = tuple(f"train.budget.{kind}" for kind in ("tokens", "steps", "flops"))
_LENGTH: Final = ("seed", "trial_number", "tokens", "flops_per_token", *_EPOCHS, *_BUDGETS)


def _running(sweep: Evidence) -> Iterator[ReportWarning]:
    running = int(sweep.runs["outcome"].isna().sum())
    if running:
        yield ReportWarning(
            WarningKind.RUNNING,
            f"{plural(running, 'run')} had not ended when this was written. The verdicts may still change: write the "
            "report again when the sweep is over.",
        )


def _seeds(runs: pd.DataFrame, arm: str) -> set[int]:
    return {int(seed) for seed in runs["seed"][runs["arm"] == arm].dropna()}


def _unfinished(sweep: Evidence) -> Iterator[ReportWarning]:
    """Arms without a result on some of their seeds. To diverge is one, of which `_survivors` tells."""
    ended = sweep.confirmed[sweep.confirmed["outcome"].isin(_RESULTS)]
    have = {arm: len(_seeds(ended, arm)) for arm in sweep.arms}
    complete = {arm: len(_seeds(sweep.verdict, arm)) for arm in sweep.arms}
    want = sweep.looks[-1]
    rows = sweep.comparison.set_index("arm")
    if sweep.adaptive:  # who is decided is done
        open_ = [arm for arm in rows.index if rows.loc[arm, "verdict"] == Verdict.UNDECIDED and have[arm] < want]
        short = [*open_, *(arm for arm in sweep.arms if have[arm] < sweep.looks[0] and arm not in open_)]
        asked = f"{sweep.looks[0]} to {want} confirm runs per arm, all of them where the verdict stays open"
    else:
        short = [arm for arm in sweep.arms if have[arm] < want]
        asked = f"{plural(want, 'confirm run')} per arm"
    if short:
        shown = listed(f"{arm} ({complete[arm]})" for arm in short)
        yield ReportWarning(
            WarningKind.UNFINISHED,
            f"The spec asks for {asked}; fewer are complete for {shown}. The verdicts rest on less than was planned: "
            "run the command again, which trains what is missing.",
        )


def _no_result(sweep: Evidence) -> Iterator[ReportWarning]:
    without = [arm for arm in sweep.arms if not _seeds(sweep.verdict, arm)]
    if sweep.record.baseline in without and len(without) < len(sweep.arms):
        yield ReportWarning(
            WarningKind.NO_BASELINE,
            f"The baseline {sweep.record.baseline} has no complete confirm run, so no arm is compared with anything. "
            "Finish it, or name another arm as the baseline.",
        )
    for arm in without:
        for runs, what in ((sweep.confirmed, "confirm run"), (sweep.searched, "explore trial")):
            ended = runs.loc[runs["arm"] == arm, "outcome"].dropna()
            if len(ended) and (ended == Outcome.DIVERGED).all():
                yield ReportWarning(
                    WarningKind.DIVERGED_ARM,
                    f"{arm} has no result because its training diverged ({plural(len(ended), what)}). That is an "
                    "outcome of its settings, not a gap in a table: report it as one, or tune the arm until it trains.",
                )
                break


def _survivors(sweep: Evidence) -> Iterator[ReportWarning]:
    for arm in sweep.arms:
        kept = _seeds(sweep.verdict, arm)
        if not kept:
            continue
        parts = []
        for outcome in _LOST:
            lost = _seeds(sweep.confirmed[sweep.confirmed["outcome"] == outcome], arm) - kept
            if lost:
                parts.append(f"{seeds_named(list(lost))} ({outcome})")
        if parts:
            yield ReportWarning(
                WarningKind.SURVIVORS,
                f"{arm}: the mean leaves out {listed(parts)} and is over the {plural(len(kept), 'seed')} that "
                "survived, which flatters the arm. Count what diverged against it; run again what failed.",
            )


def _pruned(sweep: Evidence) -> Iterator[ReportWarning]:
    pruned = sweep.confirmed[sweep.confirmed["outcome"] == Outcome.PRUNED]
    for arm, runs in pruned.groupby("arm", sort=False):
        yield ReportWarning(
            WarningKind.PRUNED_CONFIRM,
            f"{arm}: confirm runs were pruned ({seeds_named(runs['seed'])}). Pruning takes away the worse runs, so "
            "what is left looks better than the arm is: train every confirm run to its end.",
        )


def _searched_seed(sweep: Evidence) -> Iterator[ReportWarning]:
    found = []
    for arm in sweep.arms:
        searched = set(training_seeds(sweep.searched)[sweep.searched["arm"] == arm])
        mine = sweep.verdict_of[arm]
        stale = mine[training_seeds(mine).isin(searched)]
        if len(stale):
            found.append(f"{arm} on {seeds_named(stale['seed'])}")
    if found:
        yield ReportWarning(
            WarningKind.SEARCHED_SEED,
            f"Confirmed on the seed of the search: {named(found)}. There a configuration was chosen for its low loss, "
            "so that result is selected and too good: leave the seed out, or confirm on fresh ones.",
        )


def _false_pairs(sweep: Evidence) -> Iterator[ReportWarning]:
    """Runs whose seed is not the one they are paired by; in an A/A sweep that is meant."""
    copies = {arm for names in sweep.same for arm in names[1:]}
    own, label = numbers(sweep.verdict, SEED), numbers(sweep.verdict, "seed")
    wrong = sweep.verdict[own.notna() & (own != label) & ~sweep.verdict["arm"].isin(copies)]
    for arm, runs in wrong.groupby("arm", sort=False):
        yield ReportWarning(
            WarningKind.FALSE_PAIRS,
            f"{arm}: what is paired as {seeds_named(runs['seed'])} was trained with {SEED} "
            f"{seeds_named(runs[SEED], '').strip()}. Such pairs share neither initial weights nor order of "
            "data, so the paired test does not hold: train the arm on the seeds of the others.",
        )


def _counted_twice(sweep: Evidence) -> Iterator[ReportWarning]:
    """One training run under several seeds: of the same real seed, or with the same loss to the last digit."""
    for arm, mine in sweep.verdict_of.items():
        seeds, losses = training_seeds(mine), numbers(mine, metrics.VAL_LOSS)
        twins = mine[seeds.duplicated(keep=False) | (losses.duplicated(keep=False) & np.isfinite(losses))]
        if len(twins):
            yield ReportWarning(
                WarningKind.COUNTED_TWICE,
                f"{arm}: {seeds_named(twins['seed'])} are one and the same run, equal in seed or to the last digit of "
                "the loss, but counted as several. The intervals are too narrow: find out why the seed has no effect.",
            )


def _unpaired(sweep: Evidence) -> Iterator[ReportWarning]:
    """Runs without a partner though both arms have enough of them."""
    have = {arm: _seeds(sweep.verdict, arm) for arm in sweep.arms}
    base = have.get(sweep.record.baseline, set())
    for arm in sweep.others:
        fewer = min(len(have[arm]), len(base))
        extra = not sweep.adaptive and have[arm] != base and fewer >= sweep.looks[-1]
        if len(have[arm] & base) < fewer or (fewer and extra):
            alone = sorted(have[arm] ^ base)
            yield ReportWarning(
                WarningKind.UNPAIRED,
                f"{arm} and the baseline {sweep.record.baseline} were not confirmed on the same seeds: "
                f"{seeds_named(alone)} of one or the other {'have' if len(alone) > 1 else 'has'} no partner, which "
                f"leaves {plural(len(have[arm] & base), 'pair')}. Means over different seeds are not comparable: train "
                "the missing partners.",
            )


def _off_look(sweep: Evidence) -> Iterator[ReportWarning]:
    if not sweep.adaptive or sweep.runs["outcome"].isna().any():
        return
    ended = sweep.confirmed[sweep.confirmed["outcome"].isin(_RESULTS)]
    sizes = {arm: len(_seeds(ended, arm)) for arm in sweep.arms}
    off = {arm: size for arm, size in sizes.items() if size and size not in sweep.looks}
    if off:
        shown = listed(f"{arm} {size}" for arm, size in off.items())
        looks = listed(str(look) for look in sweep.looks)
        yield ReportWarning(
            WarningKind.OFF_LOOK,
            f"Verdicts were to be read after {looks} seeds, but some arms have another number ({shown}): the error "
            "rate is only kept where the sweep stops as planned. Run the command again to reach the next look.",
        )


def _short(sweep: Evidence) -> Iterator[ReportWarning]:
    """Runs called complete that trained for less than their budget, or than others with the same number of epochs."""
    found: list[str] = []
    for runs, what in ((sweep.verdict, ""), (sweep.complete_trials, "trial ")):
        rows = runs[[name for name in _LENGTH if name in runs]].to_dict("records")
        longest: dict[tuple[str, ...], float] = {}
        for run in rows:
            longest[_alike(run)] = max(longest.get(_alike(run), 0.0), _number(run, "tokens"))
        for run in rows:
            tokens, due, step = _number(run, "tokens"), _due(run, longest[_alike(run)]), tokens_per_step(run)
            if tokens and step and tokens + step <= due:
                who = f"{what}{run['trial_number']}" if what else seeds_named([run["seed"]])
                found.append(f"{run['arm']}, {who} ({count(tokens)} of {count(due)} tokens)")
    if found:
        yield ReportWarning(
            WarningKind.SHORT,
            f"Called complete, but ended before the budget was spent: {named(found)}. Their learning rate did not come "
            "down as in the other runs, so their losses are not comparable: train them anew.",
        )


def tokens_per_step(run: Mapping[Hashable, Any]) -> float:
    """Tokens of one optimizer step of a run; 0 where they are not known."""
    return _number(run, "train.batch_tokens") or _number(run, "train.batch_size") * _number(run, "model.context_length")


def _alike(run: Mapping[Hashable, Any]) -> tuple[str, ...]:
    """What runs have in common that an epoch gives the same number of tokens."""
    return tuple(str(run.get(name)) for name in _EPOCHS)


def _due(run: Mapping[Hashable, Any], longest: float) -> float:
    """Tokens that a run's budget stands for; for epochs, those of the longest run like it; 0 where nothing tells."""
    if tokens := _number(run, "train.budget.tokens"):
        return tokens
    if steps := _number(run, "train.budget.steps"):
        return steps * tokens_per_step(run)
    flops, per_token = _number(run, "train.budget.flops"), _number(run, "flops_per_token")
    if flops and per_token:
        return flops / per_token
    return longest if _number(run, "train.budget.epochs") else 0.0


def _number(run: Mapping[Hashable, Any], column: str) -> float:
    """A figure of one run; 0 where it has none."""
    value = run.get(column)
    return 0.0 if value is None or pd.isna(value) else float(value)


DETECTORS: Final[tuple[Detector, ...]] = (
    _running,
    _unfinished,
    _no_result,
    _survivors,
    _pruned,
    _searched_seed,
    _false_pairs,
    _counted_twice,
    _unpaired,
    _off_look,
    _short,
)
