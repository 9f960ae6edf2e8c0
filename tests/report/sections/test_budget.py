from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pytest

import example_sweep as example
from harness.analysis.budget import arm_costs, run_costs
from harness.analysis.comparison import verdict_runs
from harness.report.sections.budget import Amount, budget_section, flops_text
from harness.report.sections.section import Section
from harness.report.tables.table import Table
from harness.report.text.numbers import count

CONTEXTS = {f"context_length={length}": {"model.context_length": length} for length in (16, 64, 256)}
SHORT, MIDDLE, LONG = CONTEXTS
WIDTHS = {"emb_dim=64": {}, "emb_dim=128": {"model.emb_dim": 128}}


def runs(
    arms: Mapping[str, Mapping[str, Any]], seeds: Sequence[int] = (1, 2), **columns: Mapping[str, Any] | float
) -> pd.DataFrame:
    """Complete confirm runs; a column is one value for all runs, or arm → value."""
    rows = []
    for place, (arm, values) in enumerate(arms.items()):
        for seed in seeds:
            row = example.run(10 * place + seed, arm, values, seed=seed, loss=5.0)
            rows.append(row | {name: v[arm] if isinstance(v, Mapping) else v for name, v in columns.items()})
    return example.frame(rows)


def budget(kind: str, value: Any) -> dict[str, Any]:
    """Columns of a spec that sets its budget in another kind than tokens."""
    return {"train.budget.tokens": math.nan, f"train.budget.{kind}": value}


def section(
    arms: Mapping[str, Mapping[str, Any]], frame: pd.DataFrame, tune: Mapping[str, Any] | None = None, **changes: Any
) -> Section:
    found = budget_section(example.evidence(example.record(arms, tune, **changes), frame))
    assert found
    return found


def read(table: Table) -> dict[str, dict[str, str]]:
    """Arm → heading → text."""
    names = [column.label for column in table.columns]
    rows = [dict(zip(names, (cell.text for cell in row.cells), strict=True)) for row in table.rows]
    return {row["Arm"]: row for row in rows}


def test_costs_worked_by_hand() -> None:
    # Per token 6·N + 12·2·64·T. N: two blocks of 4·64² + 64 + 8·64² + 5·64 + 4·64 = 49,792, a last norm of 128, and the
    # head of 50257·64 = 3,216,448: 3,316,160. So 19,896,960 + 1,536·T.
    frame = runs(CONTEXTS, seconds={SHORT: 64.0, MIDDLE: 128.0, LONG: 256.0})
    costs = run_costs(verdict_runs(frame), list(CONTEXTS)).set_index("arm")
    for arm, length in ((SHORT, 16), (MIDDLE, 64), (LONG, 256)):
        assert costs.loc[arm, "flops"] == 8192 * (19_896_960 + 1536 * length)
        assert costs.loc[arm, "parameters"] == 3_316_160 + (50257 + length) * 64
    assert list(costs["tokens_per_second"]) == [128, 64, 32]
    assert costs.loc[SHORT, ["runs", "steps", "tokens", "seconds"]].tolist() == [2, 16, 8192, 64]
    assert costs.loc[LONG, "run_ids"] == " ".join(frame.loc[frame["arm"] == LONG, "run_id"])


def test_means_are_over_the_newest_complete_confirm_runs() -> None:
    rows = [
        {**example.run(1, "a", {}, seed=1, loss=5.0), "tokens": 9, "seconds": 1.0},  # repeated by the next
        {**example.run(2, "a", {}, seed=1, loss=5.0), "tokens": 100, "seconds": 10.0},
        {**example.run(3, "a", {}, seed=2, loss=5.0), "tokens": 300, "seconds": 15.0},
        {**example.run(4, "a", {}, seed=3, outcome="oom"), "tokens": 7},
        {**example.run(5, "a", {}, phase="explore", loss=5.0, trial=0), "tokens": 7},
    ]
    (costs,) = run_costs(verdict_runs(example.frame(rows)), ["a"]).to_dict("records")
    assert (costs["runs"], costs["tokens"], costs["seconds"]) == (2, 200, 12.5)
    assert costs["tokens_per_second"] == (100 / 10 + 300 / 15) / 2


