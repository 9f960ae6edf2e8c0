"""A report has a warning for every planted fault, and a clean sweep has no warning that may change its conclusion."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable
from html import unescape
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import brentq
from statsmodels.api import OLS
from statsmodels.stats.outliers_influence import OLSInfluence

import example_sweep as example
from clean_sweeps import clean_sweep
from fuzzing import MORE
from harness.analysis.significance import outlier_p
from harness.report.assemble import assemble
from harness.report.page.render import render_html, render_markdown
from harness.report.text.names import seeds_named
from harness.report.warnings import confirm as confirm_warnings
from harness.report.warnings import general, parity, results, search
from harness.report.warnings.collect import DETECTORS, report_warnings
from harness.report.warnings.kinds import ReportWarning, WarningKind
from harness.tracking import SweepRecord
from warned_sweeps import PLANTS, Plant, confirm, other

pytestmark = pytest.mark.slow

NUMBERS = tuple(range(3, 3 + min(MORE, 2)))  # of the clean sweeps that every fault is planted in
RENDERED = (
    "optimum_at_the_end_of_the_range",
    "the_search_reads_the_test_split",
    "a_diverged_seed_left_out",
    "far_too_much_noise",
    "another_validation_split",
    "an_arm_of_another_commit",
    "seeds_added_after_a_look",
)


def serious(record: SweepRecord, runs: pd.DataFrame) -> list[ReportWarning]:
    return [warning for warning in report_warnings(example.evidence(record, runs)) if warning.changes_conclusion]


def naming(plant: Plant, found: Iterable[ReportWarning], words: Iterable[str]) -> list[str]:
    """The warnings of a planted case's kind that contain all these words."""
    texts = [warning.text for warning in found if warning.kind is plant.kind]
    return [text for text in texts if all(word in text for word in words)]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_planted_fault_gives_its_warning(plant: Plant, number: int) -> None:
    record, runs, words = plant.planted(number)
    found = serious(record, runs)
    assert naming(plant, found, words), f"no warning {plant.kind.name} with {words} in {found}"
    assert {warning.kind for warning in found} <= {plant.kind, *plant.also}  # and no other warning


@pytest.mark.parametrize("number", NUMBERS)
def test_without_the_fault_the_same_sweep_gives_no_warning(number: int) -> None:
    twins = {tuple(plant.base.items()): plant for plant in PLANTS}
    for plant in twins.values():
        assert serious(*plant.clean(number)) == [], plant.base


def test_every_kind_that_changes_a_conclusion_has_a_planted_case() -> None:
    assert {plant.kind for plant in PLANTS} == {kind for kind in WarningKind if kind.changes_conclusion}
    assert len({plant.name for plant in PLANTS}) == len(PLANTS) >= 20
    assert set(RENDERED) <= {plant.name for plant in PLANTS}


@pytest.mark.parametrize("tens", range(3 * MORE))
def test_clean_sweeps_give_no_warning(tens: int) -> None:
    special: dict[int, dict[str, Any]] = {0: {"looks": (3, 6, 12)}, 5: {"equal": True}}
    for number in range(100 + 10 * tens, 110 + 10 * tens):
        drawn = special.get(number % 10, {})
        assert serious(*clean_sweep(number, **drawn)) == [], (number, drawn)


@pytest.mark.parametrize("module", [confirm_warnings, general, parity, results, search], ids=lambda one: one.__name__)
def test_every_detector_is_in_the_list_of_its_module(module: ModuleType) -> None:
    written = {
        name
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and list(inspect.get_annotations(function).values()) == ["Evidence", "Iterator[ReportWarning]"]
    }
    assert written == {detector.__name__ for detector in module.DETECTORS}
    assert set(module.DETECTORS) <= set(DETECTORS)


def test_an_epoch_has_other_tokens_with_another_tokenizer() -> None:
    record, runs = clean_sweep(100, dimensions=1, budget="epochs", mishaps=False)
    runs["data.tokenizer"] = "gpt2"
    explored = (runs["phase"] == "explore") & (runs["outcome"] == "complete")
    runs.loc[explored & (runs["trial_number"] % 2 == 0), ["data.tokenizer", "tokens"]] = [
        "byte",
        4 * runs["tokens"].max(),
    ]
    runs["val/bits_per_byte"] = runs["val/loss"] / 3
    assert not [warning for warning in serious(record, runs) if warning.kind == WarningKind.SHORT]
    runs["data.tokenizer"] = "gpt2"
    assert [warning for warning in serious(record, runs) if warning.kind == WarningKind.SHORT]


