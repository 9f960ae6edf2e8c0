from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import example_sweep as example
from harness.analysis.comparison import Comparability
from harness.report.sections.search import search_section
from harness.report.sections.section import Section
from harness.report.tables.table import Table
from harness.tracking import SweepRecord

pytestmark = pytest.mark.slow

A, B = example.ARMS
RATE = {"train.learning_rate": {"log_uniform": [1e-4, 1e-2]}}
Trial = tuple[float, str | None, float]  # learning rate, outcome, loss


def sweep(
    arms: Mapping[str, Sequence[Trial]], tune: Mapping[str, Any] = RATE, asked: int = 4, sampler: str = "random"
) -> tuple[SweepRecord, pd.DataFrame]:
    """A searched sweep with these trials; every initial loss is 10.8."""
    rows = [
        example.run(
            100 * place + number,
            arm,
            {"model.drop_rate": place / 100, "train.learning_rate": rate},
            phase="explore",
            outcome=outcome,
            loss=loss,
            trial=number,
        )
        for place, (arm, trials) in enumerate(arms.items())
        for number, (rate, outcome, loss) in enumerate(trials)
    ]
    names = {arm: {"model.drop_rate": place / 100} for place, arm in enumerate(arms)}
    study = {"sampler": sampler, "pruner": "median", "trials": asked, "seeds": 3}
    return example.record(names, tune, study=study), example.frame(rows)


def done(*trials: tuple[float, float]) -> list[Trial]:
    return [(rate, "complete", loss) for rate, loss in trials]


def section_of(*args: Any, metric: str = "val/loss", **options: Any) -> Section:
    known: dict[str, Any] = {} if metric == "val/loss" else {"comparability": Comparability(metric)}
    found = search_section(example.evidence(*sweep(*args, **options), **known))
    assert found is not None
    return found


def table_of(section: Section) -> Table:
    _, (table, _) = section.tables
    return table


def cells(section: Section) -> list[dict[str, str]]:
    header, *rows = table_of(section).lines()
    return [dict(zip(header, row, strict=True)) for row in rows]


def drawn(section: Section) -> dict[str, str]:
    return {drawing.name: drawing.caption for drawing in section.drawings}


def test_nothing_tuned_or_tried_gives_no_section() -> None:
    record, runs = sweep({A: done((1e-3, 5.0)), B: done((1e-3, 5.1))})
    assert search_section(example.evidence(example.record(), runs)) is None
    assert search_section(example.evidence(record, example.frame(example.confirm_runs()))) is None
    unheard = example.record(tune={"model.unheard_of": {"uniform": [0, 1]}})
    assert search_section(example.evidence(unheard, runs)) is None


def test_the_table_worked_by_hand() -> None:
    section = section_of(
        {
            A: [*done((1e-4, 6.0), (1e-3, 4.0), (10**-2.8, 4.5)), (1e-2, "diverged", math.nan), (2e-3, "pruned", 1.0)],
            B: [*done((9e-3, 5.0), (8.5e-3, 5.1), (9.5e-3, 5.2), (1e-4, 6.0)), (1e-3, "oom", math.nan)],
        },
        asked=5,
    )
    first, second = cells(section)
    assert first == {
        "Arm": A,
        "Planned": "5",
        "Complete": "3",
        "Pruned": "1",
        "Diverged": "1 (20 %)",  # of five complete, pruned and diverged
        "Failed": "0",
        "Best val loss": "4.0000",
        "learning_rate, 0–1": "0.50",
        # u = 0, 0.5 (best), 0.6 and, diverged, 1: distances to neighbours 0.5, 0.1, 0.1, 0.4, of median 0.25
        "Nearest diverged": "0.50",
        # excess over u: 2 at 0, 0 at 0.5, 0.5 at 0.6, 6.8 at 1; area 0.5 + 0.025 + 1.46
        "LR sensitivity": "1.985",
    }
    # the best three lie at 0.977, 0.965 and 0.989
    assert second["learning_rate, 0–1"] == "0.98 high edge, strong"
    assert (second["Diverged"], second["Failed"], second["Nearest diverged"]) == ("0", "1", "–")
    assert [len(row.runs) for row in table_of(section).rows] == [5, 5]
    assert table_of(section).rows[0].runs[0] == f"{0:08x}" + "f" * 24
    _, (_, note) = section.tables
    assert "from 1e-4 to 0.01" in note and "nats per token" in note and "Other tuned dimensions" not in note


def test_text_names_edges_and_diverged_trials() -> None:
    high = done((9.9e-3, 5.0), (1e-3, 5.1))
    lost = [(rate, "diverged", math.nan) for rate in (1.5e-3, 9e-3)]
    section = section_of({A: [*done((1e-3, 4.0), (2e-3, 4.5)), *lost], B: high})
    edge, diverged, *_ = section.text
    assert edge == f"The best trial lies at an edge of the search space in {B} (learning_rate high)."
    assert diverged == f"Trials that diverged: 2 of 4 in {A}; the best trial lies next to diverged ones in {A}."
    # log10(1.5)/2 away, so within a tenth; neighbours are nearer still
    assert cells(section)[0]["Nearest diverged"] == "0.09, near"
    far = section_of({A: [*done((1e-3, 4.0), (1.2e-3, 4.5)), *lost[1:]], B: high})
    assert far.text[1] == f"Trials that diverged: 1 of 3 in {A}; none of them is near the best trial of its arm."
    assert cells(far)[0]["Nearest diverged"] == "0.48"


