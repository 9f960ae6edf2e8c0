from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import nct

import example_sweep as example
from example_grid import BIAS, DEEP, DROP, SMALL, WIDE, Levels, drawn, interactions, marginals, record_of, runs_of
from harness.analysis.comparison import Comparability
from harness.analysis.grid import Floats
from harness.report.page.latex import latex_table
from harness.report.sections.factors import factor_section
from harness.report.sections.section import Section
from harness.report.tables.table import Table
from harness.tracking import SweepRecord


def section_of(record: SweepRecord, runs: pd.DataFrame, metric: str = "val/loss") -> Section | None:
    return factor_section(example.evidence(record, runs, comparability=Comparability(metric)))


def written(levels: Levels, losses: Floats, **changes: object) -> Section:
    record = record_of(levels, **changes)
    section = section_of(record, runs_of(record, losses))
    assert section is not None
    return section


def column(table: Table, label: str) -> list[str]:
    place = [column.label for column in table.columns].index(label)
    return [row.cells[place].text for row in table.rows]


# By hand, as in test_factors: dropout adds 0.1, 0, 0.2 without biases and 0.3, 0.2, 0.2 with them.
BY_HAND = np.array([[[5.0, 5.2, 5.4], [4.8, 5.1, 5.3]], [[5.1, 5.2, 5.6], [5.1, 5.3, 5.5]]])


def test_undecided_in_words_and_tables() -> None:
    section = written(SMALL, BY_HAND)
    both, single, limits, standing = section.text
    assert both == (
        "Whether the effects of drop and bias depend on each other is undecided: drop 0.2 instead of 0.0 "
        "changes the validation loss by +0.100 with bias off and by +0.233 with bias on, an interaction of "
        "+0.133 (95 % interval −0.154 to 0.420, 3 seeds, p = 0.18)."
    )
    assert single == (
        "Averaged over bias, against drop 0.0: drop 0.2 is undecided, 0.167 higher (95 % interval 0.023 "
        "to 0.310, 3 seeds, p = 0.0755). Averaged over drop, against bias off: bias on is undecided, "
        "0.067 lower (95 % interval −0.210 to 0.077, 3 seeds, p = 0.18)."
    )
    assert "undecided does not mean that effects are additive" in limits and "sign-flip" not in limits
    assert "true interaction that these seeds find in 80 % of sweeps is 0.38." in limits  # λ · s/√3, λ as follows
    assert nct.sf(4.3026527, 2, 15 * 0.375) < 0.8 < nct.sf(4.3026527, 2, 15 * 0.385)
    assert standing.startswith("This analysis is secondary: the verdicts of the sweep are those on its arms")
    assert "Interactions (1 test) and differences between levels (2 tests) are two separate families" in standing
    (crossed, note), (drop, drop_note), (bias, bias_note) = section.tables
    assert column(crossed, "Change") == ["drop 0.0 → 0.2"]
    assert column(crossed, "Other change") == ["bias off → on"]
    assert column(crossed, "Effect before") == ["+0.100"] and column(crossed, "Effect after") == ["+0.233"]
    assert column(crossed, "Interaction") == ["+0.133 ± 0.287"] and column(crossed, "Verdict") == ["undecided"]
    assert column(drop, "drop") == ["0.0", "0.2"] and column(drop, "Δ to 0.0") == ["baseline", "+0.167 ± 0.143"]
    assert column(drop, "Val loss")[1] == "5.300 ± 0.569"
    assert column(bias, "p (Holm)") == ["–", "0.18"] and column(bias, "Seeds for 0.02")[0] == "–"
    assert "secondary to the verdicts on arms" in note and "secondary to the verdicts on arms" in drop_note
    assert "corrected for the 2 differences" in drop_note and bias_note == "As above, averaged over drop."
    assert "lies between −0.02 and 0.02" in note and "corrected for" not in note
    assert "Pairs" not in [c.label for c in drop.columns] and latex_table(drop, "").count(r"\\") == 3
    assert [drawing.name for drawing in section.drawings] == ["interactions"]


def test_an_interaction_in_words() -> None:
    losses = drawn(WIDE, 6, seed=1, spread=0.002)
    losses[2, 2] += 0.2
    both, single, limits, *_ = written(WIDE, losses).text
    assert both.startswith("The effects of drop and lr depend on each other (in 1 of 4 contrasts): in the")
    assert "drop 0.2 instead of 0.0 changes the validation loss by" in both and "lr 0.01" in both
    assert "For drop and lr these are averages over different effects" in single
    assert "Each interaction that was found rests on normal seed noise; 2 more seeds would check it" in limits


