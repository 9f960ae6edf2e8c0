from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower

import example_sweep as example
from harness.analysis.comparison import Comparability
from harness.analysis.seed_noise import spread_of
from harness.report.sections.section import Section
from harness.report.sections.seed_noise import SEEDS, noise_section
from harness.report.tables.table import Table
from harness.tracking import SweepRecord

LOSSES = [6.75, 6.79, 6.81, 6.73, 6.77, 6.76, 6.8, 6.78]
SPREAD = 0.026692695630  # √(Σ(x − 6.77375)² / 7) = √(0.0049875 / 7)


def record(delta: float | None = 0.02, **changes: Any) -> SweepRecord:
    study: dict[str, Any] = {"sampler": "tpe", "pruner": "none", "trials": 0, "seeds": 8}
    facts = {"baseline": "all", "study": study if delta is None else {**study, "delta": delta}}
    return example.record({"all": {}}, **{**facts, **changes})


def runs(losses: Sequence[float] = LOSSES) -> pd.DataFrame:
    return example.frame(example.confirm_runs({"all": dict(enumerate(losses, 1))}))


def section(delta: float | None = 0.02, losses: Sequence[float] = LOSSES, **changes: Any) -> Section:
    found = noise_section(example.evidence(record(delta, **changes), runs(losses)))
    assert found
    return found


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row.cells] for row in table.rows]


def values(table: Table, column: int) -> list[float | None]:
    return [row.cells[column].value for row in table.rows]


def test_spread_worked_by_hand() -> None:
    found = spread_of(LOSSES)
    assert found.mean == pytest.approx(6.77375, abs=1e-12)
    assert found.deviation.mean == pytest.approx(SPREAD, abs=1e-11)
    # χ²(7) has 1.6898692 and 16.0127643 as its 2.5 and 97.5 % points; t(0.975, 7) = 2.3646243.
    assert found.deviation.low == pytest.approx(math.sqrt(0.0049875 / 16.0127643), rel=1e-7)
    assert found.deviation.high == pytest.approx(math.sqrt(0.0049875 / 1.6898692), rel=1e-7)
    assert found.two_runs == pytest.approx(2.3646243 * math.sqrt(2 * 0.0049875 / 7), rel=1e-7)


def test_text_gives_spread_interval_and_the_bound_for_two_runs() -> None:
    said, planned = section().text
    assert said == (
        "The final validation loss has a standard deviation of 0.027 nats per token over seeds (95 % interval 0.018 to "
        "0.054, 8 seeds, from 6.730 to 6.810). Two single runs that differ by less than 0.089 (9.3 % of "
        "perplexity) may differ by their seed alone."
    )
    assert planned.startswith("A true difference of 0.02, the smallest that matters here (study.delta), is found in")
    unpaired, low, high, paired = (
        int(number)
        for number in re.findall(r"with (\d+) seeds .* \((\d+) to about (\d+) by .* with (\d+) if", planned)[0]
    )
    interval = spread_of(LOSSES).deviation
    solve = TTestIndPower().solve_power
    assert unpaired == math.ceil(solve(0.02 / interval.mean, alpha=0.05, power=0.8))
    assert low == math.ceil(solve(0.02 / interval.low, alpha=0.05, power=0.8))
    assert high == round(solve(0.02 / interval.high, alpha=0.05, power=0.8), -1)  # in two significant digits
    assert paired == math.ceil(TTestPower().solve_power(0.02 / interval.mean, alpha=0.05, power=0.8))


def test_with_half_of_the_variance_shared_differences_spread_like_single_runs() -> None:
    # What the column for the same seeds takes for granted: Var(a − b) = 2σ²(1 − ρ) = σ² at ρ = 1/2.
    generator = np.random.default_rng(4)
    shared, own = generator.normal(size=200_000), generator.normal(size=(2, 200_000))
    arm, baseline = (shared + own) / math.sqrt(2)
    assert np.std(arm) == pytest.approx(1, abs=0.01) and np.std(arm - baseline) == pytest.approx(1, abs=0.01)


def test_detectable_differences_equal_statsmodels() -> None:
    table = section().tables[1][0]
    assert values(table, 0) == list(SEEDS) == [1, 3, 5, 8, 12, 20]
    assert texts(table)[0] == ["1", "–", "–"] and values(table, 1)[0] is None
    unpaired = [SPREAD * TTestIndPower().solve_power(nobs1=n, alpha=0.05, power=0.8) for n in SEEDS[1:]]
    paired = [SPREAD * TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8) for n in SEEDS[1:]]
    assert values(table, 1)[1:] == pytest.approx(unpaired, rel=1e-4)
    assert values(table, 2)[1:] == pytest.approx(paired, rel=1e-4)
    assert texts(table)[3] == ["8", "0.040", "0.031"]