def test_equal_quantities_and_differences_are_named() -> None:
    frame = runs(CONTEXTS, seconds={SHORT: 60.0, MIDDLE: 90.0, LONG: 150.0})
    found = section(CONTEXTS, frame)
    given, parity = found.text
    assert given == "The spec gives each run 8,192 tokens."
    # FLOPs: 20,290,176 / 19,921,536 = 1.01850; parameters differ by 240·64 of 6.5 million, 0.2 %.
    assert parity == (
        "Equal between the arms: tokens per run (8,192) and steps per run (16). FLOPs differ by up to 1.9 % (163 G "
        "for context_length=16, 166 G for context_length=256). Wall time differs by up to a factor of 2.5 (1 min 00 s "
        "for context_length=16, 2 min 30 s for context_length=256); other runs may have trained at the same time, so "
        "this is not a benchmark."
    )
    assert found.heading == "Training budget and cost of each arm"


def test_larger_models_at_equal_tokens_take_more_flops() -> None:
    parity = section(WIDTHS, runs(WIDTHS)).text[1]
    costs = run_costs(verdict_runs(runs(WIDTHS)), list(WIDTHS))
    for name, column in (("FLOPs", "flops"), ("parameters", "parameters")):
        assert f"{name} differ by a factor of {costs[column][1] / costs[column][0]:.1f} (" in parity
    assert "Equal between the arms: tokens per run (8,192) and steps per run (16)." in parity
    assert "Wall time" not in parity  # equal in the example


def test_two_arms_that_round_to_the_same_are_told_apart() -> None:
    first, second = example.ARMS
    frame = runs(example.ARMS, seconds={first: 10.4, second: 10.0}, **budget("seconds", 2.0))
    frame["steps"] = [18, 19, 17, 18]
    found = section(example.ARMS, frame)
    assert "Steps differ by 5.7 % (17.5 for drop_rate=0.1, 18.5 for drop_rate=0.0)." in found.text[1]
    assert "Wall time differs by 4.0 % (10.0 s for drop_rate=0.1, 10.4 s for drop_rate=0.0)" in found.text[1]
    assert read(found.tables[0][0])[first]["Steps"] == "18.5"


def test_a_budget_in_flops_matches_flops_to_whole_steps() -> None:
    per_token = {arm: frame["flops_per_token"].iloc[0] for arm, frame in runs(WIDTHS).groupby("arm")}
    target = 512 * 400 * per_token["emb_dim=64"]
    steps = {arm: round(target / (512 * per_token[arm])) for arm in WIDTHS}
    tokens = {arm: 512 * steps[arm] for arm in WIDTHS}
    found = section(WIDTHS, runs(WIDTHS, steps=steps, tokens=tokens, **budget("flops", target)))
    assert found.text[0] == f"The spec gives each run {count(target)} FLOPs."
    assert found.text[1].startswith("Equal between the arms: FLOPs per run (4.09 T to 4.1 T). Tokens differ by a")
    assert "differ in their budget" not in found.text[1]


def test_a_budget_that_differs_is_named_first() -> None:
    # Whole steps of a budget in FLOPs: 3 and 4 steps differ by 33 %.
    frame = runs(CONTEXTS, tokens={SHORT: 2048, MIDDLE: 1536, LONG: 1536}, steps=4, **budget("flops", 3e10))
    parity = section(CONTEXTS, frame).text[1]
    assert parity.startswith("The arms differ in their budget, which should be equal: FLOPs differ by up to 33 % (30.")
    assert parity.count("FLOPs differ") == 1 and "Equal between the arms: steps per run (4). Tokens differ" in parity


