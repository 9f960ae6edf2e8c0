"""What the verdicts of a sweep depend on besides its runs, so that a report and a notebook give the same answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from harness.analysis.plan import METHOD_VERSION, known_version
from harness.config.spec import stored_first_seed
from harness.config.study import MAX_SEEDS, StudyConfig

if TYPE_CHECKING:
    from harness.tracking import SweepRecord

_RULES: Final = "harness.rules"  # in `DataFrame.attrs`: parent run → rule, as plain values


@dataclass(frozen=True)
class Rule:
    """The rule of one sweep.

    Attributes:
        arms: names, in the order of the spec.
        baseline: the arm that the others are compared with.
        delta: the smallest difference that matters, in nats per token.
        looks: seeds per arm at each look; empty for one look at all seeds.
        method: version of the test, a key of `harness.analysis.methods.METHODS`.
        tune: dotted path → values of each tuned dimension; a search over tokens decides the metric.
        seeds: of the confirm runs, of all plans of the sweep; empty if they are not known.
        values: arm → its compared values, dotted path → value.
    """

    arms: tuple[str, ...]
    baseline: str
    delta: float
    looks: tuple[int, ...]
    method: str = METHOD_VERSION
    tune: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Rule:
        """A rule from its JSON form, in which tuples are lists."""
        fields: dict[str, Any] = {name: tuple(it) if isinstance(it, list) else it for name, it in plain.items()}
        return cls(**fields)


def rule_of(record: SweepRecord) -> Rule:
    """The rule of a stored sweep, with the method of the plan that was stored before its first run."""
    looks = tuple(record.study.get("looks") or ())
    return Rule(
        arms=tuple(arm.name for arm in record.arms),
        baseline=record.baseline,
        delta=float(record.study.get("delta") or StudyConfig().delta),
        looks=looks if len(looks) > 1 else (),
        method=known_version(record.first_plan.get("method")),
        tune={path: values for path, dimension in record.tune.items() for values in dimension.values()},
        seeds=_planned_seeds(record),
        values={arm.name: dict(arm.values) for arm in record.arms},
    )


def _planned_seeds(record: SweepRecord) -> tuple[int, ...]:
    """The seeds of a sweep's plans: `--set study.seeds=…` may have raised or lowered their number."""
    plans = (record.first_plan, *(change.plan for change in record.plan_changes), record.study)
    counts = [plan.get("seeds") for plan in plans]
    count = max((seeds for seeds in counts if isinstance(seeds, int)), default=0)
    first = stored_first_seed(record.spec_text)
    return () if first is None else tuple(range(first, first + min(count, MAX_SEEDS)))


def attach_rules(runs: pd.DataFrame, rules: Mapping[str, Rule]) -> None:
    """Attach rules to a frame of runs: parent run → rule. pandas copies them to parts of the frame."""
    runs.attrs[_RULES] = {sweep: asdict(rule) for sweep, rule in rules.items()}


def attached_rule(runs: pd.DataFrame) -> Rule | None:
    """The rule of the only sweep of a frame; None if it has runs of several, or no rule is attached."""
    sweeps = runs["sweep"].dropna().unique() if "sweep" in runs else []
    rules = runs.attrs.get(_RULES, {})
    plain = rules.get(sweeps[0]) if len(sweeps) == 1 else None
    return Rule.from_plain(plain) if plain else None