def test_the_power_for_eight_seeds_is_confirmed_by_simulation() -> None:
    # 40,000 sweeps: the standard error of the share is 0.002, so 4 of them on either side.
    effect = values(section().tables[1][0], 1)[3]
    first, second = np.random.default_rng(9).normal(6.8, SPREAD, (2, 40_000, 8))
    p = stats.ttest_ind(first + effect, second, axis=1).pvalue
    assert np.mean(p <= 0.05) == pytest.approx(0.8, abs=0.008)


def test_every_metric_has_a_row_with_its_runs() -> None:
    table, note = section().tables[0]
    assert [row[0] for row in texts(table)] == ["Validation loss", "Validation bits per byte", "Test loss"]
    assert texts(table)[0][1:] == ["8", "6.774", "6.730", "6.810", "0.027", "0.018 to 0.054", "0.089"]
    assert values(table, 5) == pytest.approx([SPREAD, SPREAD / 3, SPREAD], rel=1e-9)  # bits per byte: a third of it
    assert all(row.runs == tuple(runs()["run_id"]) for row in table.rows)
    assert "t(0.975, n − 1) · √2" in note


def test_only_the_newest_complete_confirm_run_of_each_seed_counts() -> None:
    frame = example.frame(
        [
            example.run(1, "all", {}, seed=1, loss=9.0),  # repeated below
            example.run(2, "all", {}, seed=77, loss=9.0, outcome="oom"),
            *runs().to_dict("records"),
        ]
    )
    found = noise_section(example.evidence(record(), frame))
    assert found and found.text == section().text and found.tables == section().tables


def test_runs_without_a_metric_are_left_out_of_its_row_only() -> None:
    frame = runs()
    frame.loc[2:, "test/loss"] = math.nan
    frame["val/bits_per_byte"] = [2.25, *[math.inf] * 7]
    found = noise_section(example.evidence(record(), frame))
    assert found
    assert [row[:2] for row in texts(found.tables[0][0])] == [["Validation loss", "8"], ["Test loss", "2"]]
    assert found.tables[0][0].rows[1].runs == tuple(frame["run_id"][:2])


@pytest.mark.parametrize(
    ("changes", "losses"),
    [
        ({"arms": example.ARMS}, LOSSES),
        ({"tune": example.TUNE}, LOSSES),
        ({}, LOSSES[:1]),
        ({}, []),
        ({}, [6.8, math.nan]),
    ],
)
def test_other_sweeps_have_no_seed_noise_section(changes: Mapping[str, Any], losses: Sequence[float]) -> None:
    frame = runs(losses) if losses else example.frame(example.explore_runs({"all": {}}))
    assert noise_section(example.evidence(example.record(**{"arms": {"all": {}}, **changes}), frame)) is None


def test_two_seeds_are_enough_for_a_wide_interval() -> None:
    found = section(losses=[6.75, 6.79])
    # s = 0.04/√2 = 0.028284, and t(0.975, 1) = 12.7062 of it times √2 is 12.7062 · 0.04.
    assert "a standard deviation of 0.028 nats" in found.text[0] and "less than 0.51 " in found.text[0]
    assert "each number may be 0.45 to 32 times as large" in found.tables[1][1]


def test_equal_losses_give_no_plan() -> None:
    found = section(losses=[0.1, 0.1, 0.1])
    assert found.text == ("All 3 seeds have the same final validation loss: there is no seed noise.",)
    assert len(found.tables) == 1 and found.drawings == ()
    assert texts(found.tables[0][0])[0][5:] == ["0", "0 to 0", "0"]


def test_delta_comes_from_the_spec_or_the_default_and_is_in_nats_only() -> None:
    assert "difference of 0.1," in section(0.1).text[1] and "difference of 0.02," in section(None).text[1]
    found = noise_section(example.evidence(record(), runs(), comparability=Comparability("val/bits_per_byte")))
    assert found and len(found.text) == 1
    assert "validation bits per byte has a standard deviation of 0.0089 bits per byte" in found.text[0]
    assert "perplexity" not in found.text[0]
    assert texts(found.tables[0][0])[0][0] == "Validation bits per byte"
    assert (
        "smallest that matters" not in found.drawings[0].file and "difference, bits per byte" in found.drawings[0].file
    )


@pytest.mark.parametrize(("delta", "last"), [(1.0, "20"), (0.02, "30"), (0.016, "50"), (0.015, "100"), (1e-6, "200")])
def test_the_figure_extends_to_the_needed_number_of_seeds(delta: float, last: str) -> None:
    (drawing,) = section(delta).drawings
    tree = ET.fromstring(drawing.file)
    read = ["".join(node.itertext()) for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    seeds = ("3", "5", "8", "12", "20", "30", "50", "100", "200")
    assert [text for text in read if text in seeds] == list(seeds[: seeds.index(last) + 1])
    assert {"seeds per arm", "difference, nats per token", "different seeds (unpaired)"} <= set(read)
    assert drawing.name == "seed-noise" and "80 % of sweeps" in drawing.caption
    assert drawing.file == section(delta).drawings[0].file


def test_a_number_of_seeds_above_a_million_is_not_printed() -> None:
    assert "with more than a million seeds per arm" in section(1e-9).text[1]
    assert "with about " in section(0.001).text[1]