@pytest.mark.parametrize(("tokens", "matched"), [(8192, True), (8273, True), (8275, False), (16384, False)])
def test_amounts_within_one_percent_are_matched(tokens: int, matched: bool) -> None:
    amount = Amount("tokens", "tokens", {"a": 8192, "b": tokens, "c": 8200}, count)
    assert amount.matched is matched
    assert amount.excess == pytest.approx(tokens / 8192 - 1 if tokens > 8200 else 8 / 8192, abs=1e-12)
    parity = section(example.ARMS, runs(example.ARMS, tokens=dict(zip(example.ARMS, (8192, tokens), strict=True))))
    assert ("differ in their budget, which should be equal: tokens" in parity.text[1]) is not matched
    assert ("tokens per run (8,192" in parity.text[1]) is matched


def test_amounts_without_two_arms_are_not_matched() -> None:
    for values in ({}, {"a": 1.0}, {"a": 0.0, "b": 1.0}):
        amount = Amount("tokens", "tokens", values, count)
        assert math.isnan(amount.excess) and not amount.matched


def test_a_budget_in_seconds_matches_training_time() -> None:
    frame = runs(
        CONTEXTS,
        tokens={SHORT: 10_240, MIDDLE: 8192, LONG: 4096},
        steps={SHORT: 20, MIDDLE: 16, LONG: 8},
        **budget("seconds", 30.0),
    )
    found = section(CONTEXTS, frame)
    assert found.text[0] == "The spec gives each run 30 s of training."
    assert found.text[1].startswith(
        "Equal between the arms: training time per run (30 s). Tokens differ by up to a factor of 2.5 (4,096 for "
        "context_length=256, 10.2 k for context_length=16); steps differ by up to a factor of 2.5 ("
    )
    assert read(found.tables[0][0])[LONG]["Training time"] == "30 s"
    assert "Training time" not in read(section(CONTEXTS, runs(CONTEXTS)).tables[0][0])[LONG]


def test_a_budget_in_epochs_is_compared_with_the_trained_epochs() -> None:
    frame = runs(CONTEXTS, epochs={SHORT: 1.0, MIDDLE: 0.995, LONG: 0.8}, **budget("epochs", 1.0))
    found = section(CONTEXTS, frame)
    assert found.text[0] == "The spec gives each run 1 epoch."
    assert "which should be equal: epochs differ by up to 25 % (0.8 for context_length=256, 1 for" in found.text[1]
    kept = section(CONTEXTS, runs(CONTEXTS, epochs=2.5, **budget("epochs", 2.5)))
    assert kept.text[0] == "The spec gives each run 2.5 epochs."
    assert "steps per run (16) and epochs per run (2.5)." in kept.text[1]


def test_a_budget_in_steps() -> None:
    frame = runs(CONTEXTS, tokens={SHORT: 256, MIDDLE: 1024, LONG: 4096}, **budget("steps", 16))
    found = section(CONTEXTS, frame)
    assert found.text[0] == "The spec gives each run 16 steps."
    assert found.text[1].startswith(
        "Equal between the arms: steps per run (16). Tokens differ by up to a factor of 16 (256 for "
        "context_length=16, 4,096 for context_length=256); FLOPs differ by up to a factor of 16 ("
    )


def test_a_compared_budget_is_not_called_a_difference() -> None:
    arms = {"budget.tokens=4096": {"train.budget.tokens": 4096}, "budget.tokens=8192": {"train.budget.tokens": 8192}}
    columns: dict[str, Any] = {
        name: dict(zip(arms, values, strict=True)) for name, values in (("tokens", (4096, 8192)),)
    }
    frame = runs({arm: {} for arm in arms}, **columns, **{"train.budget.tokens": columns["tokens"]})
    given, parity = section(arms, frame).text
    assert given == "The spec gives each run 4,096 tokens to 8,192 tokens. The sweep compares budgets."
    assert "should be equal" not in parity and "Tokens differ by a factor of 2.0" in parity
    tuned = section(
        example.ARMS,
        frame.assign(arm=frame["arm"].map(dict(zip(arms, example.ARMS, strict=True)))),
        {"train.budget.tokens": {"choice": [4096, 8192]}},
    )
    assert tuned.text[0].endswith("The search chose the budget of each arm.")
    assert tuned.text[1].startswith(
        "The arms differ in their budget, which should be equal: tokens differ by a factor of 2.0"
    )


