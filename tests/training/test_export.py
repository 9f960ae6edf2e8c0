"""transformers loads an exported model: the same logits, the same greedy text, the same ids for every text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import examples
from harness.config.run import RunConfig, SampleConfig
from harness.data import CorpusError
from harness.data.hugging_face import check_exported, merged_from
from harness.data.own_tokenizers import open_tokenizer
from harness.data.tokenizer import TokenizerFile, get_tokenizer
from harness.model.generation import continue_text
from harness.model.init import build_gpt
from harness.model.weights import load_checkpoint, load_tokenizer, save_checkpoint
from harness.training.export import export_model
from helpers import small_config
from own_tokenizers import byte_level_json, lower_case_json, sentencepiece_model

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

pytestmark = pytest.mark.slow  # it imports transformers

CASES: dict[str, dict[str, Any]] = {
    "bytes": {},
    "biases, tied, dropout": {"qkv_bias": True, "tie_embeddings": True, "drop_rate": 0.2},
    "gpt2": {"tokenizer": "gpt2"},
    "a larger vocabulary": {"vocab_size": 300},
}


def checkpoint(folder: Path, tokenizer: str = "byte", vocab: str = "full", **model: Any) -> RunConfig:
    """Save a model with random weights, larger than those of an untrained model."""
    plain = small_config(model={**model, "n_layers": 2}).model_dump(mode="json")
    plain["data"] |= {"tokenizer": tokenizer, "vocab": vocab}
    config = RunConfig.model_validate(plain)
    gpt = build_gpt(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    save_checkpoint(folder, gpt, config, 7)
    return config


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    checkpoint(folder / "ours", "gpt2")
    export_model(str(folder / "ours"), folder / "theirs")
    return folder / "theirs"


@pytest.mark.parametrize("case", CASES)
def test_transformers_gives_the_same_logits_and_the_same_text(case: str, tmp_path: Path) -> None:
    config = checkpoint(tmp_path / "ours", **CASES[case])
    export_model(str(tmp_path / "ours"), tmp_path / "theirs")
    ours, _ = load_checkpoint(tmp_path / "ours")
    tokenizer = load_tokenizer(tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    length = config.model.context_length
    tokens = torch.randint(0, config.vocab_size, (3, length), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mine, other = ours(tokens), theirs(tokens).logits
    assert mine.abs().max() > 1
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    assert (theirs.config.resid_pdrop, theirs.config.n_positions) == (config.model.drop_rate, length)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == config.parameters + (
        0 if config.model.qkv_bias else 2 * 3 * config.model.emb_dim  # theirs always has these biases
    )

    prompt = "Every eff"
    sample = SampleConfig(prompt=prompt, max_new_tokens=length - len(tokenizer.encode(prompt)), temperature=0.0)
    with torch.no_grad():
        ids = theirs.generate(
            torch.tensor([tokenizer.encode(prompt)]),
            max_new_tokens=sample.max_new_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )[0]
    assert tokenizer.decode(ids.tolist()) == continue_text(ours, tokenizer, sample, 1)


def test_an_exported_folder_has_the_facts_of_its_run(tmp_path: Path) -> None:
    checkpoint(tmp_path / "ours", drop_rate=0.2)
    files = export_model(str(tmp_path / "ours"), tmp_path / "theirs")
    assert sorted(path.name for path in (tmp_path / "theirs").iterdir()) == sorted(path.name for path in files)
    card = (tmp_path / "theirs" / "README.md").read_text("utf-8")
    assert "| `model.drop_rate` | 0.2 |" in card and card.startswith("---\nlibrary_name: transformers\n")
    with pytest.raises(FileExistsError, match=r"^found files in .*; allowed: a new or empty folder$"):
        export_model(str(tmp_path / "ours"), tmp_path / "theirs")


def test_a_tokenizer_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"^found cl100k_base; allowed for an export: gpt2, r50k_base, byte, char, "):
        check_exported("cl100k_base")
    plain = small_config().model_dump(mode="json")
    plain["data"]["vocab"], plain["model"]["vocab_size"] = "corpus", 200
    config = RunConfig.model_validate(plain)
    save_checkpoint(tmp_path / "ours", build_gpt(config), config, 1, np.arange(50))
    with pytest.raises(CorpusError, match=r"^found corpus, whose ids mean nothing outside this text"):
        export_model(str(tmp_path / "ours"), tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from(" \n\t'sdmtl0123456789é中😀\u3000"),
    max_size=60,
)


@pytest.fixture(scope="module")
def exported(gpt2_folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(gpt2_folder)


@examples(150)
@given(text=TEXTS)
def test_both_tokenizers_give_the_same_ids(text: str, exported: Any) -> None:
    ids = get_tokenizer("gpt2").encode(text)
    assert exported(text)["input_ids"] == ids
    assert exported.decode(ids) == text


def own_file(name: str) -> TokenizerFile:
    if name.endswith(".model"):
        return TokenizerFile("tokenizer.model", sentencepiece_model("unigram", byte_fallback=name == "bytes.model"))
    if name == "char":
        return TokenizerFile("characters.txt", "àé中　😀".encode())
    return TokenizerFile("tokenizer.json", (lower_case_json() if name == "lower.json" else byte_level_json()).encode())


def export_own(name: str, folder: Path) -> Path:
    """Export a model with random weights and this tokenizer, which is no file any more."""
    file = own_file(name)
    size = open_tokenizer(name, file).n_vocab
    config = small_config(data={"corpus": "sotu-1820", "tokenizer": name}, model={"vocab_size": size})
    save_checkpoint(folder / "ours", build_gpt(config), config, 1, tokenizer_file=file)
    export_model(str(folder / "ours"), folder / "theirs")
    return folder / "theirs"


@pytest.fixture(scope="module", params=["bpe-500", "lower.json", "char", "a.model"])
def own_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tokenizer that is not built in, and what transformers loads of it."""
    theirs = transformers.AutoTokenizer.from_pretrained(export_own(request.param, tmp_path_factory.mktemp("own")))
    return open_tokenizer(request.param, own_file(request.param)), theirs


@examples(80)
@given(text=TEXTS)
def test_own_tokenizers_give_the_same_ids_and_texts(text: str, own_pair: tuple[Any, Any]) -> None:
    ours, theirs = own_pair
    ids = ours.encode(text)
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    if ours.lossless:
        assert theirs.decode(ids) == text == ours.decode(ids)
    assert theirs.eos_token_id == ours.end_of_text
    assert len(theirs) == ours.n_vocab


def test_a_tokenizer_json_is_exported_as_it_is(tmp_path: Path) -> None:
    assert (export_own("a.json", tmp_path) / "tokenizer.json").read_text("utf-8") == byte_level_json()


def test_a_sentencepiece_model_with_bytes_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"^found bytes.model, a SentencePiece model with tokens for single bytes, "):
        export_own("bytes.model", tmp_path)
    assert not (tmp_path / "theirs").exists()


def test_the_special_token_ends_a_text(exported: Any) -> None:
    assert exported("a<|endoftext|>")["input_ids"] == [64, 50256] and exported.eos_token_id == 50256


def test_a_merge_is_the_last_one_that_makes_the_piece() -> None:
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"ab": 3, b"bc": 4, b"abc": 5, b"abcab": 6}
    assert merged_from(b"ab", ranks) == [b"a", b"b"]
    assert merged_from(b"abc", ranks) == [b"ab", b"c"]  # ab was learned before bc
    assert merged_from(b"abcab", ranks) == [b"abc", b"ab"]