def test_additive_effects_in_words() -> None:
    losses = drawn(DEEP, 8, seed=2, spread=0.002) + np.array([[0], [0.3]])[..., None, None]
    both, single, limits, standing = written(DEEP, losses, tune=example.TUNE).text
    for names in ("drop and lr", "drop and bias", "lr and bias"):
        assert f"The effects of {names} are additive, with no interaction larger than 0.02" in both
    assert "Averaged over lr and bias, against drop 0.0: drop 0.2 is worse, 0.29969 higher" in single
    assert "shows no difference larger than 0.02" in single and "different effects" not in single
    assert "undecided" not in limits
    assert standing.startswith("Every arm was searched separately, so these are effects between tuned arms.")
    assert "three-way interactions are not tested" in written(DEEP, losses).tables[0][1]


def test_effects_are_additive_only_if_all_contrasts_show_it() -> None:
    losses = drawn(WIDE, 6, seed=13, spread=0.002)
    losses[2, 2] += np.array([0.1, -0.1, 0.08, -0.09, 0.07, -0.06])
    record = record_of(WIDE)
    found = interactions(runs_of(record, losses), record, "val/loss", 0.02)["verdict"]
    assert list(found) == ["no interaction larger than δ"] * 3 + ["undecided"]
    assert written(WIDE, losses).text[0].startswith("Whether the effects of drop and lr depend on each")


def test_a_significant_effect_below_delta_is_called_small() -> None:
    losses = drawn(SMALL, 8, seed=3, spread=0.0005) + np.array([[0], [0.012]])[..., None]
    losses[1, 1] += 0.008
    both, single, *_ = written(SMALL, losses).text
    assert "depend on each other" in both and "smaller than δ = 0.02" in both
    assert "drop 0.2 is worse" in single and "smaller than δ = 0.02" in single


def test_many_levels_are_grouped_by_verdict() -> None:
    levels: Levels = {DROP: [0.0, 0.1, 0.2, 0.3, 0.4], BIAS: [False, True]}
    losses = drawn(levels, 5, seed=4, spread=0.002) + np.array([0, 0, 0, 0.3, 0.3])[:, None, None]
    single = written(levels, losses).text[1]
    assert (
        "against drop 0.0: drop 0.3 and drop 0.4 are worse; drop 0.1 and drop 0.2 show no difference larger than 0.02."
    ) in single


def test_the_text_says_when_the_sign_flip_test_disagrees() -> None:
    # Five seeds up and one slightly down: the t test rejects, but 4 of the 64 sign patterns are as extreme.
    losses = drawn(SMALL, 6, seed=5, spread=0.0001)
    losses[1, 1] += np.array([0.1, 0.1, 0.1, 0.1, 0.1, -0.01])
    limits = written(SMALL, losses, first_plan={"method": "2"}).text[2]
    assert (
        "The sign-flip test, which does not assume normal noise, does not confirm the interaction of drop 0.2 "
        "with bias on (p = 0.0625)."
    ) in limits
    assert "is undecided" in written(SMALL, losses).text[0]  # the newest method sees that the contrast is skewed
    assert "1 more seed would check it" in limits  # for the two differences between levels
    losses[1, 1, 5] += 0.11
    agreed = written(SMALL, losses).text[2]
    assert "does not confirm" not in agreed and "interaction that was found" not in agreed


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_rows_carry_their_runs(seeds: tuple[int, ...]) -> None:
    losses = drawn(WIDE, 3, seed=6)[..., list(seeds)]
    record = record_of(WIDE)
    runs = runs_of(record, losses)
    section = section_of(record, runs)
    assert section is not None
    frames = [interactions(runs, record, "val/loss", 0.02), marginals(runs, record, "val/loss", 0.02)]
    expected = [ids.split() for frame in frames for ids in frame["run_ids"]]
    assert [list(row.runs) for table, _ in section.tables for row in table.rows] == expected
    assert {len(ids) for ids in expected} == {4 * len(seeds), 3 * len(seeds)}
    assert set(runs["run_id"]) == {one for ids in expected for one in ids}


def test_one_seed_gives_no_interval() -> None:
    section = written(SMALL, BY_HAND[..., :1])
    both, single, limits, _ = section.text
    assert both.endswith("an interaction of +0.2000 on the one common seed, so there is no interval.")
    assert "drop 0.2 is undecided, 0.2000 higher on the one common seed, so there is no interval" in single
    assert limits == "With one seed, an effect cannot be told from seed noise."
    assert column(section.tables[0][0], "Interaction") == ["+0.2000"]