def test_budgets_of_different_kinds_are_both_named() -> None:
    arms: dict[str, dict[str, float]] = {"a": {"train.budget.tokens": 8192}, "b": {"train.budget.seconds": 10.0}}
    columns: dict[str, Any] = {
        "train.budget.tokens": {"a": 8192, "b": math.nan},
        "train.budget.seconds": {"a": math.nan, "b": 10.0},
    }
    given, parity = section(arms, runs({"a": {}, "b": {}}, **columns)).text
    assert given.startswith("The spec gives each run 8,192 tokens or 10 s of training. The sweep compares budgets.")
    assert "training time" not in parity


def test_the_cost_of_an_arm_includes_all_its_runs() -> None:
    rows = [*example.explore_runs(), *example.confirm_runs()]
    rows[3] = {**rows[3], "tokens": None, "seconds": None, "flops_per_token": None}  # failed before its first point
    rows.append({**example.run(900, "drop_rate=0.0", {}, outcome="oom"), "tokens": 512, "seconds": 0.5})
    rows.append({**example.run(901, "drop_rate=0.0", {}, phase="superseded", loss=5.0), "seconds": 8.0})
    frame = example.frame(rows)
    first, second = arm_costs(frame, list(example.ARMS)).to_dict("records")
    assert (first["explore_runs"], first["explore_tokens"], first["explore_seconds"]) == (4, 3 * 8192, 3 * 61.5)
    assert (first["confirm_runs"], first["confirm_tokens"]) == (5, 4 * 8192 + 512)
    assert first["confirm_seconds"] == 3 * 61.5 + 0.5 + 8
    assert first["flops"] == pytest.approx((7 * 8192 + 512) * (19_896_960 + 1536 * 64), rel=1e-12)
    assert (second["explore_tokens"], second["confirm_tokens"]) == (4 * 8192, 3 * 8192)
    found = section(example.ARMS, frame, example.TUNE)
    assert (
        "The search trained on 24.6 k tokens for drop_rate=0.0 and on 32.8 k tokens for drop_rate=0.1." in found.text[1]
    )
    table = read(found.tables[1][0])
    assert list(table["drop_rate=0.0"].values())[1:] == [
        "4",
        "24.6 k",
        "3 min 04 s",
        "5",
        "33.3 k",
        "3 min 13 s",
        "1.16 T",
    ]


def test_searches_with_equal_tokens_are_called_equal() -> None:
    frame = example.frame([*example.explore_runs(), *example.confirm_runs()])
    assert "The search trained on 32.8 k tokens in each arm." in section(example.ARMS, frame, example.TUNE).text[1]
    untuned = section(example.ARMS, frame)
    assert "search" not in untuned.text[1] and "Search runs" not in read(untuned.tables[1][0])["drop_rate=0.0"]


def test_every_row_names_its_runs() -> None:
    frame = example.frame([*example.explore_runs(), *example.confirm_runs()])
    found = section(example.ARMS, frame, example.TUNE)
    confirm = frame["phase"] == "confirm"
    for place, arm in enumerate(example.ARMS):
        assert found.tables[0][0].rows[place].runs == tuple(frame.loc[confirm & (frame["arm"] == arm), "run_id"])
        assert found.tables[1][0].rows[place].runs == tuple(frame.loc[frame["arm"] == arm, "run_id"])