def test_text_says_when_nothing_is_wrong() -> None:
    section = section_of({A: done((1e-3, 4.0), (3e-3, 4.5)), B: done((1e-3, 5.0), (3e-3, 5.1))})
    assert section.text == (
        "No arm's best trial lies at an edge of the search space.",
        "No trial diverged.",
        "The order of the arms by the expected best of k trials is the same for every k.",
    )
    assert set(drawn(section)) == {"tuning", "search-luck"}  # one dimension alone is not ranked
    assert "cross" not in drawn(section)["search-luck"] and "Pruned" not in drawn(section)["search-luck"]
    assert "Nearest diverged" not in cells(section)[0] and "Running" not in cells(section)[0]


def test_arms_whose_order_depends_on_the_number_of_trials_are_named() -> None:
    steady = done(*[(1e-3 * (1 + n / 10), 5.0) for n in range(4)])
    lucky = done(*[(1e-3 * (1 + n / 10), loss) for n, loss in enumerate([6.0, 6.0, 6.0, 3.0])])  # ahead from k = 2 on
    section = section_of({A: steady, B: lucky}, sampler="tpe")
    assert section.text[-1] == "Which arm has the lower expected best of k trials depends on k."
    caption = drawn(section)["search-luck"]
    assert f"Lines that cross: {A} and {B} at k = 2." in caption and "sampler tpe" in caption
    three = section_of({A: steady, B: lucky, "c": done((1e-3, 9.0), (2e-3, 9.0))})
    assert three.text[-1] == (
        "The order by expected best of k trials depends on k for 1 of 3 pairs of arms, and so does the best arm: "
        f"{A}, then {B}."
    )
    behind = section_of({A: steady, B: lucky, "c": done((1e-3, 1.0), (2e-3, 1.0))})
    assert behind.text[-1].endswith("1 of 3 pairs of arms; c is best for every k.")


def test_in_expected_best_a_diverged_trial_counts_as_untrained_and_a_pruned_one_not_at_all() -> None:
    steady = done((1e-3, 5.0), (2e-3, 5.0), (3e-3, 5.0))
    # with (4, 10.8): 7.4 for one trial, 5.7 for two; with (4, 6.0): 5.0 and ahead
    lost = section_of({A: steady, B: [*done((1e-3, 4.0)), (2e-3, "diverged", math.nan), (3e-3, "diverged", math.nan)]})
    assert "Lines that cross" not in drawn(lost)["search-luck"]  # (4 + 2·10.8)/3, and still 5.01 … for three
    pruned = section_of({A: steady, B: [*done((1e-3, 4.0), (2e-3, 4.0)), (3e-3, "pruned", 3.0)]})
    assert "Pruned trials are left out" in drawn(pruned)["search-luck"]
    assert cells(pruned)[1]["Best val loss"] == "4.0000"


def test_arms_with_different_texts_are_not_ordered() -> None:
    record, runs = sweep({A: done((1e-3, 5.0), (2e-3, 5.0)), B: done((1e-3, 6.0), (2e-3, 3.0))})
    runs["data.corpus"] = ["one", "one", "two", "two"]
    section = search_section(example.evidence(record, runs))
    assert section and len(section.text) == 2
    assert not any("cross" in caption for caption in drawn(section).values())
    assert cells(section)[0]["Best val bits per byte"] == "1.6667"


@pytest.mark.parametrize(
    "trials",
    [
        [(1e-3, "complete", 5.0)],
        [(1e-3, "diverged", math.nan), (2e-3, "diverged", math.nan)],
        [(1e-3, "pruned", 7.0)],
        [(1e-3, None, math.nan)],
        [(1e-3, "failed", math.nan)],
    ],
)
def test_a_search_with_at_most_one_result_is_described(trials: list[Trial]) -> None:
    for arms in ({A: trials}, {A: trials, B: []}, {A: trials, B: done((1e-3, 5.0), (3e-3, 5.1))}):
        section = section_of(arms)
        assert len(cells(section)) == len(arms)
        complete = trials[0][1] == "complete"
        assert (f"No trial is complete in {A}" in section.text[0]) is not complete
        assert cells(section)[0]["Best val loss"] == ("5.0000" if complete else "–")
        assert cells(section)[0]["LR sensitivity"] == "–"
        assert ("Running" in cells(section)[0]) is (trials[0][1] is None)


