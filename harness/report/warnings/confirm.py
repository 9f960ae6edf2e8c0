"""Warnings about the confirm runs: missing runs, seeds, pairs and training length."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from harness.analysis.columns import SEED, numbers, training_seeds
from harness.analysis.divergence import DIVERGED
from harness.analysis.evidence import Evidence
from harness.analysis.verdicts import Verdict
from harness.config.objective import TOKENIZER
from harness.core import metrics
from harness.core.outcomes import Outcome
from harness.core.text import listed, plural
from harness.report.text.names import named, seed_numbers, seeds_named, unplanned_named
from harness.report.text.numbers import count
from harness.report.warnings.kinds import Detector, ReportWarning, WarningKind

_LOST: Final = (Outcome.OOM, Outcome.FAILED)
_RESULTS: Final = (Outcome.COMPLETE, Outcome.DIVERGED)
# Parameters that decide the number of tokens in an epoch of training.
_EPOCHS: Final = (
    *("arm", TOKENIZER, "train.budget.epochs"),
    *("train.batch_tokens", "train.batch_size", "model.context_length"),
)
# Columns that give the planned and the actual training length of a run.
_BUDGETS: Final = tuple(f"train.budget.{kind}" for kind in ("tokens", "steps", "flops"))
_LENGTH: Final = ("seed", "trial_number", "tokens", "flops_per_token", *_EPOCHS, *_BUDGETS)


def _running(sweep: Evidence) -> Iterator[ReportWarning]:
    running = int(sweep.runs["outcome"].isna().sum())
    if running:
        yield ReportWarning(
            WarningKind.RUNNING,
            f"{plural(running, 'run')} had not ended when this report was written. The verdicts may still change: "
            "write the report again when the sweep is finished.",
        )


def _seeds(runs: pd.DataFrame, arm: str) -> set[int]:
    return {int(seed) for seed in runs["seed"][runs["arm"] == arm].dropna()}


def _unfinished(sweep: Evidence) -> Iterator[ReportWarning]:
    """Arms without a result for some of their seeds. Divergence is a result, which `_survivors` reports."""
    ended = sweep.confirmed[sweep.confirmed["outcome"].isin(_RESULTS)]
    have = {arm: len(_seeds(ended, arm)) for arm in sweep.arms}
    complete = {arm: len(_seeds(sweep.verdict_runs, arm)) for arm in sweep.arms}
    want = sweep.looks[-1]
    rows = sweep.compared.set_index("arm")
    if sweep.adaptive:  # decided arms need no more seeds
        open_ = [arm for arm in rows.index if rows.loc[arm, "verdict"] == Verdict.UNDECIDED and have[arm] < want]
        short = [*open_, *(arm for arm in sweep.arms if have[arm] < sweep.looks[0] and arm not in open_)]
        asked = f"{sweep.looks[0]} to {want} confirm runs per arm, all of them if the verdict stays undecided"
    else:
        short = [arm for arm in sweep.arms if have[arm] < want]
        asked = f"{plural(want, 'confirm run')} per arm"
    if short:
        shown = listed(f"{arm} ({complete[arm]})" for arm in short)
        yield ReportWarning(
            WarningKind.UNFINISHED,
            f"The spec asks for {asked}; fewer are complete for {shown}. The verdicts are based on fewer runs than "
            "planned: run the command again to train the missing ones.",
        )


def _no_result(sweep: Evidence) -> Iterator[ReportWarning]:
    without = [arm for arm in sweep.arms if not _seeds(sweep.verdict_runs, arm)]
    unknown = sweep.record.baseline not in set(sweep.counted["arm"])
    if unknown and len(without) < len(sweep.arms):
        yield ReportWarning(
            WarningKind.NO_BASELINE,
            f"The baseline {sweep.record.baseline} has no complete confirm run, so no arm can be compared. Finish it, "
            "or name another arm as the baseline.",
        )
    for arm in without:
        for runs, what in ((sweep.confirmed, "confirm run"), (sweep.searched, "explore trial")):
            ended = runs.loc[runs["arm"] == arm, "outcome"].dropna()
            if len(ended) and (ended == Outcome.DIVERGED).all():
                yield ReportWarning(
                    WarningKind.DIVERGED_ARM,
                    f"{arm} has no trained model because its training diverged ({plural(len(ended), what)}). "
                    "Divergence is a result of its settings, not missing data: report it, or tune the arm until it "
                    "trains.",
                )
                break


def _survivors(sweep: Evidence) -> Iterator[ReportWarning]:
    """Arms of which some runs diverged, or have no result."""
    for arm in sweep.arms:
        kept = _seeds(sweep.verdict_runs, arm)
        if not kept:
            continue
        diverged = _seeds(sweep.counted[sweep.counted[DIVERGED].astype(bool)], arm)
        if diverged:
            yield ReportWarning(
                WarningKind.SURVIVORS,
                f"{arm} diverged on {seeds_named(diverged)}. The validation loss and the verdict count these runs as "
                "untrained models. Everything else, such as the test loss and the curves, is over the "
                f"{plural(len(kept), 'seed')} that survived, so it is too good: find settings at which the arm trains.",
            )
        parts = []
        for outcome in _LOST:
            lost = _seeds(sweep.confirmed[sweep.confirmed["outcome"] == outcome], arm) - kept
            if lost:
                parts.append(f"{seeds_named(list(lost))} ({outcome})")
        if parts:
            yield ReportWarning(
                WarningKind.SURVIVORS,
                f"{arm}: the mean leaves out {listed(parts)} and is over the {plural(len(kept), 'seed')} that "
                "survived, so it may be too good: run the failed ones again.",
            )


def _pruned(sweep: Evidence) -> Iterator[ReportWarning]:
    pruned = sweep.confirmed[sweep.confirmed["outcome"] == Outcome.PRUNED]
    for arm, runs in pruned.groupby("arm", sort=False):
        yield ReportWarning(
            WarningKind.PRUNED_CONFIRM,
            f"{arm}: confirm runs were pruned ({seeds_named(runs['seed'])}). Pruning removes the worse runs, so the "
            "remaining ones look better than the arm is: train every confirm run to its end.",
        )


def _searched_seed(sweep: Evidence) -> Iterator[ReportWarning]:
    found = []
    for arm in sweep.arms:
        searched = set(training_seeds(sweep.searched)[sweep.searched["arm"] == arm])
        mine = sweep.verdict_runs_of[arm]
        stale = mine[training_seeds(mine).isin(searched)]
        if len(stale):
            found.append(f"{arm} on {seeds_named(stale['seed'])}")
    if found:
        yield ReportWarning(
            WarningKind.SEARCHED_SEED,
            f"Confirmed on the seed of the search: {named(found)}. The configuration was selected for its low loss "
            "with this seed, so that result is too good: leave the seed out, or confirm on fresh seeds.",
        )


def _false_pairs(sweep: Evidence) -> Iterator[ReportWarning]:
    """Runs trained with another seed than the one they are paired by; in an A/A sweep that is intended."""
    copies = {arm for names in sweep.equal_arms for arm in names[1:]}
    own, label = numbers(sweep.verdict_runs, SEED), numbers(sweep.verdict_runs, "seed")
    wrong = sweep.verdict_runs[own.notna() & (own != label) & ~sweep.verdict_runs["arm"].isin(copies)]
    for arm, runs in wrong.groupby("arm", sort=False):
        yield ReportWarning(
            WarningKind.FALSE_PAIRS,
            f"{arm}: the runs paired as {seeds_named(runs['seed'])} were trained with {SEED} "
            f"{seed_numbers(runs[SEED])}. Such pairs share neither initial weights nor data order, so the "
            "paired test is not valid: train the arm with the seeds of the other arms.",
        )


def _counted_twice(sweep: Evidence) -> Iterator[ReportWarning]:
    """One result counted under several seeds: runs trained with the same seed, or with identical losses."""
    for arm, mine in sweep.verdict_runs_of.items():
        seeds, losses = training_seeds(mine), numbers(mine, metrics.VAL_LOSS)
        twins = mine[seeds.duplicated(keep=False) | (losses.duplicated(keep=False) & np.isfinite(losses))]
        if len(twins):
            yield ReportWarning(
                WarningKind.COUNTED_TWICE,
                f"{arm}: {seeds_named(twins['seed'])} are the same run (same training seed or identical loss) but "
                "counted as several. The intervals are too narrow: find out why the seed has no effect.",
            )


def _unpaired(sweep: Evidence) -> Iterator[ReportWarning]:
    """Runs without a partner, although both arms have enough runs."""
    have = {arm: _seeds(sweep.verdict_runs, arm) for arm in sweep.arms}
    base = have.get(sweep.record.baseline, set())
    for arm in sweep.others:
        fewer = min(len(have[arm]), len(base))
        extra = not sweep.adaptive and have[arm] != base and fewer >= sweep.looks[-1]
        if len(have[arm] & base) < fewer or (fewer and extra):
            alone = sorted(have[arm] ^ base)
            yield ReportWarning(
                WarningKind.UNPAIRED,
                f"{arm} and the baseline {sweep.record.baseline} were not confirmed on the same seeds: "
                f"{seeds_named(alone)} {'are' if len(alone) > 1 else 'is'} complete in only one of them, which leaves "
                f"{plural(len(have[arm] & base), 'pair')}. Means over different seeds are not comparable: train the "
                "missing runs.",
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
            f"Verdicts should be read after {looks} seeds, but some arms have another number ({shown}): the error rate "
            "holds only if the sweep stops at a planned look. Run the command again to reach the next one.",
        )


def _short(sweep: Evidence) -> Iterator[ReportWarning]:
    """Complete runs that trained for less than their budget, or less than others with the same number of epochs."""
    found: list[str] = []
    for runs, what in ((sweep.verdict_runs, ""), (sweep.complete_trials, "trial ")):
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
            f"Marked complete, but ended before the budget was used up: {named(found)}. Their learning rate did not "
            "decay as in the other runs, so their losses are not comparable: train them again.",
        )


def _unplanned(sweep: Evidence) -> Iterator[ReportWarning]:
    if sweep.unplanned:
        yield ReportWarning(WarningKind.UNPLANNED, unplanned_named(sweep.runs, sweep.unplanned))


def tokens_per_step(run: Mapping[Hashable, Any]) -> float:
    """Tokens per optimizer step of a run; 0 if unknown."""
    return _number(run, "train.batch_tokens") or _number(run, "train.batch_size") * _number(run, "model.context_length")


def _alike(run: Mapping[Hashable, Any]) -> tuple[str, ...]:
    """A key that is equal for runs whose epochs have the same number of tokens."""
    return tuple(str(run.get(name)) for name in _EPOCHS)


def _due(run: Mapping[Hashable, Any], longest: float) -> float:
    """A run's budget in tokens; for epochs, the tokens of the longest run like it; 0 if unknown."""
    if tokens := _number(run, "train.budget.tokens"):
        return tokens
    if steps := _number(run, "train.budget.steps"):
        return steps * tokens_per_step(run)
    flops, per_token = _number(run, "train.budget.flops"), _number(run, "flops_per_token")
    if flops and per_token:
        return flops / per_token
    return longest if _number(run, "train.budget.epochs") else 0.0


def _number(run: Mapping[Hashable, Any], column: str) -> float:
    """A number of one run; 0 if it is missing."""
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
    _unplanned,
)
