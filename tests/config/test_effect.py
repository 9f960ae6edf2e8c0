"""Arms that train alike, tuned fields without effect, missing devices and budgets under one step are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.config.effect import effect_of
from harness.config.load import load_spec
from harness.config.run import RunConfig
from harness.core.errors import SpecError
from helpers import MODEL_CHANGES, numbers, run, small_config
from specs import GOOD, load, mistakes

PLAIN = GOOD[: GOOD.index("compare:")]
SIZES = {"train": 4000, "val": 400, "test": 400}
ALIKE = "allowed: arms that differ, or equal values in all arms (an A/A sweep)"


@pytest.mark.parametrize(
    ("settings", "compare", "message"),
    [
        (
            [],
            "train.decay: [0.1, 0.2]",
            "decay=0.1 and decay=0.2, which train the same runs (train.schedule wsd uses it, the others do not)",
        ),
        (
            ["train.schedule=constant"],
            "train.final_fraction: [0.1, 0.2]",
            "final_fraction=0.1 and final_fraction=0.2, which train the same runs (train.schedule constant does not "
            "use it)",
        ),
        (
            [],
            "model.preset: [gpt2-124m, gpt2-355m]",
            "preset=gpt2-124m and preset=gpt2-355m, which train the same runs (the fields that it sets are all written "
            "under model)",
        ),
        (
            [],
            "train.sample.temperature: [0, 1]",
            "temperature=0 and temperature=1, which train the same runs (it changes only the generated text)",
        ),
        (
            [],
            "train.eval_every.steps: [5, 10]",
            "eval_every.steps=5 and eval_every.steps=10, which train the same runs (it changes only how often a run is "
            "evaluated)",
        ),
        (
            [],
            "train.budget.tokens: [1280, 1300]",
            "budget.tokens=1280 and budget.tokens=1300, which train the same runs (they are the same number of steps)",
        ),
        (
            [],
            "model.vocab_size: [50257, null]",
            "vocab_size=50257 and vocab_size=null, which train the same runs (they are the same number of rows)",
        ),
        (
            [],
            "data.split.seed: [0, 1]",
            "split.seed=0 and split.seed=1, which train the same runs (data.split.by documents uses it, position does "
            "not)",
        ),
        (
            ["data.val_path=a.txt"],
            "data.split.val: [0.1, 0.2]",
            "val=0.1 and val=0.2, which train the same runs (data.val_path has the validation text)",
        ),
    ],
)
def test_arms_that_train_alike_are_refused(settings: list[str], compare: str, message: str, tmp_path: Path) -> None:
    path = compare.partition(":")[0]
    text = PLAIN.replace("n_layers: 1", "n_layers: 1, drop_rate: 0.0, qkv_bias: false")
    text += f"compare:\n  {compare}\n"
    assert mistakes(tmp_path, text, *settings, tokens=SIZES) == [
        f"spec.yaml:9: compare.{path}: found {message}; {ALIKE}"
    ]


def test_only_some_arms_of_a_grid_may_train_alike(tmp_path: Path) -> None:
    text = PLAIN + "compare:\n  train.schedule: [cosine, wsd]\n  train.decay: [0.1, 0.2]\n"
    assert mistakes(tmp_path, text) == [
        "spec.yaml:10: compare.train.decay: found decay=0.1 and decay=0.2, which train the same runs "
        f"(train.schedule wsd uses it, the others do not); {ALIKE}"
    ]
    load(tmp_path, PLAIN + "compare:\n  train.schedule: [linear, wsd]\n")
    load(tmp_path, PLAIN + "compare:\n  train.decay: [0.1, 0.1]\n")  # an A/A sweep
    load(tmp_path, PLAIN + "compare:\n  train.decay: [0.1, 0.2]\ntune: {train.schedule: {choice: [cosine, wsd]}}\n")


def test_a_tuned_field_without_effect_is_refused(tmp_path: Path) -> None:
    assert mistakes(tmp_path, PLAIN + "tune:\n  train.decay: {uniform: [0.1, 0.3]}\n") == [
        "spec.yaml:9: tune.train.decay: changes no loss (train.schedule wsd uses it, the others do not); "
        "allowed: fields that change one"
    ]
    both = "tune:\n  train.decay: {uniform: [0.1, 0.3]}\n  train.schedule: {choice: [cosine, wsd]}\n"
    load(tmp_path, PLAIN + both)
    load(
        tmp_path, PLAIN + "compare: {train.schedule: [cosine, wsd]}\n" + "tune:\n  train.decay: {uniform: [0.1, 0.3]}\n"
    )


def test_every_field_of_the_model_has_an_effect() -> None:
    base = small_config()
    for name, value in MODEL_CHANGES.items():
        assert effect_of(small_config(model={name: value})) != effect_of(base), name


def load_here(tmp_path: Path, text: str, devices: Sequence[str], *settings: str) -> Any:
    path = tmp_path / "spec.yaml"
    path.write_text(text, "utf-8")
    return load_spec(path, settings, None, None, lambda: devices)


def test_a_device_that_this_machine_lacks_is_refused(tmp_path: Path) -> None:
    text = PLAIN + "compare: {train.device: [cpu, cuda]}\n"
    with pytest.raises(SpecError) as caught:
        load_here(tmp_path, text, ["cpu"])
    assert [str(problem).rpartition("/")[2] for problem in caught.value.problems] == [
        "spec.yaml:8: compare.train.device: found cuda; allowed on this machine: auto, cpu"
    ]
    load_here(tmp_path, text, ["cuda", "cpu"])
    load(tmp_path, text)  # to be planned here and trained elsewhere
    with pytest.raises(SpecError, match=r"--set train\.device=mps: train\.device: found mps; allowed on this machine"):
        load_here(tmp_path, PLAIN, ["cpu"], "train.device=mps")


@pytest.mark.parametrize(
    "compare", ["train.device: [auto, cpu]", "train.precision: [auto, fp32]", "train.compile: [auto, false]"]
)
def test_settings_that_mean_the_same_on_this_machine_are_refused(compare: str, tmp_path: Path) -> None:
    text = PLAIN + f"compare: {{{compare}}}\n"
    with pytest.raises(SpecError, match="which train the same runs"):
        load_here(tmp_path, text, ["cpu"])
    load_here(tmp_path, text, ["cuda", "cpu"])
    load(tmp_path, text)


def test_devices_are_asked_for_only_if_they_matter(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD, "utf-8")
    load_spec(path, (), None, None, lambda: pytest.fail("torch is imported for this"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "train.budget.epochs=1",
            "train.budget.epochs: found 1, and the 128 windows of one step are 1.03 epochs of this text; "
            "allowed: at least 1.03, or smaller batches",
        ),
        (
            "train.budget.tokens=4095",
            "train.budget.tokens: found 4095; allowed: at least the 4096 tokens of one step, or smaller batches",
        ),
        (
            "train.budget.flops=1e6",
            "train.budget.flops: found 1e+06; allowed: at least the 1.99e+10 FLOPs of one step, or smaller batches",
        ),
    ],
)
def test_a_budget_under_one_step_is_refused(setting: str, message: str, tmp_path: Path) -> None:
    settings = ("train.batch_tokens=4096", setting)  # 4,000 tokens hold 124 windows of 32, a step takes 128
    assert mistakes(tmp_path, PLAIN, *settings, tokens=SIZES) == [f"--set {setting}: {message}"]
    load(tmp_path, PLAIN, "train.batch_tokens=4096", "train.budget.epochs=1.04", tokens=SIZES)
    load(tmp_path, PLAIN, "train.batch_tokens=4096", "train.budget.tokens=4096", tokens=SIZES)


def test_a_tuned_batch_size_is_checked_against_the_budget(tmp_path: Path) -> None:
    text = PLAIN.replace("tokens: 400_000", "epochs: 1") + "tune:\n  train.batch_size: {int_uniform: [1, 200]}\n"
    found = mistakes(tmp_path, text, tokens=SIZES)
    assert found[0].startswith("spec.yaml:9: tune.train.batch_size: found 1, and the 125 windows of one step are 1.01 ")


def test_effects_are_those_of_the_trainer() -> None:
    """Fields that the effect leaves out change no loss; two of those that it keeps do."""

    def final(config: RunConfig) -> float:
        return numbers(run(config))[-1]["val/loss"]

    base = small_config()
    without: tuple[dict[str, Any], ...] = ({"decay": 0.9}, {"train_eval_tokens": 32}, {"eval_every": {"steps": 2}})
    for change in without:
        changed = small_config(**change)
        assert effect_of(changed) == effect_of(base) and final(changed) == final(base)
    acting: tuple[dict[str, Any], ...] = ({"final_fraction": 0.5}, {"warmup": 0.5})
    for change in acting:
        changed = small_config(**change)
        assert effect_of(changed) != effect_of(base) and final(changed) != final(base)
