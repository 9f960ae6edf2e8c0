"""The section on the search inside each arm: was the space wide enough, and were there enough trials?

Explore trials are described here but not ranked: the result of an arm is that of its confirm runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from harness.analysis.comparison import metric_name, unit, value_name
from harness.analysis.evidence import Evidence
from harness.analysis.search_quality import EDGE, Floats, Nearness, place
from harness.analysis.trials import ArmTrials, Space, has_order, rate_range
from harness.config.fields import short_name
from harness.config.samplers import SAMPLERS
from harness.core import metrics
from harness.core.outcomes import Outcome
from harness.core.text import listed, plural
from harness.report.figures.registry import draw
from harness.report.sections.section import Section
from harness.report.tables.runs import best_table
from harness.report.tables.table import ARM, Cell, Column, Row, Table
from harness.report.text.names import some
from harness.report.text.numbers import NOTHING, number, setting

if TYPE_CHECKING:
    from harness.analysis.importance import Importance


_CHOSEN: Final = (
    "The configuration of each arm: that of its explore trial with the lowest {}. That value was selected, so it is "
    "optimistic; the results are those of the confirm runs."
)


def search_section(evidence: Evidence) -> Section | None:
    """The section on the search inside each arm; None if nothing was tuned or there is no trial."""
    if not evidence.trials:
        return None
    record, metric, tune = evidence.record, evidence.metric, evidence.space
    found, flips = list(evidence.trials.values()), evidence.crossings
    words = (
        _sampler_words(evidence),
        _edge_words(found, tune),
        _diverged_words(found),
        _order_words(evidence.expected_best, flips) if evidence.ranked else "",
        _importance_words(found, evidence.importances),
    )
    return Section(
        anchor="search",
        heading="The search inside each arm",
        text=tuple(sentence for sentence in words if sentence),
        drawings=draw("search", evidence),
        tables=(
            (best_table(evidence, list(record.tune)), _CHOSEN.format(metric_name(metric))),
            (search_table(found, tune, int(record.study["trials"]), metric), _table_note(found, tune, metric)),
        ),
    )


def _sampler_words(evidence: Evidence) -> str:
    """How many points were chosen at random, for a sampler that learns from results."""
    study, counts = evidence.record.study, evidence.unmodelled
    if not counts:
        return ""
    name = str(study["sampler"]).upper()
    if all(count >= len(evidence.trials[arm].run_ids) for arm, count in counts.items()):
        return f"All points were random: {name} used no result of an earlier trial."
    shares = {f"{count} of {len(evidence.trials[arm].run_ids)}" for arm, count in counts.items()}
    if len(shares) == 1:
        where = " in each arm" if len(counts) > 1 else ""
        words = f"{shares.pop()} points{where} were random; {name} chose the others from earlier results."
    else:
        each = [f"{count} of {len(evidence.trials[arm].run_ids)} in {arm}" for arm, count in counts.items()]
        words = f"Random points: {some(each, 'arms')}; {name} chose the others from earlier results."
    choices = [short_name(path) for path, dimension in evidence.record.tune.items() if "choice" in dimension]
    if choices and SAMPLERS[str(study["sampler"])].random_choices:
        words += f" It draws choices ({listed(choices)}) at random in every trial."
    return words


def _edge_words(found: Sequence[ArmTrials], tune: Space) -> str:
    sides = {trials.arm: [f"{short_name(path)} {edge.side}" for path, edge in trials.edges.items()] for trials in found}
    at_edge = [f"{arm} ({listed(where)})" for arm, where in sides.items() if where]
    without = [trials.arm for trials in found if not trials.complete]
    words = []
    if at_edge:
        words.append(f"The best trial lies at an edge of the search space in {some(at_edge, 'arms')}.")
    elif len(without) < len(found) and any(has_order(dimension) for dimension in tune.values()):
        words.append("No arm's best trial lies at an edge of the search space.")
    if without:
        words.append(f"No trial is complete in {some(without, 'arms')}.")
    return " ".join(words)


def _diverged_words(found: Sequence[ArmTrials]) -> str:
    lost = [trials for trials in found if trials.number_of(Outcome.DIVERGED)]
    if not lost:
        return "No trial diverged."
    shares = [f"{trials.number_of(Outcome.DIVERGED)} of {trials.ended} in {trials.arm}" for trials in lost]
    near = [(trials.arm, nearness) for trials in lost if (nearness := trials.nearness) is not None]
    touched = [arm for arm, nearness in near if nearness.is_near]
    if touched:
        where = f"; the best trial lies next to diverged ones in {some(touched, 'arms')}"
    else:
        where = "; none of them is near the best trial of its arm" if near else ""
    return f"Trials that diverged: {some(shares, 'arms')}{where}."


def _order_words(lines: Mapping[str, Floats], flips: Sequence[tuple[str, str, int]]) -> str:
    """Whether the order of the arms depends on the number of trials."""
    lengths = [len(line) for line in lines.values() if len(line)]
    if len(lengths) < 2 or min(lengths) < 2:
        return ""
    if not flips:
        return "The order of the arms by the expected best of k trials is the same for every k."
    pairs = len(lengths) * (len(lengths) - 1) // 2
    if pairs == 1:
        return "Which arm has the lower expected best of k trials depends on k."
    leaders = _leaders(lines)
    front = f", and so does the best arm: {', then '.join(leaders)}" if len(leaders) > 1 else ""
    kept = "" if len(leaders) > 1 else f"; {leaders[0]} is best for every k"
    return (
        f"The order by expected best of k trials depends on k for {len(flips)} of {pairs} pairs of arms{front}{kept}."
    )


def _leaders(lines: Mapping[str, Floats]) -> list[str]:
    """The arms with the lowest expected best of k trials for some k, in the order of k, up to the fewest trials."""
    lines = {arm: line for arm, line in lines.items() if len(line)}
    shared = min(len(line) for line in lines.values())
    return list(dict.fromkeys(min(lines, key=lambda arm: float(lines[arm][k])) for k in range(shared)))


def _importance_words(found: Sequence[ArmTrials], ranks: Mapping[str, Importance | None]) -> str:
    short = []
    for trials in found:
        rank = ranks.get(trials.arm)
        if trials.arm in ranks and rank is None:
            short.append(f"{trials.arm} ({plural(len(trials.complete), 'trial')})")
        elif rank is not None and not rank.enough:
            short.append(f"{trials.arm} (out-of-bag R² {number(rank.r2, 2)} from {plural(rank.trials, 'trial')})")
    return f"Too few trials to rank dimensions in {some(short, 'arms')}." if short else ""


def search_table(found: Sequence[ArmTrials], tune: Space, asked: int, metric: str = metrics.VAL_LOSS) -> Table:
    """One row per arm: outcomes of its trials, position of the best one, learning-rate sensitivity.

    Args:
        found: the explore trials of each arm.
        tune: the search space.
        asked: trials per arm in the spec.
        metric: the metric that compares the arms.
    """
    name = value_name(metric)
    lost = any(trials.number_of(Outcome.DIVERGED) for trials in found)
    columns: list[tuple[Column, list[Cell]]] = [
        (Column(ARM, numeric=False), [Cell(trials.arm) for trials in found]),
        (Column("Planned"), [_count(asked) for _ in found]),
        (Column("Complete"), [_count(trials.number_of(Outcome.COMPLETE)) for trials in found]),
        (Column("Pruned"), [_count(trials.number_of(Outcome.PRUNED)) for trials in found]),
        (Column("Diverged"), [_share(trials) for trials in found]),
        (Column("Failed"), [_count(trials.failed) for trials in found]),
    ]
    if any(trials.number_of() for trials in found):
        columns.append((Column("Running"), [_count(trials.number_of()) for trials in found]))
    best = [float(trials.losses.min()) if trials.complete else math.nan for trials in found]
    columns.append((Column(f"Best val {name}"), [_figure(loss, 4) for loss in best]))
    for path in tune:
        if has_order(tune[path]):
            columns.append((Column(f"{short_name(path)}, 0–1"), [_place(trials, path) for trials in found]))
    if lost:
        columns.append((Column("Nearest diverged"), [_nearest(trials.nearness) for trials in found]))
    if rate_range(tune):
        columns.append((Column("LR sensitivity"), [_figure(trials.sensitivity, 3) for trials in found]))
    rows = zip(*(cells for _, cells in columns), strict=True)
    return Table(
        tuple(column for column, _ in columns),
        tuple(Row(cells, trials.run_ids) for cells, trials in zip(rows, found, strict=True)),
    )


def _count(size: int) -> Cell:
    return Cell(str(size), size)


def _figure(value: float, decimals: int) -> Cell:
    return Cell(number(value, decimals), None if math.isnan(value) else value)


def _share(trials: ArmTrials) -> Cell:
    lost = trials.number_of(Outcome.DIVERGED)
    share = lost / trials.ended if lost else 0.0
    return Cell(f"{lost} ({100 * share:.0f} %)" if lost else "0", share)


def _place(trials: ArmTrials, path: str) -> Cell:
    """The position of the best trial in a dimension with an order."""
    where = None if trials.best is None else place(trials.best[path], trials.tune[path])
    if where is None:
        return Cell(NOTHING)
    edge = trials.edges.get(path)
    word = "" if edge is None else f" {edge.side} edge{', strong' if edge.strong else ''}"
    return Cell(number(where, 2) + word, where)


def _from_zero(dimension: Mapping[str, Sequence[Any]]) -> bool:
    """Whether the low end is 0; tuned settings cannot be negative."""
    (values,) = dimension.values()
    return bool(min(values) == 0)


def _nearest(found: Nearness | None) -> Cell:
    if found is None:
        return Cell(NOTHING)
    return Cell(number(found.distance, 2) + (", near" if found.is_near else ""), found.distance)


def _table_note(found: Sequence[ArmTrials], tune: Space, metric: str) -> str:
    """The note that explains the columns of the table."""
    words = [
        "Planned: trials per arm in the spec. Pruned: stopped early by the study, without a result. Diverged: also as "
        "a share of complete, pruned and diverged trials. Failed: out of memory, an exception or an interruption.",
        f"Best: the lowest final {metric_name(metric)} of a complete trial; it was selected, so it is optimistic and "
        "not a result.",
    ]
    if any(has_order(dimension) for dimension in tune.values()):
        words.append(
            "0–1: the position of the best trial between the low and the high end of the searched range, on its own "
            f"scale. The outer {100 * EDGE:.0f} % on either side are an edge; it is strong if at least three of the "
            "five best trials lie there (after Google's tuning playbook)."
        )
    bounded = [short_name(path) for path, dimension in tune.items() if has_order(dimension) and _from_zero(dimension)]
    if bounded:
        words.append(f"The low end of {listed(bounded)} is 0, so the search cannot be extended below it.")
    if any(trials.number_of(Outcome.DIVERGED) for trials in found):
        words.append(
            "Nearest diverged: the distance from the best trial to the nearest diverged one, with every dimension "
            "scaled to 0–1 and different unordered options 1 apart. Near: no farther than the median distance between "
            f"neighbouring trials, or than {EDGE}."
        )
    rates = rate_range(tune)
    if rates:
        mixed = " Other tuned dimensions vary at the same time and add to it." if len(tune) > 1 else ""
        words.append(
            "LR sensitivity: learning-rate sensitivity, the average loss above the best one over log learning rates "
            f"from {setting(rates[0])} to {setting(rates[1])}, in {unit(metric)} (Wortsman et al. 2023); a diverged "
            f"trial counts as an untrained model. It is 0 if the learning rate does not matter.{mixed}"
        )
    return " ".join(words)
