"""Mixtures: each source is the data set that it is alone, with one tokenizer and one vocabulary for all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.config.run import DataConfig
from harness.data import SPLITS, CorpusError, open_dataset
from harness.data.own_tokenizers import train_bpe
from harness.data.tokenizer import SINGLE_BYTES

BOOKS = "".join(f"Every effort moves you {n * n} steps. " for n in range(60))
CODE = "".join(f"def f{n}(x):\n    return x + {n}  # größer\n" for n in range(70))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("books.txt").write_text(BOOKS, "utf-8")
    Path("code.txt").write_text(CODE, "utf-8")
    return tmp_path


def mixed(**fields: Any) -> DataConfig:
    mix = {"code": {"path": "code.txt"}, "books": {"path": "books.txt", "weight": 2}}
    return DataConfig.model_validate({"mix": mix, "tokenizer": "byte", **fields})


@pytest.mark.parametrize("more", [{}, {"split": {"val": 0.2, "test": 0.0}}, {"tokenizer": "gpt2"}])
def test_each_source_is_the_data_set_that_it_is_alone(more: dict[str, Any], folder: Path) -> None:
    data = open_dataset(mixed(**more))
    assert list(data.sources) == ["books", "code"]
    for name, part in data.sources.items():
        alone = open_dataset(DataConfig.model_validate({"path": f"{name}.txt", "tokenizer": "byte", **more}))
        assert (part.fingerprint, part.bytes) == (alone.fingerprint, alone.bytes)
        for split in SPLITS:
            assert np.array_equal(part.tokens(split), alone.tokens(split))
            assert part.target_bytes(split) == alone.target_bytes(split)
    for split in SPLITS:
        joined = np.concatenate([part.tokens(split) for part in data.sources.values()])
        assert len(data.tokens(split)) == len(joined)
        for start, stop in ((0, 10), (len(joined) // 2 - 200, len(joined) // 2 + 200), (0, len(joined)), (5, 5)):
            assert np.array_equal(data.tokens(split)[start:stop], joined[start:stop])
        assert data.bytes[split] == sum(part.bytes[split] for part in data.sources.values())


def test_weights_and_the_order_of_sources_change_no_token_and_names_do(folder: Path) -> None:
    data = open_dataset(mixed())
    other = {"books": {"path": "books.txt"}, "code": {"path": "code.txt", "weight": 0.5}}
    named = {"prose": {"path": "books.txt"}, "code": {"path": "code.txt"}}
    assert open_dataset(mixed(mix=other)).fingerprint == data.fingerprint
    assert open_dataset(mixed(mix=named)).fingerprint != data.fingerprint
    assert mixed(mix=other).texts == mixed().texts and hash(mixed(mix=other).texts) == hash(mixed().texts)


@pytest.mark.parametrize("tokenizer", ["byte", "gpt2", "char"])
def test_the_vocabulary_of_a_corpus_is_that_of_all_sources(tokenizer: str, folder: Path) -> None:
    data, full = open_dataset(mixed(tokenizer=tokenizer, vocab="corpus")), open_dataset(mixed(tokenizer=tokenizer))
    whole = {split: full.tokens(split)[0:100_000] for split in SPLITS}
    assert data.vocabulary is not None
    assert data.vocabulary.tolist() == sorted({token for ids in whole.values() for token in ids.tolist()})
    for name, part in data.sources.items():
        for split in SPLITS:
            assert np.array_equal(data.vocabulary[part.tokens(split)[:]], full.sources[name].tokens(split))
        text = "".join(part.codec.decode(part.tokens(split)[:].tolist()) for split in SPLITS)
        assert text == {"books": BOOKS, "code": CODE}[name]
    assert np.array_equal(data.token_bytes, full.token_bytes[data.vocabulary])
    assert data.trained is not None
    assert data.trained.tolist() == sorted(set(data.train[0 : len(data.train)].tolist()))


def test_a_tokenizer_is_trained_on_the_training_text_of_every_source(folder: Path) -> None:
    Path("code.txt").write_text("é" * 850 + "ß" * 150, "utf-8")  # é in the training text, ß in the others
    characters = open_dataset(mixed(tokenizer="char")).codec.pieces[len(SINGLE_BYTES) :]
    assert characters == ["é".encode()]
    data = open_dataset(mixed(tokenizer="bpe-300"))
    plain = open_dataset(mixed())
    text = [part.codec.decode(part.train.tolist()) for part in plain.sources.values()]
    assert data.tokenizer_file is not None
    assert json.loads(data.tokenizer_file.content) == json.loads(train_bpe(iter(text), 300))


def test_the_token_between_documents_of_one_source_has_no_bytes(folder: Path) -> None:
    Path("more.txt").write_text(BOOKS, "utf-8")
    mix = {"books": {"path": ["books.txt", "more.txt"], "separator": "endoftext"}, "code": {"path": "code.txt"}}
    data = open_dataset(mixed(mix=mix, tokenizer="gpt2"))
    ends = [int((part.train[:] == 50256).sum()) for part in data.sources.values()]
    assert ends == [1, 0]
    for part in data.sources.values():
        assert part.bytes_of("train", part.train[:]) == part.bytes["train"]


def test_mistakes_name_the_field_of_the_source(folder: Path) -> None:
    np.full(5000, 50_257, np.uint16).tofile("train.bin")
    cases = {
        "data.mix.code.path": {"path": "missing.txt"},
        "data.mix.code.corpus": {"corpus": "sotu-1"},
        "data.mix.code.val_path": {"path": "code.txt", "val_path": "missing.txt"},
    }
    for field, code in cases.items():
        with pytest.raises(CorpusError) as caught:
            open_dataset(mixed(mix={"books": {"path": "books.txt"}, "code": code}))
        assert caught.value.field == field
    with pytest.raises(CorpusError, match="allowed"):
        open_dataset(mixed(mix={"books": {"path": "books.txt"}, "code": {"path": "train.bin"}}, tokenizer="gpt2"))


def test_text_that_another_source_is_validated_on_is_named(folder: Path) -> None:
    Path("held.txt").write_text(BOOKS, "utf-8")
    mix = {"books": {"path": "books.txt"}, "code": {"path": "code.txt", "val_path": "held.txt"}}
    [message] = open_dataset(mixed(mix=mix)).messages
    assert message.startswith("data.mix: warning: 'books.txt' and 'held.txt' have equal content")
    assert open_dataset(mixed()).messages == []
    note = {"books": {"path": "books.txt", "field": "body"}, "code": {"path": "code.txt"}}
    [message] = open_dataset(mixed(mix=note)).messages
    assert message.startswith("data.mix.books.path: data.field 'body' is not used")
