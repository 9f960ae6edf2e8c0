"""The analysis plan: stored before the first run of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from harness.config.fingerprint import decisive, digest_of
from harness.core.text import plural

if TYPE_CHECKING:
    from harness.config.spec import SweepSpec


# Increase it whenever the rule that turns runs into verdicts changes, and keep the old one in
# `harness.analysis.methods`: a sweep is judged by the method of the plan that was stored before its first run.
METHOD_VERSION: Final = "3"

# Version of a method → its test in words, as plans store it.
TESTS: Final[Mapping[str, str]] = {
    "2": "paired t test over seeds, two-sided",
    "3": "paired t test over seeds, two-sided; skewness-adjusted where differences look skewed",
}


def known_version(version: object) -> str:
    """The method of a stored plan; the current one if the plan names none or one that this harness does not know."""
    return version if isinstance(version, str) and version in TESTS else METHOD_VERSION


def analysis_plan(spec: SweepSpec) -> dict[str, Any]:
    """The analysis plan of a spec as plain JSON values: fixed before any run, and a function of the spec alone.

    Returns:
        `method` (`METHOD_VERSION`), `spec_sha256` (of the resolved spec without fields that change no number),
        `question`, `metric`, `baseline` and `arms` (names, in the order of the spec), `trials` (explore trials per
        arm), `selection` (how an arm's configuration is chosen), `seeds` (confirm runs per arm, at most), `looks`
        (seeds per arm at which verdicts are read), `stopping`, `test`, `correction`, `alpha` (of the whole sweep),
        `look_levels` (the level at each look), `delta` (nats per token), `primary_split`, `test_split`.
    """
    from harness.analysis.significance import ALPHA, look_levels  # scipy

    arms = [arm.name for arm in spec.arms()]
    metric, ranked = spec.objective.metric, spec.objective.ranked
    comparisons = len(arms) - 1 if ranked else 0
    several = len(spec.looks) > 1
    why = "arms that are scored on different texts are not ranked" if not ranked else "there is one arm"
    return {
        "method": METHOD_VERSION,
        "spec_sha256": digest_of(decisive(spec.plain())),
        "question": spec.question,
        "metric": metric,
        "baseline": spec.baseline_arm.name,
        "arms": arms,
        "trials": spec.trials,
        "selection": (
            f"lowest final {metric} of the arm's complete explore trials" if spec.tune else "none: nothing is tuned"
        ),
        "seeds": len(spec.seeds),
        "looks": list(spec.looks),
        "stopping": (
            "after each look, more seeds only for arms that are undecided, and the baseline"
            if several
            else "none: every arm gets all seeds"
        ),
        "test": TESTS[METHOD_VERSION] if comparisons else f"none: {why}",
        "correction": f"Holm over {plural(comparisons, 'comparison')}" if comparisons else f"none: {why}",
        "alpha": ALPHA,
        "look_levels": list(look_levels(spec.looks, ALPHA)) if several else [ALPHA],
        "delta": spec.study.delta,
        "primary_split": "validation",
        "test_split": (
            "read once by each confirm run, after its last step; reported, decides nothing"
            if spec.base.data.split.test
            else "there is none"
        ),
    }


def plan_digest(plan: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a plan, independent of the order of its fields."""
    return digest_of(dict(plan))
