"""Data sets of texts and tokens in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.data import CorpusError, Dataset, open_dataset

TEXT = "Every effort moves you. Ünd weiter!\r\n" * 30


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPT_HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_text_is_encoded_as_a_file_with_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    data = Dataset.from_text(TEXT, tokenizer="byte", val=0.2, test=0.1)
    assert data.config is not None
    config = data.config.model_copy(update={"path": (str(tmp_path / "a.txt"),)})
    of_file = open_dataset(config)
    assert data.corpus.text == TEXT
    assert data.sha256 == of_file.sha256
    assert all(np.array_equal(data.tokens(split), of_file.tokens(split)) for split in ("train", "val", "test"))
    assert np.array_equal(Dataset.from_text(TEXT, "byte", 0.2, 0.1).train, data.train)
    again = open_dataset(data.config)  # from its configuration alone
    assert again.fingerprint == data.fingerprint
    assert Dataset.from_text(TEXT, "byte", vocab="corpus").n_vocab < 40


def test_tokens_are_taken_as_they_are() -> None:
    of_text = Dataset.from_text(TEXT, tokenizer="byte")
    test = torch.tensor(of_text.test.astype(np.int64))
    data = Dataset.from_tokens(of_text.train.tolist(), np.asarray(of_text.val), test, tokenizer="byte")
    assert all(np.array_equal(data.tokens(split), of_text.tokens(split)) for split in ("train", "val", "test"))
    assert all(data.target_bytes(split) == of_text.target_bytes(split) for split in ("train", "val", "test"))
    assert data.codec.decode(data.train[:23]) == "Every effort moves you."
    assert data.train.dtype == np.uint16 and len(data.tokens("test")) == len(of_text.test)
    assert len(Dataset.from_tokens([1, 2], [3, 4]).test) == 0
    moved = [([1, 2], [3, 4]), ([1, 2, 3], [4, 5]), ([1, 2], [3, 4, 5])]
    fingerprints = {Dataset.from_tokens(train, val, tokenizer="byte").fingerprint for train, val in moved}
    assert len(fingerprints) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Dataset.from_text("  "), "text: found '  '; allowed: a text with at least one word"),
        (lambda: Dataset.from_tokens([1], [1, 2]), "train: found 1 tokens; allowed: at least 2"),
        (lambda: Dataset.from_tokens([1, 2], [1, 256], tokenizer="byte"), "val: found the id 256; allowed: 0 to 255"),
        (lambda: Dataset.from_tokens([1, 2], [1, -2], tokenizer="byte"), "val: found the id -2; allowed: 0 to 255"),
        (
            lambda: Dataset.from_tokens([[1, 2]], [1, 2]),
            r"train: found int64 of shape \(1, 2\); allowed: whole numbers",
        ),
        (lambda: Dataset.from_tokens([1.0, 2.0], [1, 2]), "train: found float64 of shape"),
        (lambda: Dataset.from_tokens([1, 2], [1, 2], tokenizer="char"), "tokenizer: found 'char'; allowed"),
    ],
)
def test_wrong_texts_and_tokens_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        wrong()