def test_long_lists_are_cut_and_their_rest_is_counted() -> None:
    arms = {f"drop_rate=0.{place:02d}": done((9.9e-3, 5.0), (1e-3, 6.0)) for place in range(12)}
    (edge, *_), names = section_of(arms).text, list(arms)
    assert f"{names[3]} (learning_rate high) and 8 more arms." in edge and names[4] not in edge
    wordy = {f"{name}, {'tie_embeddings=true, ' * 3}qkv_bias=true": trials for name, trials in arms.items()}
    first = next(iter(wordy))
    assert section_of(wordy).text[0].endswith(f"in {first} (learning_rate high) and 11 more arms.")


def test_two_dimensions_are_ranked_where_there_are_enough_trials() -> None:
    tune = {**RATE, "train.weight_decay": {"uniform": [0.0, 0.2]}}
    rng = np.random.default_rng(1)
    u = rng.uniform(size=(24, 2))
    rates, losses = 1e-4 * 100 ** u[:, 0], 5 + 4 * (u[:, 0] - 0.5) ** 2 + 0.2 * (u[:, 1] - 0.5) ** 2
    many = done(*zip(rates.tolist(), losses.tolist(), strict=True))
    few = done(*zip(rates[:9].tolist(), rng.normal(5, 0.1, 9).tolist(), strict=True))
    record, runs = sweep({A: many, B: few, "c": few[:3]}, tune)
    runs["train.weight_decay"] = 0.2 * np.concatenate([u[:, 1], u[:9, 1], u[:3, 1]])
    section = search_section(example.evidence(record, runs))
    assert section and "importance" in drawn(section)
    (picture,) = [drawing for drawing in section.drawings if drawing.name == "importance"]
    assert A in picture.file and B not in picture.file
    words = section.text[-1]
    assert words.startswith(f"Too few trials to rank dimensions in {B} (out-of-bag R² ")
    assert words.endswith("from 9 trials) and c (3 trials).")
    _, (_, note) = section.tables
    assert "Other tuned dimensions vary at the same time" in note and "The low end of weight_decay is 0" in note


def test_the_same_runs_give_the_same_section() -> None:
    record, runs = sweep({A: done((1e-3, 5.0), (2e-3, 5.5)), B: done((1e-3, 5.1), (2e-3, 5.2))})
    assert search_section(example.evidence(record, runs)) == search_section(example.evidence(record, runs))


def test_the_text_says_how_many_points_were_random() -> None:
    def words(sampler: str, points: Sequence[str | None], **study: int) -> str:
        trials = done(*[(1e-3 * (1 + n / 10), 5.0 - n / 10) for n in range(4)])
        record, runs = sweep({A: trials, B: trials}, sampler=sampler)
        record = replace(record, study={**record.study, **study})
        found = search_section(example.evidence(record, runs.assign(point=points)))
        assert found is not None
        return found.text[0]

    tagged = ["random", "random", "modelled", "modelled"]
    assert words("tpe", tagged * 2) == (
        "2 of 4 points in each arm were random; TPE chose the others from earlier results."
    )
    parallel = ["random", "random", "random", "modelled"]
    assert words("gp", [*tagged, *parallel]) == (
        f"Random points: 2 of 4 in {A} and 3 of 4 in {B}; GP chose the others from earlier results."
    )
    untagged = [None] * 8
    assert words("tpe", untagged, unmodelled_trials=3).startswith("3 of 4 points")
    assert words("tpe", untagged) == "All points were random: TPE used no result of an earlier trial."  # an old sweep
    assert words("random", untagged) == "No arm's best trial lies at an edge of the search space."


def test_choices_that_cmaes_draws_at_random_are_named() -> None:
    trials = done((1e-3, 5.0), (2e-3, 4.0), (3e-3, 4.5), (4e-3, 4.6))
    record, runs = sweep({A: trials}, RATE | {"model.qkv_bias": {"choice": [False, True]}}, sampler="cmaes")
    found = search_section(example.evidence(record, runs.assign(point=["random", "random", "modelled", "modelled"])))
    assert found is not None
    assert found.text[0] == (
        "2 of 4 points were random; CMAES chose the others from earlier results. "
        "It draws choices (qkv_bias) at random in every trial."
    )


def test_a_search_over_tokenizers_is_shown_in_bits_per_byte() -> None:
    tune = {"data.tokenizer": {"choice": ["byte", "gpt2"]}}
    record, runs = sweep({A: done((1e-3, 5.5), (1e-3, 10.8)), B: done((1e-3, 5.4), (1e-3, 10.7))}, tune)
    runs["data.tokenizer"] = ["byte", "gpt2"] * 2
    runs["val/bits_per_byte"] = [7.9, 3.0, 7.8, 3.1]
    evidence = example.evidence(record, runs)
    assert evidence.metric == "val/bits_per_byte" and evidence.ranked
    found = search_section(evidence)
    assert found is not None
    best, note = found.tables[0]
    assert "lowest validation bits per byte" in note
    assert [column.label for column in best.columns][1:3] == ["tokenizer", "Explore val bits per byte"]
    assert [row.cells[1].text for row in best.rows] == ["gpt2", "gpt2"]
    assert cells(found)[0]["Best val bits per byte"] == "3.0000"
