"""Checkpoints: saved weights are loaded bit for bit, and an error names the damaged file."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from damage import Trap, describe, vouch_for, without_checksum
from harness.config.run import DataConfig, RunConfig
from harness.core.paths import DESCRIPTION, WEIGHTS
from harness.data import get_tokenizer, load_corpus, open_dataset
from harness.model.weights import (
    CheckpointError,
    load_checkpoint,
    load_tokenizer,
    save_checkpoint,
)
from harness.tracking.schema import decode_param, trial_params
from harness.training.model_optimizer import ModelOptimizer
from helpers import lively_gpt, random_tokens, small_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid checkpoint."""
    config = small_config()
    save_checkpoint(tmp_path / "run" / "final", lively_gpt(config), config, step=6)
    return tmp_path / "run" / "final"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_loaded_model_equals_the_saved_one_bit_for_bit(tied: bool, bias: bool, tmp_path: Path) -> None:
    config = small_config(model={"tie_embeddings": tied, "qkv_bias": bias, "drop_rate": 0.3}, grad_clip=None)
    model = lively_gpt(config)
    save_checkpoint(tmp_path, model.train(), config, step=6)
    again, its_config = load_checkpoint(tmp_path)
    assert its_config.digest() == config.digest()
    assert again.training is False and model.training is True
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert after[name].numpy().tobytes() == tensor.numpy().tobytes(), name
    assert (again.out_head.weight is again.tok_emb.weight) == tied
    assert len(load_file(tmp_path / WEIGHTS)) == len(before) - tied  # a tied tensor is stored once
    tokens = random_tokens(2, 16)
    with torch.no_grad():
        assert torch.equal(again(tokens), model.eval()(tokens))


def test_training_a_loaded_model_leaves_the_file_unchanged(folder: Path) -> None:
    model, config = load_checkpoint(folder)
    before = model.out_head.weight.detach().clone()
    optimizer = ModelOptimizer(model.train(), config.train)
    model.loss(random_tokens(1, 16), random_tokens(1, 16)).backward()
    optimizer.step()
    assert not torch.equal(model.out_head.weight, before)
    assert torch.equal(load_checkpoint(folder)[0].out_head.weight, before)


def test_the_description_is_readable_json(folder: Path) -> None:
    description = json.loads((folder / DESCRIPTION).read_text())
    assert description["step"] == 6
    assert description["config"]["model"]["vocab_size"] == 256
    assert description["sha256"] == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def test_saving_again_replaces_both_files_and_leaves_no_others(folder: Path) -> None:
    config = small_config(seed=2)
    save_checkpoint(folder, lively_gpt(config, seed=2), config, step=7)
    assert sorted(file.name for file in folder.iterdir()) == [DESCRIPTION, WEIGHTS]
    model, its_config = load_checkpoint(folder)
    assert its_config.train.seed == 2
    assert torch.equal(model.out_head.weight, lively_gpt(config, seed=2).out_head.weight)


@pytest.mark.parametrize("stop_at", [WEIGHTS, DESCRIPTION])
def test_an_interrupted_save_leaves_no_checkpoint(
    stop_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def interrupt(source: Path, target: Path) -> None:
        if target.name == stop_at:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, lively_gpt(small_config()), small_config(), step=1)
    assert not (tmp_path / DESCRIPTION).exists()  # it is written last
    with pytest.raises(CheckpointError, match=r"found no .*; a checkpoint has both files"):
        load_checkpoint(tmp_path)


# Invalid checkpoints


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


