"""Cached tokens are compared with the text: checksums that fit prove nothing about who wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import harness.data.token_comparison
from harness.config.fingerprint import digest_of
from harness.config.run import DataConfig
from harness.core.files import sha256_of
from harness.data import SPLITS, get_tokenizer, open_dataset

FULL = DataConfig(corpus="sotu-1820")
OWN = DataConfig(corpus="sotu-1820", vocab="corpus")
Array = npt.NDArray[np.generic]


def plant(folder: Path, name: str, change: Callable[[Array], Array]) -> None:
    """Change an array of the cache, and make the checksums fit."""
    np.save(folder / f"{name}.npy", change(np.load(folder / f"{name}.npy")))
    describe(folder, files={file.name: sha256_of(file) for file in folder.glob("*.npy")})


def describe(folder: Path, **fields: object) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    content = {**meta["content"], **fields}
    (folder / "meta.json").write_text(json.dumps({"content": content, "sha256": digest_of(content)}))


def cached(config: DataConfig, cache: Path) -> tuple[Path, dict[str, bytes]]:
    """The folder of a text's tokens in a new cache, and its files."""
    open_dataset(config, cache=cache)
    [folder] = (cache / "tokens").iterdir()
    return folder, {file.name: file.read_bytes() for file in folder.iterdir()}


def changed(place: int, by: int) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        array = array.copy()
        array[place] += by  # type: ignore[operator]
        return array

    return change


PLANTED: list[tuple[DataConfig, str, Callable[[Array], Array], str]] = [
    (FULL, "train", changed(100, 1), "train.npy has other tokens"),
    (FULL, "test", lambda ids: ids[:-1], "test.npy has other tokens"),
    (FULL, "val", lambda ids: np.append(ids, ids[:1]), "the splits have other sizes than their text"),
    (FULL, "val", lambda ids: ids.astype(np.uint32), "val.npy has another type"),
    (FULL, "val", lambda ids: ids.reshape(1, -1), "val.npy has another type"),
    (FULL, "val", lambda ids: np.full_like(ids, 50_300), "val.npy has other tokens"),
    (FULL, "token_bytes", changed(7, 1), "token_bytes.npy is of another tokenizer"),
    (OWN, "vocabulary", lambda ids: np.append(ids, ids[-1:] + 1), "token_bytes.npy is of another tokenizer"),
    (OWN, "vocabulary", lambda ids: ids[::-1], "vocabulary.npy is no set of ids"),
    (OWN, "vocabulary", changed(-1, 50_000), "list index out of range"),
]


@pytest.mark.parametrize(("config", "name", "change", "found"), PLANTED)
def test_tokens_that_are_not_those_of_the_text_are_encoded_again(
    config: DataConfig,
    name: str,
    change: Callable[[Array], Array],
    found: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, honest = cached(config, tmp_path)
    plant(folder, name, change)
    open_dataset(config, cache=tmp_path)
    assert found in caplog.text and "encoding them again" in caplog.text
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == honest


def test_a_larger_vocabulary_than_the_texts_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It would make the model larger."""
    folder, honest = cached(OWN, tmp_path)
    sizes = open_dataset(FULL, cache=tmp_path / "full").token_bytes
    last = int(np.load(folder / "vocabulary.npy")[-1])
    plant(folder, "vocabulary", lambda ids: np.append(ids, np.int32(last + 1)))
    plant(folder, "token_bytes", lambda lengths: np.append(lengths, sizes[last + 1]))
    open_dataset(OWN, cache=tmp_path)
    assert "vocabulary.npy has tokens that do not occur" in caplog.text
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == honest


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"tokenizer": "byte"}, "meta.json is of another text"),
        ({"corpus": "0" * 64}, "meta.json is of another text"),
        ({"bytes": dict.fromkeys(SPLITS, 1)}, "the splits have other sizes than their text"),
        ({"bytes": {"train": 1}}, "'val'"),
        ({"files": []}, "list indices"),
        ({"files": {"../../train.npy": "0"}}, "'train.npy'"),
    ],
)
def test_metadata_that_is_not_of_the_text_is_replaced(
    fields: dict[str, object], found: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, honest = cached(FULL, tmp_path)
    describe(folder, **fields)
    open_dataset(FULL, cache=tmp_path)
    assert found in caplog.text
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == honest


def test_the_same_text_in_other_tokens_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, honest = cached(FULL, tmp_path)
    coder = get_tokenizer("gpt2")
    text = coder.decode(np.load(folder / "val.npy"))
    plant(folder, "val", lambda ids: np.concatenate([coder.encode_array(letter) for letter in text]).astype(ids.dtype))
    open_dataset(FULL, cache=tmp_path)
    assert "val.npy has other tokens" in caplog.text
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == honest


def test_a_long_text_is_decoded_as_a_whole_and_encoded_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = cached(FULL, tmp_path)
    monkeypatch.setattr(harness.data.token_comparison, "_BLOCK", 200)
    monkeypatch.setattr(harness.data.token_comparison, "ENCODED_AGAIN", 2_000)
    draws = iter([number % 10 / 10 for number in range(1_000)])  # a tenth of the blocks
    monkeypatch.setattr("random.SystemRandom.random", lambda _: next(draws))
    open_dataset(FULL, cache=tmp_path)
    assert not caplog.text
    for change in (changed(-1, 1), lambda ids: np.full_like(ids, 50_300), lambda ids: ids[:-1]):
        plant(folder, "test", change)
        caplog.clear()
        open_dataset(FULL, cache=tmp_path)
        assert "test.npy has other tokens" in caplog.text or "out of bounds" in caplog.text


def test_token_files_are_compared_with_their_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.arange(5_000, dtype=np.uint16).tofile(tmp_path / "a.bin")
    for vocab in ("full", "corpus"):
        config = DataConfig.model_validate({"path": str(tmp_path / "a.bin"), "vocab": vocab})
        folder, honest = cached(config, tmp_path / vocab)
        for name, change in (("train", changed(100, 1)), ("val", lambda ids: ids[:-1])):
            plant(folder, name, change)
            caplog.clear()
            open_dataset(config, cache=tmp_path / vocab)
            assert f"{name}.npy has other tokens than the file" in caplog.text
            assert {file.name: file.read_bytes() for file in folder.iterdir()} == honest


def test_workers_leave_the_comparison_to_their_parent(tmp_path: Path) -> None:
    folder, _ = cached(FULL, tmp_path)
    plant(folder, "train", changed(100, 1))
    before = int(np.load(folder / "train.npy")[100])
    assert open_dataset(FULL, cache=tmp_path, compare=False).train[100] == before
    assert open_dataset(FULL, cache=tmp_path).train[100] == before - 1
