"""What a reader must know before trusting the comparison: what was fixed, what is missing, what is uneven."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from harness import metrics
from harness.metrics import Outcome, Phase
from harness.report.comparison import complete_confirm_runs, verdict_runs
from harness.report.formats import listed, plural, setting
from harness.report.search import crossings, edges
from harness.spec import short_name

if TYPE_CHECKING:
    from harness.tracking import SweepRecord

_SECTIONS = ("data.", "model.", "train.")
_SEED = "train.seed"


def caveats(record: SweepRecord, runs: pd.DataFrame) -> list[str]:
    """One sentence or two for each thing that limits what the comparison may be taken for."""
    return [
        *_unfinished(record, runs),
        *_untuned(record),
        *_uneven(record, runs),
        *_at_an_edge(record, runs),
        *_lucky(record, runs),
        *_ended_early(record, runs),
        *_also_different(record, runs),
        *_other(record, runs),
    ]


def fixed_settings(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Parameters that neither the arms nor the search changed: path and value, in the order of the configuration."""
    return [(path, setting(values.iloc[0])) for path, values in _parameters(runs) if _constant(values)]


def _parameters(runs: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Every configured parameter over the runs that have any (a run may fail before it knows its own)."""
    paths = [name for name in runs if str(name).startswith(_SECTIONS) and name != _SEED]
    known = runs[runs[paths].notna().any(axis=1)]
    for path in paths:
        if not known.empty:
            yield path, known[path]


def _constant(values: pd.Series) -> bool:
    return bool(values.astype("string").nunique(dropna=False) == 1 and values.notna().all())


def _unfinished(record: SweepRecord, runs: pd.DataFrame) -> Iterator[str]:
    running = int(runs["outcome"].isna().sum())
    if running:
        yield f"{plural(running, 'run')} had not ended when this was written."
    want = int(record.study["seeds"])
    have = verdict_runs(runs)["arm"].value_counts()
    short = [f"{arm.name} ({have.get(arm.name, 0)})" for arm in record.arms if have.get(arm.name, 0) < want]
    if short:
        yield f"The spec asks for {plural(want, 'confirm run')} per arm; fewer are complete for {listed(short)}."


def _untuned(record: SweepRecord) -> Iterator[str]:
    if record.compare and not record.tune:
        names = listed(short_name(path) for path in record.compare)
        yield (
            f"{names} compared, nothing tuned: every arm ran with the same other settings, which may suit one arm "
            "better than another. A difference holds for these settings."
        )


def _uneven(record: SweepRecord, runs: pd.DataFrame) -> Iterator[str]:
    if not record.tune or len(record.arms) < 2:
        return
    explored = runs[runs["phase"] == Phase.EXPLORE]
    complete = explored[explored["outcome"] == Outcome.COMPLETE]
    for word, chosen in (("explore trials", explored), ("complete explore trials", complete)):
        sizes = {arm.name: int((chosen["arm"] == arm.name).sum()) for arm in record.arms}
        if len(set(sizes.values())) > 1:
            shown = listed(f"{arm} {size}" for arm, size in sizes.items())
            yield f"The arms had unequal numbers of {word} ({shown}): more trials find a better configuration by luck."
            return


def _complete_trials(record: SweepRecord, runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The explore trials of each arm that were trained to their end."""
    explored = runs[(runs["phase"] == Phase.EXPLORE) & (runs["outcome"] == Outcome.COMPLETE)]
    for arm in record.arms:
        mine = (
            explored[(explored["arm"] == arm.name) & explored[metrics.VAL_LOSS].notna()] if len(explored) else explored
        )
        if len(mine):
            yield arm.name, mine


def _at_an_edge(record: SweepRecord, runs: pd.DataFrame) -> Iterator[str]:
    for arm, trials in _complete_trials(record, runs):
        tried = trials[list(record.tune)].to_dict("records")
        for edge in edges(tried, trials[metrics.VAL_LOSS], record.tune):
            crowd = ", as do most of its best trials" if edge.strong else ""
            yield (
                f"{arm}: the best {short_name(edge.path)} lies at the {edge.side} end of what was searched{crowd}; a "
                "better one may lie beyond, so widen the range before trusting this arm's result."
            )


def _lucky(record: SweepRecord, runs: pd.DataFrame) -> Iterator[str]:
    losses = {arm: trials[metrics.VAL_LOSS] for arm, trials in _complete_trials(record, runs)}
    for first, second, count in crossings(losses):
        yield (
            f"By the expected best of k explore trials, {first} and {second} change places at k = {count}: which one "
            "the search prefers depends on how long it is."
        )


def _ended_early(record: SweepRecord, runs: pd.DataFrame) -> Iterator[str]:
    for arm in record.arms:
        for phase in Phase:
            mine = runs[(runs["arm"] == arm.name) & (runs["phase"] == phase)]
            sizes = mine["outcome"].value_counts()
            ended = [f"{sizes[outcome]} {outcome}" for outcome in Outcome if outcome in sizes]
            if set(sizes.index) - {Outcome.COMPLETE}:
                yield f"{arm.name}: of {plural(len(mine), f'{phase} run')}, {listed(ended)}."


def _also_different(record: SweepRecord, runs: pd.DataFrame) -> Iterator[str]:
    expected = {*record.compare, *record.tune}
    names = [path for path, values in _parameters(runs) if path not in expected and not _constant(values)]
    if names:
        yield f"Besides what is compared and tuned, runs differ in {listed(names)}."


def _other(record: SweepRecord, runs: pd.DataFrame) -> Iterator[str]:
    older = len(complete_confirm_runs(runs)) - len(verdict_runs(runs)) + int((runs["phase"] == Phase.SUPERSEDED).sum())
    if older:
        yield f"{plural(older, 'older confirm run')} was replaced by a newer one: listed, but not in the comparison."
    for column, what in (("commit", "commits of the code"), ("device", "devices")):
        names = sorted(runs[column].dropna().unique()) if column in runs else []
        if len(names) > 1:
            yield f"Runs come from different {what}: {listed(str(name)[:12] for name in names)}."
    if record.dirty:
        yield "The code had uncommitted changes: the commit alone does not reproduce these runs."
    yield "The intervals are over seeds: they say nothing about another text, another size of model or a longer budget."
