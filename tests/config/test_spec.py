from __future__ import annotations

import json
from pathlib import Path

from harness.core.text import visible
from specs import GOOD, load


def test_arms_are_all_combinations_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("[0.0, 0.1]", "[0.0, 0.1]\n  model.qkv_bias: [false, true]").replace(
        "baseline: {model.drop", "#"
    )
    spec = load(tmp_path, text)
    assert [arm.name for arm in spec.arms()] == [
        "drop_rate=0.0, qkv_bias=false",
        "drop_rate=0.0, qkv_bias=true",
        "drop_rate=0.1, qkv_bias=false",
        "drop_rate=0.1, qkv_bias=true",
    ]
    assert spec.baseline_arm == spec.arms()[0]
    assert spec.run_config(spec.arms()[3].values).model.qkv_bias is True


def test_without_compare_or_tune_there_is_one_arm_and_one_seed(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("compare:")]
    spec = load(tmp_path, text)
    assert [arm.name for arm in spec.arms()] == ["all"]
    assert (spec.trials, spec.seeds) == (0, (1,))


def test_confirm_seeds_are_fresh_only_after_a_search(tmp_path: Path) -> None:
    searched = load(tmp_path, GOOD)
    assert searched.base.train.seed not in searched.seeds
    compared = load(tmp_path, GOOD[: GOOD.index("tune:")] + "study: {seeds: 2}")
    assert compared.seeds == (1, 2)


def test_a_grid_has_at_most_as_many_trials_as_points(tmp_path: Path) -> None:
    grid = GOOD.replace("log_uniform: [3e-4, 3e-3]", "choice: [1e-4, 1e-3, 1e-2]")
    assert load(tmp_path, grid.replace("{trials: 4, seeds: 3}", "{sampler: grid}")).trials == 3
    assert load(tmp_path, grid.replace("{trials: 4, seeds: 3}", "{sampler: grid, trials: 2}")).trials == 2
    assert load(tmp_path, grid.replace("{trials: 4, seeds: 3}", "{sampler: grid, trials: 9}")).trials == 3


def test_the_identity_depends_only_on_what_decides_the_numbers(tmp_path: Path) -> None:
    base = load(tmp_path, GOOD).identity("data")
    same = [
        GOOD.replace("name: dropout", "name: other"),
        GOOD.replace("Does dropout help?", "Really?"),
        GOOD.replace("trials: 4, seeds: 3", "trials: 9, seeds: 5"),
        GOOD.replace("tokens: 400_000", "tokens: 4e5"),
    ]
    same.append(GOOD.replace("  budget:", "  checkpoint_every: 5\n  budget:"))
    same.append(GOOD.replace("  budget:", "  checkpoint_every: null\n  budget:"))
    same.append(GOOD.replace("baseline: {model.drop_rate: 0.1}", "baseline: {model.drop_rate: 0.0}"))
    other = [
        GOOD.replace("tokens: 400_000", "tokens: 400_128"),
        GOOD.replace("[0.0, 0.1]", "[0.0, 0.1, 0.2]"),
        GOOD.replace("3e-3]", "4e-3]"),
        GOOD.replace("trials: 4", "sampler: random, trials: 4"),
    ]
    assert all(load(tmp_path, text).identity("data") == base for text in same)
    assert all(load(tmp_path, text).identity("data") != base for text in other)
    assert load(tmp_path, GOOD).identity("other data") != base


def test_a_noise_floor_is_the_baseline_alone_on_many_seeds(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD)
    floor = spec.noise_floor(5)
    assert (floor.name, floor.trials, floor.seeds) == ("dropout-noise", 0, (1, 2, 3, 4, 5))
    assert [arm.name for arm in floor.arms()] == ["all"]
    assert floor.base == spec.run_config({"model.drop_rate": 0.1})  # the baseline, not the written default of 0.1
    other = load(tmp_path, GOOD.replace("baseline: {model.drop_rate: 0.1}", "baseline: {model.drop_rate: 0.0}"))
    assert other.noise_floor(5).base.model.drop_rate == 0.0
    assert other.noise_floor(5).identity() != floor.identity()
    assert load(tmp_path, floor.to_yaml()).identity() == floor.identity()


def test_looks_double_from_the_minimum_to_the_maximum_of_seeds(tmp_path: Path) -> None:
    def looks(seeds: str) -> tuple[int, ...]:
        return load(tmp_path, GOOD.replace("seeds: 3", f"seeds: {seeds}")).looks

    assert looks("{min: 3, max: 12}") == (3, 6, 12)
    assert looks("{min: 2, max: 11}") == (2, 4, 8, 11)
    assert looks("{min: 3.0, max: 4}") == (3, 4)
    assert looks("5") == (5,)
    spec = load(tmp_path, GOOD.replace("seeds: 3", "seeds: {min: 3, max: 12}"))
    assert spec.seeds == tuple(range(2, 14))
    assert load(tmp_path, spec.to_yaml()).study == spec.study
    assert spec.identity() == load(tmp_path, GOOD).identity()  # the number of seeds is not part of it
    assert load(tmp_path, GOOD, "study.seeds.min=4", "study.seeds.max=9").looks == (4, 8, 9)


def test_an_aa_sweep_has_equal_arms_on_seeds_of_their_own(tmp_path: Path) -> None:
    text = GOOD.replace("[0.0, 0.1]", "[0.1, 0.1, 0.1]")
    spec = load(tmp_path, text)
    first, second, third = spec.arms()
    assert [arm.name for arm in spec.arms()] == ["drop_rate=0.1", "drop_rate=0.1 (2)", "drop_rate=0.1 (3)"]
    assert first.values == second.values == third.values and spec.baseline_arm == first
    configs = [spec.arm_config(arm, {"train.learning_rate": 1e-3}, 5) for arm in spec.arms()]
    assert configs[0].train.seed == 5
    assert len({config.train.seed for config in configs}) == 3
    assert len({config.model_copy(update={"train": configs[0].train}) for config in configs}) == 1
    assert not load(tmp_path, GOOD).same_arms
    seeds = [load(tmp_path, GOOD).arm_config(arm, {}, 5).train.seed for arm in load(tmp_path, GOOD).arms()]
    assert seeds == [5, 5]  # arms that differ share theirs


def test_hidden_characters_of_a_spec_are_escaped_in_its_yaml(tmp_path: Path) -> None:
    """A stored spec is shown on terminals, and nothing in it may look like another text."""
    prompt = "once\u202e upon\x1b[31m\u2066 a 'time': #\u0085 甲"
    spec = load(tmp_path, GOOD.replace("train:", f"train:\n  sample: {{prompt: {json.dumps(prompt)}}}", 1))
    stored = spec.to_yaml()
    assert visible(stored) == stored and "\\u202e" in stored and "甲" in stored
    assert load(tmp_path, stored).base.train.sample.prompt == prompt
