"""The analysis plan of a sweep, fixed before its first run, and the changes made to it later.

The tracker stores the plan with the parent run before any trial exists and never overwrites it. A plan fitted to the
results would prove nothing, so the report lists every later change and how many results existed at the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from harness.analysis.plan import METHOD_VERSION, TESTS, plan_digest
from harness.config.fields import format_value
from harness.core.text import listed, plural
from harness.report.text.numbers import rounded, short_id

if TYPE_CHECKING:
    from harness.tracking import PlanChange, SweepRecord

# How a change that was made after seeing results affects the conclusions, by field of the plan.
_RESULTS_SEEN: Final = "{their} may have been seen, and the p-values do not account for that"
_MORE_TRIALS: Final = (
    "confirm runs do not affect the choice of a configuration, but an arm whose best one changed was confirmed again"
)
_OTHER_BASELINE: Final = "{their} may have been seen, and every comparison depends on the baseline"
_OTHER_DELTA: Final = "{their} may have been seen, and verdicts of no difference depend on it"

# Fields that follow from the method and the spec together, in words.
_RULES: Final[Mapping[str, str]] = {
    "metric": "The metric of the verdicts was",
    "arms": "The arms were",
    "selection": "The selection of configurations was",
    "test": "The test was",
    "correction": "The correction was",
    "alpha": "The level of the test was",
    "primary_split": "The split used for the verdicts was",
    "test_split": "The use of the test split was",
}
# Fields that the summary of a plan needs.
_SUMMARY: Final = frozenset(
    {"method", "looks", "seeds", "trials", "arms", "metric", "test", "baseline", "correction", "alpha", "delta"}
)
_NAMED: Final = ("seeds", "looks", "baseline", "trials", "delta", *_RULES)


def deviations(record: SweepRecord) -> list[str]:
    """One sentence for each change after the first plan was stored, with its consequence for the conclusions.

    Rewording the question is not a deviation. A sweep started by an older harness without a plan has no deviations
    until a plan is stored with it.
    """
    found, plan = [], record.first_plan
    if plan and record.plan_sha256 and plan_digest(plan) != record.plan_sha256:
        found.append("The SHA-256 of the stored analysis plan is not the one recorded before the first run.")
    for change in record.plan_changes:
        if plan:
            found += _changed(plan, change)
        else:
            found.append(_change_sentence("The first analysis plan was stored", change, _RESULTS_SEEN))
        plan = change.plan
    planned = record.first_plan.get("method")
    if planned is not None and planned not in TESTS:
        found.append(
            f"The sweep was planned with method version {planned} and is reported with version {METHOD_VERSION}: the "
            "rule that turns runs into verdicts is not the planned one."
        )
    return found


def plan_lines(record: SweepRecord) -> list[tuple[str, str]]:
    """Label and value of the report's lines about the plan: its digest, when it was stored, and its main points."""
    plan = record.first_plan
    if not plan:
        return [("analysis plan", "none was stored before the first run")]
    stored = f"stored {record.started:%Y-%m-%d %H:%M} UTC, before the first run"
    if _SUMMARY - plan.keys():
        return [("analysis plan", f"sha256 {short_id(plan_digest(plan))}, of another version; {stored}")]
    changed = f"; changed {plural(len(record.plan_changes), 'time')} since" if record.plan_changes else ""
    return [
        ("analysis plan", f"sha256 {short_id(plan_digest(plan))}, method {plan['method']}, {stored}{changed}"),
        ("planned", _summary(plan)),
    ]


def _changed(old: Mapping[str, Any], change: PlanChange) -> Iterator[str]:
    """The changes from one plan to the next, the most important first."""
    new = change.plan
    different = {name for name in _NAMED if name in old and name in new and old[name] != new[name]}
    if "looks" in different and max(len(old["looks"]), len(new["looks"])) > 1:
        what = f"Seeds per arm were changed from {_looks(old['looks'])} to {_looks(new['looks'])}"
        yield _change_sentence(what, change, _RESULTS_SEEN)
    elif "seeds" in different:
        yield _change_sentence(_raised_or_lowered("Seeds per arm", old["seeds"], new["seeds"]), change, _RESULTS_SEEN)
    if "baseline" in different:
        what = f"The baseline was changed from {old['baseline']} to {new['baseline']}"
        yield _change_sentence(what, change, _OTHER_BASELINE)
    if "trials" in different:
        what = _raised_or_lowered("Explore trials per arm", old["trials"], new["trials"])
        yield _change_sentence(what, change, _MORE_TRIALS if new["trials"] > old["trials"] else "")
    if "delta" in different:
        sizes = f"{format_value(old['delta'])} to {format_value(new['delta'])}"
        yield _change_sentence(f"The smallest difference that matters was changed from {sizes}", change, _OTHER_DELTA)
    if old.get("method") != new.get("method"):  # `deviations` reports another method once for the whole sweep
        return
    for name, words in _RULES.items():
        if name in different:
            yield _change_sentence(
                f"{words} changed from {_shown(old[name])} to {_shown(new[name])}", change, _RESULTS_SEEN
            )
    explained = different or old.get("question") != new.get("question")
    if not explained and old.get("spec_sha256") != new.get("spec_sha256"):
        yield _change_sentence("The spec was changed in a field that the plan does not list", change, _RESULTS_SEEN)


def _change_sentence(what: str, change: PlanChange, consequence: str) -> str:
    """A sentence with the change, the number of results at the time, and the consequence."""
    seen = change.confirm_runs
    if not seen:
        return f"{what} before any confirm run was complete."
    was, their = ("was", "its result") if seen == 1 else ("were", "their results")
    follows = f": {consequence.format(their=their)}" if consequence else ""
    return f"{what} after {plural(seen, 'confirm run')} {was} complete{follows}."


def _raised_or_lowered(what: str, old: int, new: int) -> str:
    return f"{what} were {'raised' if new > old else 'lowered'} from {old} to {new}"


def _looks(looks: Sequence[int]) -> str:
    """`4 (fixed)`, `3, 6 and 12 (adaptive)`."""
    return f"{listed(str(seeds) for seeds in looks)} ({'adaptive' if len(looks) > 1 else 'fixed'})"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return listed(f"“{item}”" for item in value) if value else "nothing"
    return f"“{value}”" if isinstance(value, str) else str(value)


def _summary(plan: Mapping[str, Any]) -> str:
    """A plan in one line."""
    looks = plan["looks"]
    seeds = f"{_looks(looks)} seeds" if len(looks) > 1 else plural(plan["seeds"], "seed")
    trials = [plural(plan["trials"], "explore trial")] if plan["trials"] else []
    each = " per arm" if len(plan["arms"]) > 1 else ""
    parts = [f"{plan['metric']} of {plural(len(plan['arms']), 'arm')}", f"{listed([*trials, seeds])}{each}"]
    if not plan["test"].startswith("none"):
        parts += [f"baseline {plan['baseline']}", plan["test"], plan["correction"]]
        parts += [f"α = {rounded(plan['alpha'])}", f"δ = {rounded(plan['delta'])}"]
    return "; ".join(parts)