def test_missing_arms_and_seeds_are_named() -> None:
    losses = drawn(WIDE, 4, seed=7)
    losses[2, 2] = math.nan
    losses[0, 1, 1] = math.nan
    losses[1, 0, 2:] = math.nan
    section = written(WIDE, losses)
    said = section.text[3]
    assert said == (
        "No complete confirm run: drop_rate=0.2, learning_rate=0.01. Results that need such an arm are left out (–). "
        "Not complete: seed 3 of drop_rate=0.0, learning_rate=0.003; seeds 4 and 5 of drop_rate=0.1, "
        "learning_rate=0.001. Each number uses only the seeds that all the arms it needs have."
    )
    crossed, drop = section.tables[0][0], section.tables[1][0]
    assert column(crossed, "Seeds") == ["1", "2", "3", "0"]
    assert column(crossed, "Interaction")[3] == "–" and column(crossed, "Verdict")[3] == "undecided"
    assert column(drop, "Seeds") == ["3", "2", "0"] and column(drop, "Pairs") == ["–", "1", "0"]
    assert crossed.rows[3].runs == () and "nan" not in " ".join(section.text)


def test_diverged_runs_are_named() -> None:
    losses = drawn(SMALL, 4, seed=7)
    losses[1, 1, 2:] = math.inf
    section = written(SMALL, losses)
    assert section.text[3].startswith(
        "Diverged: 2 runs of drop_rate=0.2, qkv_bias=true. These count with their loss before the first step; "
        "interactions that need them are undecided"
    )
    assert "nan" not in " ".join(section.text) and len(section.drawings) == 1


def test_a_pair_of_factors_without_a_common_seed_is_named() -> None:
    losses = drawn(DEEP, 2, seed=8)
    losses[:, 2, 1] = math.nan
    both, single, *_ = written(DEEP, losses).text
    assert "drop and bias have no interaction result: no seed is complete in all the arms" in both
    assert "Whether the effects of drop and lr depend on each other is undecided" in both
    assert "drop has no result: no seed is complete in all its arms." in single


def test_without_any_common_seed_there_are_no_results() -> None:
    losses = drawn(SMALL, 2, seed=9)
    losses[0, :, 0] = losses[1, :, 1] = math.nan
    section = written(SMALL, losses)
    assert section.tables == () and section.drawings == ()
    assert section.text == (
        "No seed is complete in all arms that an average needs, so there are no results. Not complete: seed 2 of "
        "drop_rate=0.0, qkv_bias=false and drop_rate=0.0, qkv_bias=true; seed 3 of drop_rate=0.2, qkv_bias=false and "
        "drop_rate=0.2, qkv_bias=true.",
    )
    record = record_of(SMALL)
    explored = section_of(record, example.frame(example.explore_runs({arm.name: arm.values for arm in record.arms})))
    assert explored is not None and explored.text[0].endswith("so there are no results.")


def test_no_section_for_fewer_than_two_factors() -> None:
    one = {DROP: [0.0, 0.1, 0.2]}
    record = record_of(one)
    assert section_of(record, runs_of(record, drawn(one, 3, seed=10))) is None
    values = {DROP: 0.1, BIAS: False}
    same = example.record({"drop_rate=0.1": values, "drop_rate=0.1 (2)": values})
    runs = [example.run(i, arm.name, values, seed=2, loss=5.0 + i) for i, arm in enumerate(same.arms)]
    assert section_of(same, example.frame(runs)) is None


def test_no_section_where_arms_are_not_ranked() -> None:
    levels: Levels = {DROP: [0.0, 0.1], "data.corpus": ["sotu-1820", "sotu"]}
    record = record_of(levels)
    runs = runs_of(record, drawn(levels, 3, seed=11))
    assert factor_section(example.evidence(record, runs)) is None


def test_other_tokens_are_compared_in_bits_per_byte() -> None:
    levels: Levels = {DROP: [0.0, 0.1], "data.tokenizer": ["gpt2", "byte"]}
    record = record_of(levels)
    section = section_of(record, runs_of(record, drawn(levels, 3, seed=12)), "val/bits_per_byte")
    assert section is not None and "changes the validation bits per byte by" in section.text[0]
    assert "Val bits per byte" in [column.label for column in section.tables[1][0].columns]
    assert "no interaction larger than 0.00667" in section.tables[0][1].lower()