def test_one_arm_has_no_comparison_of_budgets() -> None:
    found = section({"all": {}}, runs({"all": {}}))
    assert found.heading == "Training budget and cost" and found.text == ("The spec gives each run 8,192 tokens.",)
    assert read(found.tables[0][0])["all"] == {
        "Arm": "all",
        "Runs": "2",
        "Parameters": "6.54 M",
        "Steps": "16",
        "Tokens": "8,192",
        "FLOPs": "164 G",
        "Time": "1 min 02 s",
        "Tokens/s": "133",
    }


def test_an_arm_without_a_result_is_named_and_not_matched() -> None:
    failed = [{**example.run(500 + n, LONG, {}, seed=n, outcome="failed"), "tokens": None} for n in (1, 2)]
    done = runs({SHORT: CONTEXTS[SHORT], MIDDLE: CONTEXTS[MIDDLE]})
    found = section(CONTEXTS, example.frame([*done.to_dict("records"), *failed]))
    assert found.text[1].startswith("Equal between the arms: tokens per run (8,192), steps per run (16) and FLOPs")
    assert found.text[1].endswith("context_length=256: no complete confirm run, so not included here.")
    row = read(found.tables[0][0])[LONG]
    assert row["Runs"] == "0" and set(list(row.values())[2:]) == {"–"}
    assert read(found.tables[1][0])[LONG]["Confirm tokens"] == "–"


def test_missing_columns_leave_only_their_own_values_out() -> None:
    frame = runs(CONTEXTS).drop(columns=["flops_per_token", "steps", "seconds", "train.budget.tokens"])
    found = section(CONTEXTS, frame)
    assert found.text == ("Equal between the arms: tokens per run (8,192).",)
    row = read(found.tables[0][0])[SHORT]
    assert (row["FLOPs"], row["Steps"], row["Time"], row["Tokens/s"]) == ("–", "–", "–", "–")
    nothing = section(CONTEXTS, frame.drop(columns=["tokens", "parameters"]))
    assert nothing.text == ()


def test_integer_columns_with_missing_values_are_read() -> None:
    frame = runs(CONTEXTS)
    frame.loc[0, "tokens"] = None
    found = section(CONTEXTS, frame.astype({"tokens": "Int64"}))
    assert "tokens per run (8,192)" in found.text[1]


def test_nothing_complete_gives_no_section() -> None:
    record = example.record()
    assert budget_section(example.evidence(record, example.frame(example.explore_runs()))) is None
    failed = example.frame([example.run(1, "drop_rate=0.0", {}, outcome="failed")])
    assert budget_section(example.evidence(record, failed)) is None


def test_equal_tokens_of_different_tokenizers_are_not_equal_text() -> None:
    arms = {f"tokenizer={name}": {"data.tokenizer": name} for name in ("gpt2", "byte")}
    warning = "The arms have different tokenizers, so equal numbers of tokens are different amounts of text."
    assert warning in section(arms, runs(arms)).text[1]
    assert warning not in section(CONTEXTS, runs(CONTEXTS)).text[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.5e12, "1.5 T"), (9.99e14, "999 T"), (9.997e14, "1 P"), (1.234e15, "1.23 P"), (9.996e17, "1 E"), (2e18, "2 E")],
)
def test_large_amounts_of_flops_have_a_unit(value: float, text: str) -> None:
    assert flops_text(value) == text


def test_arms_without_an_equal_quantity_are_named() -> None:
    frame = runs(WIDTHS, tokens={"emb_dim=64": 8192, "emb_dim=128": 1024}, steps={"emb_dim=64": 16, "emb_dim=128": 2})
    parity = section(WIDTHS, frame).text[1]
    assert parity.startswith(
        "The arms differ in their budget, which should be equal: tokens differ by a factor of 8.0 (1,024 for"
    )
    assert "Neither tokens nor steps nor FLOPs are equal between the arms. Steps differ by a factor of 8.0" in parity
