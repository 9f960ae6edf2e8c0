from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import example_sweep as example
from harness.analysis.comparison import comparability
from harness.analysis.plan import METHOD_VERSION, analysis_plan, plan_digest
from harness.config.fingerprint import decisive, digest_of
from harness.config.load import load_spec
from harness.config.spec import SweepSpec
from harness.data import open_dataset
from harness.report.text.plan import deviations, plan_lines
from harness.runner.describe import sweep_info
from harness.tracking import PlanChange, SweepRecord, Tracker, load_sweep
from paths import EXPERIMENTS
from specs import GOOD, load

ADAPTIVE = "study.seeds={min: 3, max: 12}"

# The rule, as a plan states it.
RULE = {
    "metric": "val/loss",
    "selection": "lowest final val/loss of the arm's complete explore trials",
    "stopping": "none: every arm gets all seeds",
    "test": "paired t test over seeds, two-sided; skewness-adjusted where differences look skewed",
    "correction": "Holm over 1 comparison",
    "alpha": 0.05,
    "look_levels": [0.05],
    "primary_split": "validation",
    "test_split": "read once by each confirm run, after its last step; reported, decides nothing",
}


def test_a_plan_has_the_metric_the_test_and_the_rules(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD)
    # Raise METHOD_VERSION where this has to be changed because verdicts are come to in another way.
    assert METHOD_VERSION == "3"
    assert analysis_plan(spec) == {
        "method": METHOD_VERSION,
        "spec_sha256": digest_of(decisive(spec.plain())),
        "question": "Does dropout help?",
        "baseline": "drop_rate=0.1",
        "arms": ["drop_rate=0.0", "drop_rate=0.1"],
        "trials": 4,
        "seeds": 3,
        "looks": [3],
        "delta": 0.02,
        **RULE,
    }


def test_with_several_looks_the_levels_add_up_to_alpha(tmp_path: Path) -> None:
    plan = analysis_plan(load(tmp_path, GOOD, ADAPTIVE))
    assert (plan["seeds"], plan["looks"]) == (12, [3, 6, 12])
    assert plan["look_levels"] == pytest.approx([0.0125, 0.0125, 0.025], abs=1e-15)
    assert plan["stopping"] == "after each look, more seeds only for arms that are undecided, and the baseline"


def test_a_sweep_without_comparisons_plans_no_test(tmp_path: Path) -> None:
    plan = analysis_plan(load(tmp_path, GOOD[: GOOD.index("compare:")]))
    assert (plan["arms"], plan["baseline"], plan["trials"], plan["looks"]) == (["all"], "all", 0, [1])
    assert plan["test"] == plan["correction"] == "none: there is one arm"
    assert plan["selection"] == "none: nothing is tuned"
    searched = GOOD.replace("compare:\n  model.drop_rate: [0.0, 0.1]\nbaseline: {model.drop_rate: 0.1}\n", "")
    plan = analysis_plan(load(tmp_path, searched, "study.seeds=0", "data.split.test=0"))
    assert (plan["seeds"], plan["looks"], plan["look_levels"]) == (0, [0], [0.05])
    assert plan["test_split"] == "there is none"


@pytest.mark.parametrize(
    ("path", "values", "metric", "ranked"),
    [
        ("data.tokenizer", "[gpt2, byte]", "val/bits_per_byte", True),
        ("data.split.val", "[0.1, 0.2]", "val/bits_per_byte", False),
        ("model.context_length", "[16, 32]", "val/loss", True),
    ],
)
def test_the_planned_metric_is_that_of_the_comparison(
    tmp_path: Path, path: str, values: str, metric: str, ranked: bool
) -> None:
    baseline = f"baseline: {{{path}: {values.strip('[]').split(', ')[0]}}}"
    text = GOOD.replace("model.drop_rate: [0.0, 0.1]", f"{path}: {values}")
    spec = load(tmp_path, text.replace("baseline: {model.drop_rate: 0.1}", baseline))
    plan = analysis_plan(spec)
    rows = [
        {
            "run_id": str(number),
            "phase": "confirm",
            "outcome": "complete",
            "seed": 1,
            "arm": arm.name,
            "trial_number": None,
            **spec.run_config(arm.values).flat(),
        }
        for number, arm in enumerate(spec.arms())
    ]
    ground = comparability(example.frame(rows))
    assert (plan["metric"], plan["test"].startswith("paired")) == (ground.metric, ground.ranked) == (metric, ranked)