def test_clean_sweeps_are_of_every_kind() -> None:
    """Checks that `clean_sweep` varies enough for the tests above to show anything."""
    sweeps = [clean_sweep(number) for number in range(100, 140)]
    assert {len(record.arms) for record, _ in sweeps} >= {2, 3, 4, 5, 6}
    assert {len(record.tune) for record, _ in sweeps} == {0, 1, 2}
    seeds = {record.study["seeds"] for record, _ in sweeps}
    assert min(seeds) == 3 and max(seeds) == 12
    outcomes = {outcome for _, runs in sweeps for outcome in runs["outcome"]}
    assert outcomes == {"complete", "pruned", "diverged", "failed"}
    assert {phase for _, runs in sweeps for phase in runs["phase"]} == {"explore", "confirm", "superseded"}
    budgets = {name for _, runs in sweeps for name in runs if name.startswith("train.budget.")}
    assert budgets == {f"train.budget.{kind}" for kind in ("tokens", "steps", "epochs", "seconds")}


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("name", RENDERED)
def test_warnings_that_change_the_conclusion_are_shown_first(name: str) -> None:
    plant = next(plant for plant in PLANTS if plant.name == name)
    record, runs, words = plant.planted(NUMBERS[0])
    content = assemble(example.evidence(record, runs, example.curves_of(runs)), lambda _: [], "python -m mlflow ui")
    (sentence,) = naming(plant, serious(record, runs), words)
    markdown = unescape(re.sub(r"\\(.)", r"\1", render_markdown(content)))
    shown = next((one for one in content.warnings if sentence in one.each), None)  # grouped with equal ones
    line = shown.text if shown else sentence
    assert f"- **Warning:** {line}\n" in markdown
    assert markdown.rindex("**Warning:**") < markdown.index("The intervals are over seeds")
    page = unescape(render_html(content)).replace("\N{NO-BREAK SPACE}", " ").replace("\N{WORD JOINER}", "")
    assert f'<li class="warning"><b>Warning:</b> {line}' in page and f"<li>{sentence}</li>" in page.replace(
        f'<li class="warning"><b>Warning:</b> {sentence}</li>', f"<li>{sentence}</li>"
    )


@pytest.mark.usefixtures("no_figures")
def test_a_clean_report_has_no_warning() -> None:
    record, runs = clean_sweep(3, arms=2, seeds=4, dimensions=1, mishaps=False)
    content = assemble(example.evidence(record, runs, example.curves_of(runs)), lambda _: [], "python -m mlflow ui")
    assert "Warning:" not in render_markdown(content) and "Warning:" not in render_html(content)


# the outlier test ----------------------------------------------------------------------------------------------


def test_outlier_p_equals_that_of_externally_studentized_residuals() -> None:
    values = np.random.default_rng(1).normal(size=7)
    values[3] += 5
    found = OLSInfluence(OLS(values, np.ones(7)).fit()).resid_studentized_external
    assert outlier_p(values) == pytest.approx(2 * stats.t.sf(np.abs(found), 5), rel=1e-9)
    assert int(np.argmin(outlier_p(values))) == 3


def test_outlier_p_worked_by_hand() -> None:
    # x = 5 against 0, 1, 2: mean 1, s = 1, t = 4 / √(4/3) = 3.4641; P(|T(2)| > t) = 1 − t/√(2 + t²) = 1 − √(6/7)
    assert outlier_p([0.0, 1.0, 2.0, 5.0])[3] == pytest.approx(1 - math.sqrt(6 / 7), rel=1e-12)
    assert np.isnan(outlier_p([0.0, 1.0, 9.0])).all()
    assert math.isnan(outlier_p([0.0, 0.0, 0.0, 1.0])[3])


def test_normal_noise_gives_uniform_p() -> None:
    drawn = np.random.default_rng(2).normal(size=(4000, 5))
    p = np.array([outlier_p(values)[0] for values in drawn])
    assert stats.kstest(p, "uniform").pvalue > 0.01


# thresholds ----------------------------------------------------------------------------------------------------


def test_a_seed_is_an_outlier_only_if_normal_noise_rarely_gives_it() -> None:
    record, runs = clean_sweep(3, arms=2, seeds=6, dimensions=0, budget="tokens", mishaps=False)
    rows, base = confirm(runs, other(record)), confirm(runs, record.baseline)
    losses = ["val/loss", "test/loss", "best_val_loss"]

    def found(last: float) -> set[WarningKind]:
        runs.loc[rows, losses] = (
            runs.loc[base, losses].to_numpy() + np.array([[-2], [-1], [0], [1], [2], [last]]) / 1000
        )
        return {warning.kind for warning in serious(record, runs)}

    # The others have mean 0 and s = √2.5 / 1000; p · 6 = 0.001 at t(4) = 13.65, which is t · s · √(6/5) = 0.02365.
    limit = stats.t.isf(0.001 / 6 / 2, 4) * math.sqrt(2.5) * math.sqrt(6 / 5)
    assert WarningKind.ONE_SEED not in found(0.99 * limit)
    assert WarningKind.ONE_SEED in found(1.01 * limit)


def test_the_detectable_effect_is_compared_with_five_times_delta() -> None:
    record, runs = clean_sweep(3, arms=2, seeds=4, dimensions=0, budget="tokens", mishaps=False)
    rows, base = confirm(runs, other(record)), confirm(runs, record.baseline)
    losses = ["val/loss", "test/loss", "best_val_loss"]

    def found(scale: float) -> bool:
        noise = scale * np.array([[-1], [1], [-1.2], [1.3]])
        runs.loc[rows, losses] = runs.loc[base, losses].to_numpy() + noise
        return any(warning.kind is WarningKind.FEW_SEEDS for warning in serious(record, runs))

    # 5 δ = 0.1 = λ · s / √4, where a noncentral t with 3 degrees of freedom and λ exceeds its quantile in 80 % of draws
    size = brentq(lambda found: stats.nct.sf(stats.t.isf(0.025, 3), 3, found) - 0.8, 2, 8)
    limit = 0.1 * 2 / size / float(np.std([-1, 1, -1.2, 1.3], ddof=1))
    assert not found(0.99 * limit)
    assert found(1.01 * limit)


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ([3], "seed 3"),
        ([3, 2], "seeds 2 and 3"),
        ([4, 2, 3, 9], "seeds 2 to 4 and 9"),
        ([1, 3, 5, 7, 9, 11], "seeds 1, 3, 5, 7 and 2 more"),
    ],
)
def test_seeds_are_named_briefly(seeds: list[int], words: str) -> None:
    assert seeds_named(seeds) == words
