"""What a spec may say besides the weights to start from, and what follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.config.effect import effect_of
from harness.config.load import load_spec
from harness.config.run import DataConfig, RunConfig
from harness.config.spec import SweepSpec
from harness.config.starting import StartError, StartWeights, check_tokens, notes
from harness.core.errors import SpecError

FIELDS: dict[str, Any] = {
    "vocab_size": 50257,
    "emb_dim": 64,
    "n_heads": 4,
    "n_layers": 2,
    "qkv_bias": True,
    "tie_embeddings": True,
    "context_length": 128,
    "drop_rate": 0.0,
}
WEIGHTS = {
    "./small": StartWeights("./small", Path("/small"), "a" * 64, FIELDS, "0.0"),
    "./copy": StartWeights("./copy", Path("/copy"), "a" * 64, FIELDS, "0.0"),
    "./large": StartWeights("./large", Path("/large"), "b" * 64, {**FIELDS, "emb_dim": 128, "drop_rate": 0.1}, "0.1"),
    "./bytes": StartWeights("./bytes", Path("/bytes"), "c" * 64, {**FIELDS, "vocab_size": 256}, "0.0", "byte"),
}
SIZES = (
    "emb_dim: 64, n_heads: 4, n_layers: 2, qkv_bias: true, tie_embeddings: true, context_length: 128, drop_rate: 0.0"
)
SPEC = """\
name: start
data: {{corpus: sotu-1820}}
model: {{{model}}}
train: {{budget: {{steps: 10}}, batch_size: 2}}
"""


def weights_of(name: str) -> StartWeights:
    if name not in WEIGHTS:
        raise StartError(("model.init_from", f"found no folder {name}; allowed: a folder"))
    return WEIGHTS[name]


def load(tmp_path: Path, model: str, more: str = "") -> SweepSpec:
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC.format(model=model) + more, "utf-8")
    return load_spec(file, weights_of=weights_of)


def mistakes(tmp_path: Path, model: str, more: str = "") -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, model, more)
    return [str(problem).partition("spec.yaml:")[2] for problem in caught.value.problems]


def test_sizes_are_those_of_the_weights(tmp_path: Path) -> None:
    spec = load(tmp_path, "init_from: ./small")
    model = spec.base.model
    assert {name: getattr(model, name) for name in FIELDS} == FIELDS
    assert (model.init_sha256, spec.start_folder(spec.base)) == ("a" * 64, Path("/small"))
    same = load(tmp_path, f"init_from: ./small, {SIZES}")
    assert same.base.model == model and same.identity() == spec.identity()


def test_what_makes_sense_is_applied(tmp_path: Path) -> None:
    spec = load(tmp_path, "init_from: ./small, context_length: 32, drop_rate: 0.2")
    assert (spec.base.model.context_length, spec.base.model.drop_rate) == (32, 0.2)
    assert notes(spec.base, WEIGHTS["./small"]) == [
        "./small: the first 32 of its 128 positions are used",
        "./small: dropout 0.2 in place of 0.0",
    ]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("init_from: ./gone", "3: model.init_from: found no folder ./gone; allowed: a folder"),
        ("init_from: ./small, emb_dim: 32", "3: model.emb_dim: found 32; allowed: 64, as in ./small"),
        ("init_from: ./small, qkv_bias: false", "3: model.qkv_bias: found false; allowed: true, as in ./small"),
        ("init_from: ./small, n_layers: two", "3: model.n_layers: found 'two'; allowed: 2, as in ./small"),
        (
            "init_from: ./small, context_length: 129",
            "3: model.context_length: found 129; allowed: at most 128, the positions that ./small has",
        ),
        (
            f"init_from: ./small, init_sha256: {'d' * 64}",
            f"3: model.init_sha256: found dddddddddddd…; allowed: {'a' * 64}, the SHA-256 of the weights in ./small",
        ),
        (f"init_sha256: {'d' * 64}", "3: model.init_sha256: found a value without init_from; allowed: with it only"),
        (
            "init_from: ./bytes",
            "2: data.tokenizer: found gpt2; allowed: byte, whose tokens ./bytes was trained on",
        ),
        ("init_from: 3", "3: model.init_from: found 3; allowed: a text, or null"),
    ],
)
def test_a_value_that_does_not_fit_is_one_sentence(model: str, message: str, tmp_path: Path) -> None:
    assert mistakes(tmp_path, model) == [message]


def test_every_size_that_does_not_fit_is_named_at_once(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "init_from: ./small, preset: gpt2-124m")
    assert [line.partition(": found")[0] for line in found] == [
        "3: model.emb_dim",
        "3: model.n_heads",
        "3: model.n_layers",
    ]


def test_a_tokenizer_that_does_not_fit_the_rows_is_refused(tmp_path: Path) -> None:
    for tokenizer, tokens in (("byte", 256), ("cl100k_base", 100277)):
        with pytest.raises(
            StartError, match=rf"data\.tokenizer: found {tokenizer} with {tokens} tokens; allowed: gpt2 or"
        ):
            load(tmp_path, "init_from: ./small").run_config({"data.tokenizer": tokenizer})
    with pytest.raises(StartError, match=r"data\.vocab: found corpus, which renumbers the tokens that ./small knows"):
        load(tmp_path, "init_from: ./small").run_config({"data.vocab": "corpus"})


COMPARE = "compare: {model.init_from: [null, ./small]}\n"


def test_from_scratch_and_from_weights_are_two_arms(tmp_path: Path) -> None:
    spec = load(tmp_path, SIZES, COMPARE)
    scratch, tuned = (spec.run_config(arm.values) for arm in spec.arms())
    assert list(spec.labels.of.values()) == ["from scratch", "from ./small"]
    assert scratch.model.init_sha256 is None and tuned.model.init_sha256 == "a" * 64
    assert scratch.parameters == tuned.parameters and scratch.digest() != tuned.digest()
    again = tmp_path / "again.yaml"
    again.write_text(spec.to_yaml(), "utf-8")
    assert load_spec(again, weights_of=weights_of).identity() == spec.identity()


def test_arms_that_would_differ_in_their_sizes_too_are_refused(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "emb_dim: 64, n_heads: 4, n_layers: 2, context_length: 64", COMPARE) == [
        "5: compare.model.init_from: found null, whose model has {qkv_bias: false, tie_embeddings: false, drop_rate: "
        "0.1}, beside ./small; allowed: under model the values of ./small, so that only the weights differ: {qkv_bias: "
        "true, tie_embeddings: true, drop_rate: 0.0}"
    ]


def test_weights_of_different_sizes_are_arms_with_their_own(tmp_path: Path) -> None:
    spec = load(tmp_path, "context_length: 32", "compare: {model.init_from: [./small, ./large]}\n")
    models = [spec.run_config(arm.values).model for arm in spec.arms()]
    assert [(model.emb_dim, model.drop_rate, model.context_length) for model in models] == [
        (64, 0.0, 32),
        (128, 0.1, 32),
    ]
    again = tmp_path / "again.yaml"
    again.write_text(spec.to_yaml(), "utf-8")
    loaded = load_spec(again, weights_of=weights_of)
    assert loaded.identity() == spec.identity()
    assert [loaded.run_config(arm.values).digest() for arm in loaded.arms()] == [
        spec.run_config(arm.values).digest() for arm in spec.arms()
    ]


def test_equal_weights_at_two_places_are_the_same(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, "drop_rate: 0.1", "compare: {model.init_from: [./small, ./copy]}\n")
    assert "which train the same runs (they are the same weights)" in found
    one, other = (load(tmp_path, f"init_from: {name}") for name in ("./small", "./copy"))
    assert one.base.digest() == other.base.digest() and one.identity() == other.identity()
    assert effect_of(one.base) == effect_of(other.base)


def test_other_weights_of_the_same_name_are_another_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def both() -> list[SweepSpec]:
        return [load(tmp_path, "init_from: ./small"), load(tmp_path, SIZES, COMPARE)]

    before = both()
    identities, digest = [spec.identity() for spec in before], before[0].base.digest()
    monkeypatch.setitem(WEIGHTS, "./small", StartWeights("./small", Path("/small"), "e" * 64, FIELDS, "0.0"))
    after = both()
    assert all(spec.identity() != identity for spec, identity in zip(after, identities, strict=True))
    assert after[0].base.digest() != digest
    assert after[0].changed_fields(before[0].to_yaml()) == ["model.init_sha256"]


def test_a_run_needs_no_weights_to_be_read_back(tmp_path: Path) -> None:
    config = load(tmp_path, "init_from: ./small").base
    assert RunConfig.from_flat(config.flat()).digest() == config.digest()
    assert load_spec(tmp_path / "spec.yaml").base.model.init_sha256 is None  # without looking for them


def test_the_tokenizer_beside_the_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    weights = StartWeights("./mine", tmp_path, "f" * 64, {**FIELDS, "vocab_size": 400}, "0.0")
    with pytest.raises(
        StartError, match=r"found byte with 256 tokens; allowed: \./mine/tokenizer\.json for the 400 rows"
    ):
        check_tokens(DataConfig(corpus="sotu-1820", tokenizer="byte"), weights, 256)
    check_tokens(DataConfig(corpus="sotu-1820", tokenizer="./mine/tokenizer.json"), weights, 400, "0" * 64)