DAMAGES: list[tuple[str, str, Callable[[Path], object]]] = [
    ("flipped byte", WEIGHTS, flip_a_byte),
    ("truncated", WEIGHTS, truncate),
    ("empty", WEIGHTS, lambda file: file.write_bytes(b"")),
    ("missing", WEIGHTS, Path.unlink),
    ("missing", DESCRIPTION, Path.unlink),
    ("truncated", DESCRIPTION, truncate),
    ("not text", DESCRIPTION, lambda file: file.write_bytes(b"\xff\xfe")),
    ("a list", DESCRIPTION, lambda file: file.write_text("[]")),
    ("a number", DESCRIPTION, lambda file: file.write_text("3")),
    ("other JSON", DESCRIPTION, lambda file: file.write_text('{"name": "something else"}')),
    ("no checksum", DESCRIPTION, lambda file: describe(file, sha256=None)),
    ("no configuration", DESCRIPTION, lambda file: describe(file, config=None)),
    ("another configuration", DESCRIPTION, lambda file: describe(file, config={"data": {}})),
]


@pytest.mark.parametrize(("damage", "name", "do"), DAMAGES, ids=[f"{name} {damage}" for damage, name, _ in DAMAGES])
def test_the_error_names_the_damaged_file(damage: str, name: str, do: Callable[[Path], object], folder: Path) -> None:
    load_checkpoint(folder)
    do(folder / name)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value) and name in str(caught.value)


def test_a_checksum_that_is_a_number_is_refused(folder: Path) -> None:
    describe(folder / DESCRIPTION, sha256=5)
    with pytest.raises(CheckpointError, match=WEIGHTS):
        load_checkpoint(folder)


