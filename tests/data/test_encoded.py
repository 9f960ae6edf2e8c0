"""A data set on a machine that does not have its text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.config.run import DataConfig
from harness.data import CorpusError, Dataset, open_dataset
from harness.data.encoded import EncodedData, describe_encoded, open_encoded, receive_encoded

CONFIG = DataConfig(path=("text.txt",), tokenizer="byte", vocab="corpus")


@pytest.fixture
def whole(tmp_path: Path) -> Dataset:
    """On the machine that has the text, with a cache of its own."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "text.txt").write_text("Every effort moves you. " * 100, "utf-8")
    return open_dataset(CONFIG, tmp_path / "project", tmp_path / "parent")


@pytest.fixture
def encoded(whole: Dataset, tmp_path: Path) -> EncodedData:
    return describe_encoded(whole, CONFIG, tmp_path / "parent")


class Sent:
    """The files of a data set, sent in pieces; counts how often."""

    def __init__(self, encoded: EncodedData) -> None:
        self.files = {name: path.read_bytes() for name, path in encoded.files.items()}
        self.times = 0

    def __call__(self) -> Mapping[str, Iterable[bytes]]:
        self.times += 1
        return {name: iter((content[:100], content[100:])) for name, content in self.files.items()}


def never() -> Mapping[str, Iterable[bytes]]:
    raise AssertionError("the files need not be sent")


def opened(encoded: EncodedData, receive: Callable[[], Mapping[str, Iterable[bytes]]], cache: Path) -> Dataset:
    receive_encoded(encoded, receive, cache)
    return open_encoded(encoded, cache)


def same(one: Dataset, other: Dataset) -> bool:
    arrays = (one.train, one.val, one.test, one.token_bytes, one.vocabulary, one.trained)
    others = (other.train, other.val, other.test, other.token_bytes, other.vocabulary, other.trained)
    return (one.fingerprint, one.bytes, one.name) == (other.fingerprint, other.bytes, other.name) and all(
        np.array_equal(a, b) for a, b in zip(arrays, others, strict=True) if a is not None and b is not None
    )


def test_the_tokens_are_read_where_the_parent_has_them(encoded: EncodedData, whole: Dataset, tmp_path: Path) -> None:
    found = opened(encoded, never, tmp_path / "node")
    assert same(found, whole)
    assert str(found.train.filename).startswith(str(tmp_path / "parent"))  # type: ignore[attr-defined]
    assert not (tmp_path / "node").exists()


def away(encoded: EncodedData) -> EncodedData:
    """The same data on a machine that does not see the parent's folder."""
    return replace(encoded, folder=Path("/nowhere/tokens"))


def test_elsewhere_they_are_received_once_and_mapped(encoded: EncodedData, whole: Dataset, tmp_path: Path) -> None:
    sent, found = Sent(encoded), list[Dataset]()
    (tmp_path / "project" / "text.txt").unlink()

    def open_there() -> None:
        found.append(opened(away(encoded), sent, tmp_path / "node"))

    threads = [threading.Thread(target=open_there) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sent.times == 1
    assert all(same(one, whole) for one in found) and len(found) == 4
    assert isinstance(found[0].train, np.memmap) and not found[0].train.flags.writeable
    assert same(opened(away(encoded), never, tmp_path / "node"), whole)  # later, from the cache


@pytest.mark.parametrize("name", ["train.npy", "meta.json"])
def test_other_files_are_refused(name: str, encoded: EncodedData, tmp_path: Path) -> None:
    sent = Sent(encoded)
    sent.files[name] = sent.files[name][:-1] + b"?"
    with pytest.raises(CorpusError, match="found no tokens of"):
        opened(away(encoded), sent, tmp_path / "node")


def test_what_the_cache_has_is_checked(encoded: EncodedData, whole: Dataset, tmp_path: Path) -> None:
    opened(away(encoded), Sent(encoded), tmp_path / "node")
    file = next((tmp_path / "node").rglob("train.npy"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    sent = Sent(encoded)
    assert same(opened(away(encoded), sent, tmp_path / "node"), whole)
    assert sent.times == 1


def test_a_parents_folder_that_others_can_write_is_not_used(
    encoded: EncodedData, whole: Dataset, tmp_path: Path
) -> None:
    encoded.folder.chmod(0o777)
    sent = Sent(encoded)
    assert same(opened(encoded, sent, tmp_path / "node"), whole)
    assert sent.times == 1


@pytest.mark.parametrize("vocab", ["full", "corpus"])
def test_a_mixture_is_received_source_by_source(vocab: str, tmp_path: Path) -> None:
    project, texts = tmp_path / "project", {"books": "Every effort moves you. ", "code": "def f(x): return x\n"}
    project.mkdir()
    for name, text in texts.items():
        (project / name).write_text(text * 100, "utf-8")
    mix = {name: {"path": name} for name in texts}
    config = DataConfig.model_validate({"mix": mix, "tokenizer": "byte", "vocab": vocab})
    data = open_dataset(config, project, tmp_path / "parent")
    encoded = describe_encoded(data, config, tmp_path / "parent")
    sent = Sent(encoded)
    assert {name.partition("/")[0] for name in sent.files} == set(texts)
    there = replace(encoded, parts={name: away(part) for name, part in encoded.parts.items()})
    for found in (
        opened(encoded, never, tmp_path / "node"),
        opened(there, sent, tmp_path / "node"),
        opened(there, never, tmp_path / "node"),
    ):
        assert (found.fingerprint, found.bytes, found.name) == (data.fingerprint, data.bytes, data.name)
        for name, part in data.sources.items():
            assert np.array_equal(found.sources[name].train[:], part.train[:])
            assert np.array_equal(found.sources[name].token_bytes, part.token_bytes)
    assert sent.times == 2  # once for each source