CHANGES = {
    "question": ("Does dropout help?", "Really?"),
    "baseline": ("baseline: {model.drop_rate: 0.1}", "baseline: {model.drop_rate: 0.0}"),
    "arms": ("[0.0, 0.1]", "[0.1, 0.0]"),
    "trials": ("trials: 4", "trials: 5"),
    "seeds": ("seeds: 3", "seeds: 4"),
    "looks": ("seeds: 3", "seeds: {min: 2, max: 3}"),
    "delta": ("seeds: 3", "seeds: 3, delta: 0.03"),
    "metric": ("data: {corpus: sotu-1820}", "data: {corpus: sotu-1820, split: {test: 0}}"),  # no test split
    "spec_sha256": ("emb_dim: 16", "emb_dim: 32"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_spec_that_asks_for_another_analysis_has_another_plan(tmp_path: Path, name: str) -> None:
    old, new = analysis_plan(load(tmp_path, GOOD)), analysis_plan(load(tmp_path, GOOD.replace(*CHANGES[name])))
    expected = {"metric": "test_split"}.get(name, name)
    assert old[expected] != new[expected]
    assert plan_digest(old) != plan_digest(new)
    assert old["spec_sha256"] != new["spec_sha256"]


def test_the_digest_changes_with_every_field_and_with_nothing_else(tmp_path: Path) -> None:
    plan = analysis_plan(load(tmp_path, GOOD))
    digests = {plan_digest({**plan, name: "another"}) for name in plan} | {plan_digest(plan)}
    assert len(digests) == len(plan) + 1
    assert plan_digest(dict(reversed(plan.items()))) == plan_digest(plan)
    text = json.dumps(plan, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert plan_digest(plan) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_plan_of_every_shipped_experiment_is_plain_and_stable(path: Path) -> None:
    plan = analysis_plan(load_spec(path))
    text = json.dumps(plan, allow_nan=False)
    assert json.loads(text) == plan
    assert json.dumps(analysis_plan(load_spec(path)), allow_nan=False) == text
    assert plan["question"].endswith("?") and plan["baseline"] in plan["arms"]


def test_making_a_plan_imports_no_heavy_library() -> None:
    code = (
        "import sys, harness.analysis.plan as method; early = {'scipy', 'numpy'} & set(sys.modules)\n"
        "from pathlib import Path; from harness.config.load import load_spec\n"
        f"method.analysis_plan(load_spec(Path({str(EXPERIMENTS[0])!r})))\n"
        "print(early, {'torch', 'pandas', 'matplotlib', 'mlflow', 'optuna'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set() set()"


# What was changed.

WHEN = datetime(2025, 3, 2, 9, 30, tzinfo=UTC)


def plan_of(tmp_path: Path, *settings: str, text: str = GOOD) -> dict[str, Any]:
    return analysis_plan(load(tmp_path, text, *settings))


def recorded(first: Mapping[str, Any], *changes: tuple[int, Mapping[str, Any]]) -> SweepRecord:
    made = tuple(PlanChange(WHEN, confirm_runs, plan) for confirm_runs, plan in changes)
    digest = plan_digest(first) if first else ""
    return replace(example.record(), first_plan=first, plan_sha256=digest, plan_changes=made)


SEEN = "after 8 confirm runs were complete: their results may have been seen, and"
P_VALUES = f"{SEEN} the p-values do not account for that."
AGAIN = (
    "confirm runs do not affect the choice of a configuration, but an arm whose best one changed was confirmed again."
)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["study.seeds=8"], f"Seeds per arm were raised from 3 to 8 {P_VALUES}"),
        (["study.seeds=2"], f"Seeds per arm were lowered from 3 to 2 {P_VALUES}"),
        ([ADAPTIVE], f"Seeds per arm were changed from 3 (fixed) to 3, 6 and 12 (adaptive) {P_VALUES}"),
        (
            ["study.delta=0.05"],
            f"The smallest difference that matters was changed from 0.02 to 0.05 {SEEN} verdicts of no "
            "difference depend on it.",
        ),
        (
            ["baseline={model.drop_rate: 0.0}"],
            f"The baseline was changed from drop_rate=0.1 to drop_rate=0.0 {SEEN} every comparison depends "
            "on the baseline.",
        ),
        (
            ["study.trials=9"],
            f"Explore trials per arm were raised from 4 to 9 after 8 confirm runs were complete: {AGAIN}",
        ),
        (["study.trials=3"], "Explore trials per arm were lowered from 4 to 3 after 8 confirm runs were complete."),
    ],
)
def test_each_change_is_one_sentence(tmp_path: Path, settings: list[str], sentence: str) -> None:
    first = plan_of(tmp_path)
    later = analysis_plan(load(tmp_path, GOOD, *settings)) if "baseline" not in settings[0] else None
    if later is None:
        later = plan_of(tmp_path, text=GOOD.replace(*CHANGES["baseline"]))
    assert deviations(recorded(first, (8, later))) == [sentence]
    early = sentence[: sentence.index("after 8")] + "before any confirm run was complete."
    assert deviations(recorded(first, (0, later))) == [early]


def test_one_seen_result_is_in_the_singular(tmp_path: Path) -> None:
    later = plan_of(tmp_path, "study.seeds=4")
    assert deviations(recorded(plan_of(tmp_path), (1, later))) == [
        "Seeds per arm were raised from 3 to 4 after 1 confirm run was complete: its result may have been seen, and "
        "the p-values do not account for that."
    ]


def test_changed_looks_are_listed_in_full(tmp_path: Path) -> None:
    adaptive, longer = plan_of(tmp_path, ADAPTIVE), plan_of(tmp_path, "study.seeds={min: 3, max: 20}")
    assert deviations(recorded(adaptive, (0, plan_of(tmp_path, "study.seeds=12")), (8, longer))) == [
        "Seeds per arm were changed from 3, 6 and 12 (adaptive) to 12 (fixed) before any confirm run was complete.",
        f"Seeds per arm were changed from 12 (fixed) to 3, 6, 12 and 20 (adaptive) {P_VALUES}",
    ]


def test_every_change_is_reported_including_one_that_is_undone(tmp_path: Path) -> None:
    first, later = plan_of(tmp_path), plan_of(tmp_path, "study.seeds=8", "study.delta=0.05")
    found = deviations(recorded(first, (0, later), (8, first)))
    assert [line.split(" was ")[0].split(" were ")[0] for line in found] == [
        "Seeds per arm",
        "The smallest difference that matters",
    ] * 2
    assert [line.endswith("before any confirm run was complete.") for line in found] == [True, True, False, False]
    assert "from 8 to 3" in found[2] and "from 0.05 to 0.02" in found[3]


def test_a_reworded_question_is_not_a_deviation(tmp_path: Path) -> None:
    first = plan_of(tmp_path)
    assert deviations(recorded(first)) == []
    worded = plan_of(tmp_path, text=GOOD.replace(*CHANGES["question"]))
    assert worded["spec_sha256"] != first["spec_sha256"]
    assert deviations(recorded(first, (8, worded))) == []


def test_another_checkpoint_interval_is_not_a_deviation(tmp_path: Path) -> None:
    assert plan_of(tmp_path, "train.checkpoint_every=5") == plan_of(tmp_path)


def test_a_changed_spec_is_reported_only_if_no_listed_field_explains_it(tmp_path: Path) -> None:
    first = plan_of(tmp_path)
    assert deviations(recorded(first, (8, {**first, "spec_sha256": "0" * 64}))) == [
        f"The spec was changed in a field that the plan does not list {P_VALUES}"
    ]
    assert len(deviations(recorded(first, (8, {**first, "spec_sha256": "0" * 64, "seeds": 8})))) == 1


def test_a_changed_rule_under_the_same_method_is_quoted(tmp_path: Path) -> None:
    first = plan_of(tmp_path)
    assert deviations(recorded(first, (8, {**first, "alpha": 0.01, "arms": ["a", "b"]}))) == [
        f"The arms were changed from “drop_rate=0.0” and “drop_rate=0.1” to “a” and “b” {P_VALUES}",
        f"The level of the test was changed from 0.05 to 0.01 {P_VALUES}",
    ]


def test_another_method_is_reported_once_instead_of_its_rules(tmp_path: Path) -> None:
    now = plan_of(tmp_path)
    old = {**now, "method": "1", "correction": "none", "spec_sha256": "0" * 64}
    sentence = (
        f"The sweep was planned with method version 1 and is reported with version {METHOD_VERSION}: the rule that "
        "turns runs into verdicts is not the planned one."
    )
    assert deviations(recorded(old)) == [sentence]
    assert deviations(recorded(old, (8, now))) == [sentence]
    raised = {**now, "seeds": 8, "looks": [8]}
    assert deviations(recorded(old, (8, raised))) == [f"Seeds per arm were raised from 3 to 8 {P_VALUES}", sentence]


def test_a_late_or_replaced_plan_is_reported(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert deviations(example.record()) == []
    assert deviations(recorded({}, (8, plan))) == [f"The first analysis plan was stored {P_VALUES}"]
    forged = replace(recorded(plan), first_plan={**plan, "delta": 0.5})
    assert deviations(forged) == [
        "The SHA-256 of the stored analysis plan is not the one recorded before the first run."
    ]


def test_provenance_lines_summarise_the_plan(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    stored = f"sha256 {plan_digest(plan)[:8]}, method 3, stored 2025-03-01 12:00 UTC, before the first run"
    said = (
        "val/loss of 2 arms; 4 explore trials and 3 seeds per arm; baseline drop_rate=0.1; paired t test over seeds, "
        "two-sided; skewness-adjusted where differences look skewed; Holm over 1 comparison; α = 0.05; δ = 0.02"
    )
    assert plan_lines(recorded(plan)) == [("analysis plan", stored), ("planned", said)]
    later = plan_of(tmp_path, ADAPTIVE)
    rows = plan_lines(recorded(plan, (0, later), (3, plan)))
    assert rows == [("analysis plan", f"{stored}; changed 2 times since"), ("planned", said)]
    assert "; 4 explore trials and 3, 6 and 12 (adaptive) seeds per arm; " in plan_lines(recorded(later))[1][1]
    alone = plan_of(tmp_path, text=GOOD[: GOOD.index("compare:")])
    assert plan_lines(recorded(alone))[1] == ("planned", "val/loss of 1 arm; 1 seed")
    assert plan_lines(example.record()) == [("analysis plan", "none was stored before the first run")]


@pytest.mark.slow
def test_the_plan_of_a_sweep_is_stored_and_read_back(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    text = GOOD.replace("corpus: sotu-1820", "corpus: sotu-1820, tokenizer: byte")

    def opened(spec: SweepSpec) -> SweepRecord:
        info = sweep_info(spec, spec.identity("data"), open_dataset(spec.base.data))
        Tracker(spec.name, uri).open_sweep(info)
        return load_sweep(spec.name, uri)

    spec = load(tmp_path, text)
    record = opened(spec)
    assert record.first_plan == record.plan == analysis_plan(spec)
    assert deviations(opened(spec)) == []
    more = opened(load(tmp_path, text, "study.seeds=8"))
    assert more.run_id == record.run_id
    assert deviations(more) == ["Seeds per arm were raised from 3 to 8 before any confirm run was complete."]
    assert plan_lines(more)[0][1].endswith("changed 1 time since")
