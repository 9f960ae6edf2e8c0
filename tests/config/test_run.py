"""The run configuration: presets, parameters and FLOPs against other counts, budgets by hand, refused values."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from harness.config.fingerprint import decisive, digest_of
from harness.config.load import load_spec
from harness.config.run import PRESETS, ModelConfig, RunConfig, flatten
from harness.model.gpt import GPT
from harness.model.init import build_gpt
from helpers import small_config


def plain(**changes: Any) -> dict[str, Any]:
    """A valid run as plain values, with `section__field` changed."""
    tree: dict[str, Any] = {
        "data": {"corpus": "sotu-1820"},
        "model": {"context_length": 8, "emb_dim": 8, "n_heads": 2, "n_layers": 1},
        "train": {"budget": {"steps": 10}, "batch_size": 2},
    }
    for path, value in changes.items():
        section, field = path.split("__")
        tree[section][field] = value
    return tree


def preset(name: str = "gpt2-124m", **fields: Any) -> RunConfig:
    return RunConfig.model_validate({**plain(), "model": {"preset": name, **fields}})


def module_parameters(config: RunConfig) -> int:
    """Parameters counted in the module itself."""
    with torch.device("meta"):
        model = GPT(config.model, config.vocab_size)
    return sum(parameter.numel() for parameter in model.parameters())


# The preset


def test_the_124m_preset_is_gpt2_with_a_context_of_256() -> None:
    model = preset().resolved()["model"]
    ordered = {
        "vocab_size": 50257,
        "context_length": 256,
        "emb_dim": 768,
        "n_heads": 12,
        "n_layers": 12,
        "drop_rate": 0.1,
        "qkv_bias": False,
    }
    assert {name: model[name] for name in ordered} == ordered
    assert model["tie_embeddings"] is False


def test_the_124m_preset_has_162_million_parameters_untied() -> None:
    assert preset().parameters == 162_419_712
    assert preset(context_length=1024).parameters == 163_009_536


def test_fields_beside_a_preset_override_it() -> None:
    assert preset(n_layers=3, drop_rate=0.0).model == preset().model.model_copy(
        update={"n_layers": 3, "drop_rate": 0.0}
    )


# OpenAI's released weights: tied, with biases, 1024 positions (parameter counts of the "gpt2" to "gpt2-xl"
# models as transformers reports them).
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gpt2-124m", 124_439_808),
        ("gpt2-355m", 354_823_168),
        ("gpt2-774m", 774_030_080),
        ("gpt2-1558m", 1_557_611_200),
    ],
)
def test_presets_have_the_published_sizes(name: str, published: int) -> None:
    config = preset(name, tie_embeddings=True, qkv_bias=True, context_length=1024)
    assert config.parameters == published == module_parameters(config)


def test_every_preset_is_tested() -> None:
    assert set(PRESETS) == {"gpt2-124m", "gpt2-355m", "gpt2-774m", "gpt2-1558m"}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(256, 768, 12, 12, None), (5, 6, 3, 2, 50300), (1, 1, 1, 1, None)])
def test_the_parameter_count_equals_the_modules_own(
    tied: bool, bias: bool, shape: tuple[int, int, int, int, int | None]
) -> None:
    context, dim, heads, layers, vocab = shape
    model = {
        "context_length": context,
        "emb_dim": dim,
        "n_heads": heads,
        "n_layers": layers,
        "vocab_size": vocab,
        "tie_embeddings": tied,
        "qkv_bias": bias,
    }
    config = RunConfig.model_validate({**plain(), "model": model})
    assert config.parameters == module_parameters(config)


# FLOPs


def test_flops_per_token_by_hand() -> None:
    # emb_dim 2, one layer, three positions, 256 byte tokens. Block: attention 4·2·2 + 2 = 18, feed-forward 8·2·2 +
    # 5·2 = 42, norms 4·2 = 8, together 68; final norm 4; head 512. 6·584 + 12·1·2·3 = 3,576.
    shape = {"context_length": 3, "emb_dim": 2, "n_heads": 1, "n_layers": 1}
    assert small_config(model=shape).flops_per_token == 3576.0
    assert (
        small_config(model={**shape, "tie_embeddings": True}).flops_per_token == 3576.0
    )  # the tied head is still computed


@pytest.mark.parametrize("bias", [False, True])
def test_flops_per_token_are_three_times_torchs_count_of_a_forward_pass(bias: bool) -> None:
    # A backward pass costs two forward ones. torch counts matrix products only, so the biases and norms, which
    # 6·N counts as if they were multiplied, are what may differ: exactly 6 FLOPs for each of them.
    config = small_config(model={"context_length": 32, "emb_dim": 64, "n_heads": 4, "n_layers": 2, "qkv_bias": bias})
    model = build_gpt(config).eval()
    tokens = torch.zeros(3, 32, dtype=torch.int64)
    plain_attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), plain_attention, FlopCounterMode(display=False) as counter:
        model(tokens)
    vectors = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 1)
    forward = counter.get_total_flops() / tokens.numel()
    assert config.flops_per_token - 6 * vectors == 3 * forward
    assert config.flops_per_token == pytest.approx(3 * forward, rel=0.02)  # so the formula is within 2 %


# Budgets


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"steps": 7}, 7),
        ({"tokens": 640}, 10),  # 4 sequences of 16 tokens: 64 a step
        ({"tokens": 600}, 9),  # 9.4
        ({"tokens": 610}, 10),  # 9.5
        ({"tokens": 1}, 1),  # at least one step is trained
        ({"tokens": 6.4e2}, 10),
        ({"epochs": 1}, 25),  # 100 windows, 4 a step
        ({"epochs": 2.5}, 62),  # 250 windows are 62 steps and a half
        ({"epochs": 0.01}, 1),
    ],
)
def test_steps_of_a_budget_by_hand(budget: dict[str, float], steps: int) -> None:
    assert small_config(budget=budget).total_steps(train_windows=100) == steps


def test_steps_of_a_budget_in_flops_by_hand() -> None:
    shape = {"context_length": 3, "emb_dim": 2, "n_heads": 1, "n_layers": 1}  # 3,576 FLOPs a token, see above
    config = small_config(model=shape, batch_size=5, budget={"flops": 3576.0 * 15 * 20})  # 15 tokens a step
    assert config.total_steps(train_windows=100) == 20


def test_a_budget_in_seconds_has_no_known_number_of_steps() -> None:
    assert small_config(budget={"seconds": 1}).total_steps(train_windows=100) is None


@given(
    tokens=st.integers(1, 10**10),
    context=st.sampled_from([1, 16, 256]),
    size=st.integers(1, 64),
    epochs=st.integers(1, 9),
)
def test_a_budget_in_tokens_is_met_to_half_a_step_and_epochs_are_never_exceeded(
    tokens: int, context: int, size: int, epochs: int
) -> None:
    config = small_config(model={"context_length": context}, batch_size=size, budget={"tokens": tokens})
    steps = config.total_steps(train_windows=100)
    assert steps is not None and steps >= 1
    assert steps == 1 or abs(steps * config.tokens_per_step - tokens) <= config.tokens_per_step / 2
    by_epochs = small_config(batch_size=size, budget={"epochs": epochs}).total_steps(train_windows=1000)
    assert by_epochs is not None
    assert 0 <= epochs * 1000 - by_epochs * size < size  # never more than the budget, and less than one step below it


@pytest.mark.parametrize(
    ("every", "steps"),
    [({"steps": 3}, 3), ({"tokens": 640}, 10), ({"tokens": 1}, 1), ({"epochs": 1}, 25), ({"epochs": 0.5}, 12)],
)
def test_steps_between_evaluations_by_hand(every: dict[str, float], steps: int) -> None:
    assert small_config(eval_every=every).eval_steps(train_windows=100) == steps


@pytest.mark.parametrize(
    ("train", "rhythm"),
    [
        ({"budget": {"steps": 12}, "eval_every": {"steps": 5}}, (320, 768)),
        ({"budget": {"steps": 3}, "eval_every": {"steps": 5}}, (192, 192)),  # the run ends before the first interval
        ({"budget": {"epochs": 2}, "eval_every": {"epochs": 1}}, (1600, 3200)),
        ({"budget": {"seconds": 9}, "eval_every": {"tokens": 640}}, (640, None)),
    ],
)
def test_the_rhythm_in_tokens_by_hand(train: dict[str, Any], rhythm: tuple[int, int | None]) -> None:
    # 1601 tokens are 100 windows of 16 and the last one's last target; a step takes 4 of them, 64 tokens
    assert small_config(**train).rhythm(train_tokens=1601) == rhythm


def test_batch_tokens_give_equal_tokens_per_step_at_every_context_length() -> None:
    for context, sequences in [(16, 8), (32, 4), (64, 2), (128, 1)]:
        config = small_config(model={"context_length": context}, batch_tokens=128)
        assert (config.sequences_per_step, config.tokens_per_step) == (sequences, 128)


# Digests


def test_equal_runs_have_equal_digests() -> None:
    written = RunConfig.model_validate(
        {
            **plain(),
            "model": {"emb_dim": 768, "n_heads": 12, "n_layers": 12, "context_length": 256, "vocab_size": 50257},
        }
    )
    implied = RunConfig.model_validate({**plain(), "model": {}})
    assert written.digest() == implied.digest() == preset().digest()
    assert RunConfig.model_validate(plain(train__learning_rate=1)).digest() == (
        RunConfig.model_validate(plain(train__learning_rate=1.0)).digest()
    )


@pytest.mark.parametrize(
    "change",
    [
        {"data__tokenizer": "r50k_base"},
        {"data__split": {"val": 0.2, "test": 0.1}},
        {"model__vocab_size": 50304},
        {"model__context_length": 16},
        {"model__emb_dim": 16},
        {"model__n_heads": 4},
        {"model__n_layers": 2},
        {"model__drop_rate": 0.2},
        {"model__qkv_bias": True},
        {"model__tie_embeddings": True},
        {"train__budget": {"steps": 11}},
        {"train__batch_size": 3},
        {"train__optimizer": "muon"},
        {"train__learning_rate": 2e-3},
        {"train__schedule": "wsd"},
        {"train__warmup": 0.0},
        {"train__weight_decay": 0.0},
        {"train__grad_clip": None},
        {"train__seed": 2},
        {"train__precision": "bf16"},
    ],
)
def test_another_value_gives_another_digest(change: dict[str, Any]) -> None:
    assert RunConfig.model_validate(plain(**change)).digest() != RunConfig.model_validate(plain()).digest()


@pytest.mark.parametrize("every", [0.5, 600, None])
def test_the_digest_ignores_how_often_states_are_saved(every: float | None) -> None:
    config = RunConfig.model_validate(plain(train__checkpoint_every=every))
    assert config.train.checkpoint_every == every != RunConfig.model_validate(plain()).train.checkpoint_every == 60
    assert config.digest() == RunConfig.model_validate(plain()).digest()
    assert config.resolved()["train"]["checkpoint_every"] == every  # it is logged nevertheless


def test_a_run_survives_json_and_pickle() -> None:
    config = small_config(budget={"epochs": 0.5}, grad_clip=None)
    again = RunConfig.model_validate_json(json.dumps(config.resolved()))
    assert again.digest() == config.digest() == digest_of(decisive(config.resolved()))
    assert again.resolved() == config.resolved()
    assert pickle.loads(pickle.dumps(config)) == config


def test_flat_names_every_value_once() -> None:
    flat = small_config(grad_clip=None).flat()
    assert flat["model.vocab_size"] == 256  # the tokenizer's, resolved
    assert flat["train.budget.steps"] == 6
    assert flat["train.learning_rate"] == 1e-3
    assert "train.grad_clip" not in flat and "train.budget.tokens" not in flat
    assert dict(flatten({"a": {"b": 1, "c": None}, "d": []})) == {"a.b": 1, "d": []}


# Refused values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model__emb_dim": 10, "model__n_heads": 4}, r"emb_dim: found 10 with n_heads 4; allowed: .*multiple"),
        ({"model__drop_rate": 1.0}, "less than 1"),
        ({"model__drop_rate": math.nan}, "finite"),
        ({"model__n_layers": 0}, "greater than or equal to 1"),
        ({"model__n_layers": True}, "valid integer"),
        ({"model__n_layers": 1.5}, "valid integer"),
        ({"model__vocab_size": 256}, "model.vocab_size: found 256; allowed: at least the 50257 of tokenizer gpt2"),
        ({"model__embed_dim": 8}, "embed_dim"),
        ({"model__preset": "gpt3"}, r"preset: found 'gpt3'; allowed: gpt2-124m \| "),
        ({"model__preset": ["gpt2-124m"]}, r"preset: found \['gpt2-124m'\]; allowed: gpt2-124m \| "),
        ({"train__budget": {}}, r"found none; allowed: exactly one budget of tokens \| epochs"),
        ({"train__budget": {"steps": 1, "tokens": 1}}, "found tokens and steps; allowed: exactly one budget"),
        ({"train__budget": {"seconds": math.inf}}, "finite"),
        ({"train__batch_tokens": 16}, "found batch_tokens and batch_size; allowed: exactly one batch"),
        ({"train__batch_size": None}, "found none; allowed: exactly one batch"),
        (
            {"train__batch_size": None, "train__batch_tokens": 20},
            "train.batch_tokens: found 20 with model.context_length 8; allowed: a multiple of context_length",
        ),
        ({"train__eval_every": {"steps": 0}}, "greater than 0"),
        ({"train__checkpoint_every": 0}, "greater than 0"),
        ({"train__schedule": "step"}, "'constant', 'cosine', 'linear' or 'wsd'"),
        ({"train__warmup": 1.0}, "less than 1"),
        ({"train__learning_rate": "1e-3"}, "valid number"),
        ({"train__sample": {"prompt": ""}}, "at least 1 character"),
        ({"data__path": "a.txt"}, "found corpus and path; allowed: exactly one source"),
        ({"data__split": {"val": 0.5, "test": 0.5}}, r"found val 0.5 \+ test 0.5; allowed: a sum under 1"),
        ({"data__sha256": "0" * 64}, "url and sha256"),
        ({"data__tokenizer": "gpt5"}, r"unknown tokenizer 'gpt5'; did you mean gpt2\? .*char, \{train: bpe"),
        ({"data__tokenizer": 5}, "found 5; allowed: byte, gpt2, "),
    ],
)
def test_wrong_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RunConfig.model_validate(plain(**change))


def test_scientific_notation_is_accepted_for_whole_numbers() -> None:
    config = RunConfig.model_validate(plain(train__budget={"tokens": 4e5}))
    assert config.train.budget.tokens == 400_000 and isinstance(config.train.budget.tokens, int)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ModelConfig().drop_rate = 0.5  # type: ignore[misc]


def test_the_size_of_a_corpus_vocabulary_has_to_be_set() -> None:
    config = RunConfig.model_validate(plain(data__vocab="corpus"))
    for ask in (RunConfig.resolved, RunConfig.digest, RunConfig.flat):
        with pytest.raises(ValueError, match=r"model\.vocab_size: found nothing with data\.vocab corpus; allowed"):
            ask(config)
    for name in ("vocab_size", "parameters", "flops_per_token"):
        with pytest.raises(ValueError, match=r"model\.vocab_size: found nothing"):
            getattr(config, name)
    known = config.with_vocabulary(300)
    full = RunConfig.model_validate(plain())
    width = full.model.emb_dim
    assert known.flat()["model.vocab_size"] == known.vocab_size == 300
    assert full.parameters - known.parameters == 2 * width * (50257 - 300)
    assert full.flops_per_token - known.flops_per_token == 6 * width * (50257 - 300)
    assert known.digest() not in (full.digest(), config.with_vocabulary(301).digest())
    assert RunConfig.model_validate(known.resolved()) == known
    assert full.with_vocabulary(300) is full
    padded = RunConfig.model_validate(plain(data__vocab="corpus", model__vocab_size=320))
    assert padded.with_vocabulary(300).vocab_size == 320
    with pytest.raises(ValueError, match=r"model\.vocab_size: found 320; allowed: at least the 321 tokens that occur"):
        padded.with_vocabulary(321)


def test_a_preset_takes_the_vocabulary_size_from_the_data() -> None:
    assert preset().vocab_size == 50257
    small = RunConfig.model_validate({**plain(data__vocab="corpus"), "model": {"preset": "gpt2-124m"}})
    assert small.with_vocabulary(4000).vocab_size == 4000


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"train.grad_clip": None},
        {"train.checkpoint_every": None, "train.eval_tokens": 64},
        {"train.sample": {"temperature": 0.0, "top_k": None}},  # what older versions stored by default
        {"model.qkv_bias": True},
    ],
)
def test_a_configuration_is_made_again_from_its_flat_values(changed: dict[str, Any]) -> None:
    plain = small_config().model_dump(mode="json")
    for path, value in changed.items():
        section, name = path.split(".")
        plain[section][name] = value
    config = RunConfig.model_validate(plain)
    again = RunConfig.from_flat({**config.flat(), "parameters": 7})
    assert again.digest() == config.digest()
    assert again.resolved() == config.resolved()


def test_a_run_as_a_spec_is_that_run(tmp_path: Path) -> None:
    config = small_config(learning_rate=0.0123, seed=7)
    file = tmp_path / "again.yaml"
    file.write_text(config.to_yaml("again"), "utf-8")
    spec = load_spec(file)
    [arm] = spec.arms()
    assert (spec.name, spec.seeds) == ("again", (7,))
    assert spec.arm_config(arm, {}, 7).digest() == config.digest()
