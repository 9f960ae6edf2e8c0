"""Tokenizers that are not built in: read, trained and counted as their own libraries do."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, trainers

from harness.config.fingerprint import digest_of
from harness.config.run import DataConfig
from harness.core.files import sha256_of
from harness.data import CorpusError, Dataset, load_corpus, open_dataset
from harness.data.own_tokenizers import TOKENIZERS, open_tokenizer, training_text
from harness.data.splitting import split_points
from harness.data.tokenizer import TokenizerFile
from own_tokenizers import byte_level_json, lower_case_json, sentencepiece_model

texts = st.text() | st.text(alphabet=" \n\r\t\u00a0aA9'<|>é中😀", max_size=40)
BPE = DataConfig(corpus="sotu-1820", tokenizer="bpe-400")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(cache: Path) -> Dataset:
    return open_dataset(BPE, cache=cache)


def test_a_trained_bpe_is_that_of_the_library_on_the_training_split_alone(trained: Dataset) -> None:
    text = load_corpus(BPE).text
    train = text[: split_points(load_corpus(BPE), BPE.split)[0]]
    assert "".join(training_text([load_corpus(BPE)], BPE)) == train
    theirs = Library(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    theirs.train_from_iterator(
        [train],
        trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet),
    )
    assert trained.tokenizer_file is not None
    ours = Library.from_str(trained.tokenizer_file.content.decode())
    assert ours.get_vocab() == theirs.get_vocab()
    assert trained.train.tolist() == theirs.encode(train).ids
    assert trained.n_vocab == 400
    assert trained.codec.end_of_text == 0


def test_it_is_trained_once_and_again_where_its_cache_is_damaged(
    trained: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    [file] = (cache / TOKENIZERS).iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("harness.data.own_tokenizers.train_bpe", None)
        assert open_dataset(BPE, cache=cache).fingerprint == trained.fingerprint
    file.write_bytes(file.read_bytes().replace(b"tokenizer.json", b"tokenizer_json"))
    with caplog.at_level(logging.WARNING):
        assert open_dataset(BPE, cache=cache).fingerprint == trained.fingerprint
    assert "does not match its checksum; training it again" in caplog.text


def test_another_split_or_size_is_another_tokenizer(trained: Dataset, cache: Path) -> None:
    for other in ({"tokenizer": "bpe-401"}, {"split": {"val": 0.2, "test": 0.1}}):
        config = DataConfig.model_validate({"corpus": "sotu-1820", "tokenizer": "bpe-400", **other})
        assert open_dataset(config, cache=cache).tokenizer_file != trained.tokenizer_file


def test_a_short_text_gives_fewer_tokens_than_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab ab ab " * 20)
    data = open_dataset(DataConfig(path=("a.txt",), tokenizer="bpe-1000"), tmp_path, tmp_path / "cache")
    assert 257 < data.n_vocab < 265


def test_characters_of_the_training_text_are_tokens_and_others_are_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("é中a" * 30 + "ü" * 9, "utf-8")  # ü is in the test split alone
    config = DataConfig(path=("a.txt",), tokenizer="char")
    data = open_dataset(config, tmp_path, tmp_path / "cache")
    assert data.n_vocab == 256 + 2
    assert data.codec.encode("a中éü") == [97, 257, 256, 0xC3, 0xBC]
    assert data.codec.decode([97, 257, 256, 0xC3, 0xBC]) == "a中éü"
    assert sum(data.bytes.values()) == len((tmp_path / "a.txt").read_bytes())
    own = open_dataset(config.model_copy(update={"vocab": "corpus"}), tmp_path, tmp_path / "cache")
    assert own.n_vocab == 3 + 2  # the three characters, and the two bytes of ü


def file_of(kind: str) -> TokenizerFile:
    if kind == "a.model":
        return TokenizerFile("tokenizer.model", sentencepiece_model())
    if kind == "char":
        return TokenizerFile("characters.txt", "éü中".encode())
    return TokenizerFile("tokenizer.json", (byte_level_json() if kind == "a.json" else lower_case_json()).encode())


@pytest.mark.parametrize("kind", ["a.json", "char"])
@given(text=texts)
def test_a_lossless_tokenizer_gives_the_text_back_and_bytes_add_up(kind: str, text: str) -> None:
    tokenizer = open_tokenizer(kind, file_of(kind))
    assert tokenizer.lossless
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes()[np.asarray(ids, dtype=int)].sum() == len(text.encode())
    cut = tokenizer.last_cut(text)
    assert tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:]) == ids


@pytest.mark.parametrize("kind", ["a.json", "lower.json", "a.model", "char"])
def test_a_lone_surrogate_is_an_error_as_in_every_tokenizer(kind: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        open_tokenizer(kind, file_of(kind)).encode("a\ud800")


@pytest.fixture(params=["lower.json", "a.model"])
def losing(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DataConfig, Path]:
    """A text, and a tokenizer that drops white space and case or accents of it; and the folder of both."""
    (tmp_path / "a.txt").write_text("É was  here.\n\n" * 200, "utf-8")
    (tmp_path / request.param).write_bytes(file_of(request.param).content)
    return DataConfig(path=("a.txt",), tokenizer=request.param), tmp_path


def test_bits_per_byte_divide_by_the_bytes_of_the_text_and_not_of_the_tokens(losing: tuple[DataConfig, Path]) -> None:
    config, folder = losing
    data = open_dataset(config, folder, folder / "cache")
    text = data.corpus.text
    assert not data.codec.lossless
    assert sum(data.bytes.values()) == len(text.encode())
    assert data.token_bytes[data.val].sum() != data.bytes["val"]
    first, second = split_points(data.corpus, config.split)
    val = text[first:second]
    if config.tokenizer == "lower.json":  # the second token is the second word
        before = val[: next(iter(re.finditer(r"(?<=\w)\s*\b(?=\w)|\.", val))).end()].rstrip(".")
    else:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model()).encode(
            val, return_type="proto"
        )
        before = val[: pieces.pieces[1].begin]
    assert data.target_bytes("val") == len(val.encode()) - len(before.encode())
    assert data.bytes_of("val", data.val) == pytest.approx(data.bytes["val"], rel=1e-12)


@pytest.mark.parametrize("name", ["val", "first_bytes", "tokenizer"])
def test_altered_tokens_of_a_tokenizer_that_loses_text_are_found(
    losing: tuple[DataConfig, Path], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    config, folder = losing
    open_dataset(config, folder, folder / "cache")
    [stored] = (folder / "cache" / "tokens").iterdir()
    honest = {file.name: file.read_bytes() for file in stored.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.data.token_cache.encode", None)
        open_dataset(config, folder, folder / "cache")  # nothing is encoded a second time
    array = np.load(stored / f"{name}.npy")
    array[1] ^= 1
    np.save(stored / f"{name}.npy", array)
    meta = json.loads((stored / "meta.json").read_text())
    content = {**meta["content"], "files": {file.name: sha256_of(file) for file in stored.glob("*.npy")}}
    if name == "tokenizer":
        sha256 = hashlib.sha256(array.tobytes()).hexdigest()
        content["tokenizer"] = f"{content['tokenizer'].split()[0]} {sha256}"
    (stored / "meta.json").write_text(json.dumps({"content": content, "sha256": digest_of(content)}))
    open_dataset(config, folder, folder / "cache")
    assert f"{name}.npy" in caplog.text
    assert {file.name: file.read_bytes() for file in stored.iterdir()} == honest


def test_a_tokenizer_is_known_by_its_content_and_not_by_its_path(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(byte_level_json())
    (tmp_path / "other.json").write_text(byte_level_json("</s>"))
    found = {
        name: open_dataset(DataConfig(corpus="sotu-1820", tokenizer=name), tmp_path, tmp_path / "cache").fingerprint
        for name in ("a.json", "b.json", "other.json")
    }
    assert found["a.json"] == found["b.json"] != found["other.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"found 'x.json', which cannot be read \(No such file or directory\); allowed: a file"),
        (b"{}", r"found 'x.json', which is no tokenizer.json \(Model missing"),
        (b"\xff", r"found 'x.json', which is no tokenizer.json"),
        (b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}', r"found 'x.json', which (has no tokens|is no)"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_one_sentence(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(CorpusError, match=message) as error:
        open_dataset(DataConfig(corpus="sotu-1820", tokenizer="x.json"), tmp_path, tmp_path / "cache")
    assert error.value.field == "data.tokenizer"


def test_no_sentencepiece_model_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.model").write_bytes(b"nonsense")
    with pytest.raises(CorpusError, match=r"found 'x.model', which SentencePiece cannot read"):
        open_dataset(DataConfig(corpus="sotu-1820", tokenizer="x.model"), tmp_path, tmp_path / "cache")


@pytest.mark.parametrize(("module", "name"), [("tokenizers", "bpe-300"), ("sentencepiece", "x.model")])
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "x.model").write_bytes(sentencepiece_model() + b" ")
    with pytest.raises(CorpusError, match=rf"{module}.* not installed; allowed: `pip install .*\[tokenizers\]"):
        open_dataset(DataConfig(corpus="sotu-1820", tokenizer=name), tmp_path, tmp_path / "cache")


def test_the_dataset_keeps_its_tokenizer_when_the_file_is_gone(tmp_path: Path) -> None:
    shutil.copy(__file__, tmp_path / "a.txt")
    (tmp_path / "a.json").write_text(byte_level_json())
    config = DataConfig(path=("a.txt",), tokenizer="a.json")
    data = open_dataset(config, tmp_path, tmp_path / "cache")
    (tmp_path / "a.json").unlink()
    assert data.codec.decode(data.val.tolist()) in Path(__file__).read_text("utf-8")
    again = open_dataset(config, tmp_path, tmp_path / "cache", file=data.tokenizer_file)
    assert again.fingerprint == data.fingerprint
