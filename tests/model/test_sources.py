"""Weights to start from: the model of their folder exactly, or one sentence that says what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fuzzing import examples
from gpt2_folders import change_config, write_gpt2
from harness.config.run import ModelConfig, RunConfig, SampleConfig
from harness.config.starting import StartError
from harness.core.paths import WEIGHTS
from harness.data.tokenizer import get_tokenizer
from harness.model.generation import continue_text
from harness.model.gpt import GPT
from harness.model.init import build_gpt
from harness.model.sources import find_source, with_source
from harness.model.weights import load_checkpoint, save_checkpoint
from harness.training.export import export_model
from helpers import lively_gpt, random_tokens, small_config

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

pytestmark = pytest.mark.slow  # it imports transformers

CASES: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied, padded": {"tie_word_embeddings": False, "vocab_size": 300},
    "sharded": {"shard": "8KB"},
    "another name of the activation": {"activation_function": "gelu_pytorch_tanh"},
}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2") / "small"
    write_gpt2(folder)
    return folder


@pytest.fixture
def folder(gpt2: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(gpt2, tmp_path / "small"))


def started(folder: Path | str, **model: Any) -> tuple[GPT, RunConfig]:
    """The model that a run with these weights begins with, in evaluation mode, and the run."""
    plain = small_config().model_dump(exclude_unset=True)
    plain["model"] = {"init_from": str(folder), **model}
    config = with_source(RunConfig.model_validate(plain))
    return build_gpt(config, source=find_source(str(folder))).eval(), config


def refused(folder: Path | str) -> str:
    with pytest.raises(StartError) as caught:
        find_source(str(folder))
    return str(caught.value)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_text_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    theirs = write_gpt2(tmp_path / "theirs", **CASES[case])
    assert (len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2) == (case == "sharded")
    ours, config = started(tmp_path / "theirs")
    tokens = random_tokens(3, 32, vocab=config.vocab_size)
    with torch.no_grad():
        mine, other = ours(tokens), theirs(tokens).logits
    assert other.abs().max() > 1
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
    model = config.model
    assert (model.tie_embeddings, model.qkv_bias) == (CASES[case].get("tie_word_embeddings", True), True)
    assert (model.context_length, model.drop_rate, config.parameters) == (32, 0.0, theirs.num_parameters())

    tokenizer, prompt = get_tokenizer("byte"), "Every eff"
    padding = list(range(256, config.vocab_size)) or None  # no token has these ids, and ours never draws them
    prompted = torch.tensor([tokenizer.encode(prompt)])
    with torch.no_grad():
        ids = theirs.generate(
            prompted, max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=None, suppress_tokens=padding
        )
    found = continue_text(ours, tokenizer, SampleConfig(prompt=prompt, max_new_tokens=20, temperature=0.0), 1)
    assert found == tokenizer.decode(ids[0].tolist())


def test_a_model_without_its_head_and_old_masks_are_the_same_weights(folder: Path) -> None:
    ours, _ = started(folder)
    file = folder / WEIGHTS
    tensors = load_file(file)
    renamed = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    renamed |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 32, 32).tril() for layer in (0, 1)}
    renamed["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(renamed, file)
    assert_equal(started(folder)[0], ours)
    save_file({**tensors, "lm_head.weight": tensors["transformer.wte.weight"].clone()}, file)
    assert_equal(started(folder)[0], ours)
    save_file({**tensors, "lm_head.weight": tensors["transformer.wte.weight"] + 1}, file)
    assert "found lm_head.weight that is not transformer.wte.weight with tie_word_embeddings true" in refused(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype: torch.dtype, folder: Path) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    ours, _ = started(folder)
    assert torch.equal(ours.tok_emb.weight.detach(), tensors["transformer.wte.weight"].float())
    tensors["transformer.h.1.ln_2.weight"][3] = float("nan")
    save_file(tensors, folder / WEIGHTS)
    assert "NaN or infinite, in transformer.h.1.ln_2.weight; allowed: finite weights" in refused(folder)


def test_a_shorter_context_and_another_dropout_are_the_runs_own(folder: Path) -> None:
    whole, _ = started(folder)
    short, config = started(folder, context_length=8, drop_rate=0.3)
    assert torch.equal(short.pos_emb.weight, whole.pos_emb.weight[:8])
    assert (config.model.drop_rate, short.drop_rate) == (0.3, 0.3)
    tokens = random_tokens(2, 8)
    torch.testing.assert_close(short(tokens), whole(tokens), rtol=0, atol=1e-6)
    change_config(folder, embd_pdrop=0.2)
    with pytest.raises(StartError, match=r"found the rates embd_pdrop 0\.2, attn_pdrop 0\.0 and resid_pdrop 0\.0"):
        started(folder)
    assert started(folder, drop_rate=0.1)[1].model.drop_rate == 0.1


@pytest.mark.parametrize(
    "model",
    [{"qkv_bias": False, "drop_rate": 0.2}, {"qkv_bias": True, "tie_embeddings": True}, {"vocab_size": 300}],
    ids=["plain", "tied with biases", "padded"],
)
def test_an_export_is_imported_bit_for_bit(model: dict[str, Any], tmp_path: Path) -> None:
    config = small_config(model={**model, "n_layers": 2})
    gpt = lively_gpt(config)
    save_checkpoint(tmp_path / "ours", gpt, config, 1)
    export_model(str(tmp_path / "ours"), tmp_path / "theirs")
    for place in ("theirs", "ours"):  # and the checkpoint itself
        back, again = started(tmp_path / place)
        assert_equal(back, gpt)
        written = again.model.model_copy(update={"init_from": None, "init_sha256": None})
        assert written == ModelConfig.model_validate({**config.model.model_dump(), "vocab_size": config.vocab_size})
    assert again.model.init_sha256 is not None


def assert_equal(one: GPT, other: GPT) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


def test_the_hash_is_that_of_the_files(gpt2: Path, tmp_path: Path) -> None:
    import hashlib

    digest = hashlib.sha256((gpt2 / WEIGHTS).read_bytes()).hexdigest()
    assert find_source(str(gpt2)).weights.sha256 == digest
    write_gpt2(tmp_path / "shards", shard="8KB")
    files = sorted((tmp_path / "shards").glob("*.safetensors"))
    lines = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    assert find_source(str(tmp_path / "shards")).weights.sha256 == hashlib.sha256(lines.encode()).hexdigest()


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "another model": ({"model_type": "llama"}, "found model_type 'llama'; allowed: gpt2"),
    "activation": ({"activation_function": "gelu"}, "found activation_function 'gelu'; allowed: gelu_new or"),
    "epsilon": ({"layer_norm_epsilon": 1e-6}, "found layer_norm_epsilon 1e-06; allowed: 1e-05"),
    "scale": ({"scale_attn_weights": False}, "found scale_attn_weights false; allowed: true"),
    "layer scale": (
        {"scale_attn_by_inverse_layer_idx": True},
        "found scale_attn_by_inverse_layer_idx true; allowed: false",
    ),
    "upcast": ({"reorder_and_upcast_attn": True}, "found reorder_and_upcast_attn true; allowed: false"),
    "inner": ({"n_inner": 32}, "found n_inner 32; allowed: null or 64, four times n_embd"),
    "pruned": ({"pruned_heads": {"0": [1]}}, "found pruned_heads {'0': [1]}; allowed: {}"),
    "heads": ({"n_head": 3}, "found n_embd 16; allowed: a multiple of n_head, 3"),
    "size": ({"n_layer": "2"}, "found n_layer '2'; allowed: a whole number over 0"),
    "rate": ({"attn_pdrop": 1.5}, "found attn_pdrop 1.5; allowed: a number from 0 to under 1"),
    "fewer layers": ({"n_layer": 1}, "found the unknown tensor 'transformer.h.1.attn.c_attn.bias' and 11 more"),
    "more layers": ({"n_layer": 3}, "found no tensor 'transformer.h.2.attn.c_attn.bias' and 11 more"),
    "wider": ({"n_positions": 64}, "found transformer.wpe.weight with the shape [32, 16]; allowed: [64, 16]"),
    "untied": ({"tie_word_embeddings": False}, "found no tensor 'lm_head.weight'"),
    "no biases": ({"qkv_bias": False}, "found transformer.h.0.attn.c_attn.bias that is not zero with qkv_bias false"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_configuration_that_does_not_fit_is_one_sentence(case: str, folder: Path) -> None:
    values, words = SETTINGS[case]
    change_config(folder, **values)
    message = refused(folder)
    assert message.startswith(f"model.init_from: {folder}") and words in message and "\n" not in message


def _pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def _index(content: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / f"{WEIGHTS}.index.json").write_text(content, "utf-8")

    return change


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickle": (_pickle, "found pytorch_model.bin in {folder}, a pickle, which can run any code; allowed: model.saf"),
    "no weights": (
        lambda folder: (folder / WEIGHTS).unlink(),
        "found no model.safetensors in {folder}; allowed: a GPT-2",
    ),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "found no config.json in {folder}; allowed"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "{folder}/config.json: is not valid JSON"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "{folder}/config.json: is not a JSON object"),
    "another folder": (_index('{"weight_map": {"a": "../x.safetensors"}}'), "is no index of safetensors files"),
    "no shard": (_index('{"weight_map": {"a": "x.safetensors"}}'), "found no x.safetensors in {folder}; allowed: a"),
    "cut off": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4]),
        "was cut off or is",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_folder_that_is_not_whole_is_one_sentence(case: str, folder: Path) -> None:
    change, words = FILES[case]
    change(folder)
    message = refused(folder)
    assert words.format(folder=folder) in message and "\n" not in message


@examples(60)
@given(place=st.integers(0, 2**20), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_is_other_weights_or_one_sentence(
    place: int, value: int, cut: bool, gpt2: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "damaged"
    copy.mkdir(exist_ok=True)
    shutil.copyfile(gpt2 / "config.json", copy / "config.json")
    content = bytearray((gpt2 / WEIGHTS).read_bytes())
    place %= 4000 if not cut else len(content)  # the header has the most to damage
    content[place:] = b"" if cut else bytes([value]) + content[place + 1 :]
    (copy / WEIGHTS).write_bytes(content)
    try:
        source = find_source(str(copy))
    except StartError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
    else:
        same = bytes(content) == (gpt2 / WEIGHTS).read_bytes()
        assert (source.weights.sha256 == find_source(str(gpt2)).weights.sha256) == same


def test_a_source_that_has_changed_is_noticed(folder: Path) -> None:
    _, config = started(folder)
    write_gpt2(folder, seed=1)
    with pytest.raises(StartError, match=r"^model\.init_sha256: found .*, which has changed; allowed: "):
        build_gpt(config, source=find_source(str(folder)))
    with pytest.raises(StartError, match=r"^model\.init_from: this machine has no folder /nowhere, which the sweep"):
        find_source("./gone", folder=Path("/nowhere"))


def test_a_checkpoint_of_this_harness_is_checked(tmp_path: Path) -> None:
    config = small_config()
    save_checkpoint(tmp_path / "ours", lively_gpt(config), config, 1)
    loaded, _ = load_checkpoint(tmp_path / "ours")
    assert_equal(started(tmp_path / "ours")[0], loaded)
    file = tmp_path / "ours" / WEIGHTS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "(damaged file)" in refused(tmp_path / "ours")
    plain = config.model_dump(mode="json")
    plain["data"]["vocab"], plain["model"]["vocab_size"] = "corpus", 200
    few = RunConfig.model_validate(plain)
    save_checkpoint(tmp_path / "few", lively_gpt(few), few, 1, np.arange(50))
    assert "found data.vocab corpus in" in refused(tmp_path / "few")


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "scratch", "x" * 5000, "~nobody-here/x", "a\0b", "run:"])
def test_a_name_of_nothing_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(name)
    assert message.startswith("model.init_from: ") and "allowed" in message and "\n" not in message


def test_a_folder_comes_before_a_model_of_the_hub(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(gpt2.parent)
    assert find_source("small").weights.found == "small: the folder of this name is taken, not a model of the hub"
    assert find_source("./small").weights.found == ""
    (gpt2.parent / "file").write_text("")
    assert (
        refused("file")
        == "model.init_from: found the file file; allowed: the folder that has config.json and " + WEIGHTS
    )