CHANGES = {
    "heads": ('"n_heads": 2', '"n_heads": 4'),
    "dropout": ('"drop_rate": 0.0', '"drop_rate": 0.5'),
    "tokenizer": ('"tokenizer": "byte"', '"tokenizer": "gpt2"'),
    "prompt": ('"prompt": "Every', '"prompt": "every'),
    "step": ('"step": 6', '"step": 7'),
    "the checksum's name": ('"checksum"', '"checksun"'),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_byte_of_the_description_is_refused(change: str, folder: Path) -> None:
    file = folder / DESCRIPTION
    before, after = CHANGES[change]
    assert file.read_text().count(before) == 1
    file.write_text(file.read_text().replace(before, after))
    for load in (load_checkpoint, load_tokenizer):
        with pytest.raises(CheckpointError, match=rf"{DESCRIPTION}: .* \(damaged file\)"):
            load(folder)


def test_a_description_of_an_older_version_is_read_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without_checksum(folder / DESCRIPTION)
    assert load_checkpoint(folder)[1].model.n_heads == 2
    assert caplog.messages == [
        f"{folder / DESCRIPTION}: an older version wrote it without a checksum, so damage would not be noticed"
    ]


def test_a_description_of_an_older_version_is_compared_with_the_parameters_in_mlflow(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = {name: decode_param(text) for name, text in trial_params(load_checkpoint(folder)[1]).items()}
    without_checksum(folder / DESCRIPTION)
    load_checkpoint(folder, params=params)
    load_checkpoint(folder, params={**params, "train.sample.prompt": "Eve…"})  # MLflow keeps its beginning
    assert not caplog.messages
    text = (folder / DESCRIPTION).read_text()
    (folder / DESCRIPTION).write_text(text.replace('"n_heads": 2', '"n_heads": 4'))
    with pytest.raises(CheckpointError, match=r"found model.n_heads 4, which its run in MLflow has as 2"):
        load_checkpoint(folder, params=params)


@pytest.mark.parametrize("where", ["missing", "a file"])
def test_a_missing_folder_or_a_file_in_its_place_is_refused(where: str, tmp_path: Path) -> None:
    folder = tmp_path / "nothing"
    if where == "a file":
        folder.write_text("no folder")
    with pytest.raises(CheckpointError, match="nothing"):
        load_checkpoint(folder)


@pytest.mark.parametrize("checksum_fits", [False, True])
def test_nothing_is_unpickled(checksum_fits: bool, folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    torch.save({"tok_emb.weight": Trap(trap)}, tmp_path / "pickle.pt")
    for content in (pickle.dumps(Trap(trap)), (tmp_path / "pickle.pt").read_bytes()):
        if checksum_fits:
            vouch_for(folder, content)
        else:
            (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(CheckpointError, match=WEIGHTS):
            load_checkpoint(folder)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Trap(trap)))
    assert trap.exists()  # the trap works


OTHERS: dict[str, tuple[dict[str, Any], Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]]] = {
    "another width": ({"emb_dim": 32}, dict),
    "more layers": ({"n_layers": 2}, dict),
    "biases": ({"qkv_bias": True}, dict),
    "nothing": ({}, lambda tensors: {}),
    "one tensor too few": ({}, lambda tensors: {n: t for n, t in tensors.items() if n != "final_norm.bias"}),
    "one tensor too many": ({}, lambda tensors: {**tensors, "extra": torch.zeros(1)}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_weights_of_another_model_are_refused(other: str, folder: Path) -> None:
    shape, change = OTHERS[other]
    tensors = {name: tensor.clone() for name, tensor in lively_gpt(small_config(model=shape)).state_dict().items()}
    vouch_for(folder, save(change(tensors)))
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: holds no weights that fit {DESCRIPTION}"):
        load_checkpoint(folder)


def test_a_tied_checkpoint_without_its_embedding_is_refused(tmp_path: Path) -> None:
    config: RunConfig = small_config(model={"tie_embeddings": True})
    save_checkpoint(tmp_path, lively_gpt(config), config, step=1)
    vouch_for(tmp_path, save({"pos_emb.weight": torch.zeros(16, 16)}))
    with pytest.raises(CheckpointError, match="holds no weights that fit"):
        load_checkpoint(tmp_path)


# The corpus's own vocabulary


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A checkpoint of a GPT that knows the tokens of its corpus only."""
    config = small_config(data={"corpus": "sotu-1820", "tokenizer": "gpt2", "vocab": "corpus"})
    data = open_dataset(config.data)
    config = data.resolve(config)
    save_checkpoint(tmp_path / "own", lively_gpt(config), config, 6, data.vocabulary)
    return tmp_path / "own"


def test_a_checkpoint_stores_its_corpus_vocabulary(own: Path, folder: Path) -> None:
    model, config = load_checkpoint(own)
    data = open_dataset(DataConfig(corpus="sotu-1820", vocab="corpus"))
    assert config.vocab_size == len(model.tok_emb.weight) == data.n_vocab
    tokenizer = load_tokenizer(own)
    assert tokenizer.n_vocab == data.n_vocab
    assert tokenizer.decode(data.val) == data.codec.decode(data.val)
    assert load_tokenizer(folder) is get_tokenizer("byte")  # the full vocabulary


@pytest.mark.parametrize(
    "ids", [None, [], [0, 2, 2], [5, 3], [-1, 4], [0, 50257], list(range(5000)), [[0, 1]]], ids=lambda ids: str(ids)[:9]
)
def test_an_invalid_vocabulary_is_refused(ids: list[int] | None, own: Path) -> None:
    tensors = load_file(own / WEIGHTS)
    del tensors["vocabulary"]
    if ids is not None:
        tensors["vocabulary"] = torch.tensor(ids, dtype=torch.int32)
    weights = save(tensors)
    (own / WEIGHTS).write_bytes(weights)
    describe(own / DESCRIPTION, sha256=hashlib.sha256(weights).hexdigest())
    with pytest.raises(CheckpointError, match=r"model\.safetensors: holds (no|a) vocabulary"):
        load_tokenizer(own)


@pytest.mark.slow
def test_texts_are_generated_with_a_corpus_vocabulary(own: Path) -> None:
    def generate(prompt: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness.generate", str(own), "--prompt", prompt, "--max-new-tokens", "5"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    done = generate(" the publication")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(" the publication")
    used = set(load_corpus(DataConfig(corpus="sotu-1820")).text)
    assert set(done.stdout) <= used | set(" the publication")
    refused = generate("a\N{SNOWMAN}")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(
        "--prompt: found '\N{SNOWMAN}', which cannot be encoded with the tokens of the corpus;"
    )
    assert refused.stderr.count("\n") == 1
