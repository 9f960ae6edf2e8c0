"""Datasets: the splits, the counts, and a cache that is used, verified, repaired and shared."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness.data.token_cache
from harness.config.fingerprint import digest_of
from harness.config.run import DataConfig, Split
from harness.data import SPLITS, Corpus, CorpusError, Dataset, get_tokenizer, load_corpus, open_dataset
from harness.data.splitting import split_pieces, split_points
from helpers import BYTES, byte_data, small_config
from paths import ROOT

SMALL = DataConfig(corpus="sotu-1820")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the small corpus. Tests that change it work on a copy."""
    cache = tmp_path_factory.mktemp("cache")
    open_dataset(SMALL, cache=cache)
    return cache


@pytest.fixture
def cache(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "cache"))


@pytest.fixture
def no_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, building a tokenizer fails the test."""

    def forbidden(name: str) -> None:
        raise AssertionError(f"{name} would be built again")

    monkeypatch.setattr(harness.data.token_cache, "open_tokenizer", forbidden)


def folder_of(cache: Path) -> Path:
    [folder] = (cache / "tokens").iterdir()
    return folder


def contents(data: Dataset) -> list[bytes]:
    return [data.tokens(split).tobytes() for split in SPLITS] + [data.token_bytes.tobytes()]


# Splits


class Text:
    """A corpus of which pieces of some characters are read at a time."""

    def __init__(self, text: str, size: int) -> None:
        self.text, self.size, self.characters = text, size, len(text)

    def pieces(self) -> Iterator[str]:
        yield from (self.text[start : start + self.size] for start in range(0, len(self.text), self.size))


def split_text(text: str, split: Split, size: int = 7) -> dict[str, str]:
    corpus = cast(Corpus, Text(text, size))
    parts = dict.fromkeys(SPLITS, "")
    for name, piece in split_pieces(corpus, split_points(corpus, split)):
        parts[name] += piece
    return parts


def test_a_split_by_hand() -> None:
    text = "one two three four five six seven eight nine ten"  # 48 characters: 38.4 and 43.2 fall at 38 and 43
    parts = split_text(text, Split(val=0.1, test=0.1))
    assert text[38:] == "t nine ten"
    assert parts == {"train": "one two three four five six seven eight", "val": " nine", "test": " ten"}


def test_no_test_share_gives_no_test_text() -> None:
    parts = split_text("one two three four five", Split(val=0.3, test=0.0))
    assert parts == {"train": "one two three four", "val": " five", "test": ""}


def test_text_without_white_space_is_cut_by_the_shares() -> None:
    parts = split_text("甲" * 100, Split(val=0.2, test=0.1))
    assert [len(parts[split]) for split in SPLITS] == [70, 20, 10]


@given(
    text=st.text(alphabet="ab \n\u3000é", max_size=200),
    val=st.floats(0.01, 0.49),
    test=st.just(0.0) | st.floats(0.01, 0.49),
    size=st.integers(1, 300),
)
def test_splits_join_to_the_text_and_cut_no_word(text: str, val: float, test: float, size: int) -> None:
    parts = split_text(text, Split(val=val, test=test), size)
    assert tuple(parts) == SPLITS
    assert "".join(parts.values()) == text
    first, second = len(parts["train"]), len(text) - len(parts["test"])
    wanted = [len(text) * (1 - val - test), len(text) * (1 - test), float(len(text))]
    for place, share, limit in ((first, wanted[0], wanted[1]), (second, wanted[1], wanted[2])):
        assert place >= share - 0.5
        skipped = text[round(share) : place]
        assert not any(character.isspace() for character in skipped)
        if skipped:
            assert text[place].isspace()
        elif place < round(limit) and not text[place].isspace():
            assert not any(character.isspace() for character in text[place : round(limit)])


# The contents of a dataset


@pytest.mark.parametrize("tokenizer", ["gpt2", "byte"])
def test_each_split_is_encoded_by_itself(tokenizer: str, tmp_path: Path) -> None:
    config = DataConfig(corpus="sotu-1820", tokenizer=tokenizer, split=Split(val=0.2, test=0.05))
    data, corpus = open_dataset(config, cache=tmp_path), load_corpus(config)
    coder, parts = get_tokenizer(tokenizer), split_text(corpus.text, config.split)
    for split in SPLITS:
        tokens = data.tokens(split)
        assert isinstance(tokens, np.memmap)
        assert tokens.dtype == np.uint16
        assert not tokens.flags.writeable
        assert tokens.tolist() == coder.encode(parts[split])
        assert data.bytes[split] == len(parts[split].encode())
    assert "".join(coder.decode(data.tokens(split)) for split in SPLITS) == corpus.text
    assert data.corpus.characters == len(corpus.text)
    assert (data.name, data.source, data.sha256) == (corpus.name, corpus.source, corpus.sha256)
    assert data.tokenizer == tokenizer
    assert data.token_bytes.tolist() == coder.token_bytes().tolist()


@pytest.mark.parametrize("tokenizer", ["gpt2", "byte"])
def test_target_bytes_are_those_of_all_tokens_but_the_first(tokenizer: str, tmp_path: Path) -> None:
    data = open_dataset(DataConfig(corpus="sotu-1820", tokenizer=tokenizer), cache=tmp_path)
    for split in SPLITS:
        tokens = data.tokens(split)
        assert data.token_bytes[tokens].sum() == data.bytes[split]
        assert data.target_bytes(split) == data.token_bytes[tokens[1:]].sum()


def test_target_bytes_by_hand(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Every effort moves you " * 10)
    config = DataConfig(path=("text.txt",), split=Split(val=0.5, test=0.0))
    data = open_dataset(config, root=tmp_path, cache=tmp_path)
    assert data.train[:4].tolist() == [6109, 3626, 6100, 345]
    # The middle of the 230 characters is the "E" of the sixth "Every"; the next space is at 120.
    assert data.bytes == {"train": 120, "val": 110, "test": 0}
    assert data.target_bytes("train") == 120 - len("Every")
    assert data.target_bytes("val") == 110 - len(" effort")
    assert data.target_bytes("test") == 0
    assert data.test.shape == (0,)


def test_a_large_vocabulary_needs_wider_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids past 65,535, without a download: a tokenizer whose ids are code points (U+1F600 is 128,512)."""
    from harness.data.tokenizer import Tokenizer

    wide = Tokenizer("byte", [b""] * 0x11_0000, lambda text: np.array([ord(c) for c in text], dtype=np.int64))
    monkeypatch.setattr(harness.data.token_cache, "open_tokenizer", lambda name, file: wide)
    (tmp_path / "faces.txt").write_text("😀 " * 20)
    data = open_dataset(DataConfig(path=("faces.txt",), tokenizer="byte"), root=tmp_path, cache=tmp_path)
    assert data.train.dtype == np.uint32
    assert data.train[0] == 0x1F600


def test_fingerprints_depend_on_what_decides_the_tokens(tmp_path: Path) -> None:
    for name in ("text.txt", "copy.txt"):
        (tmp_path / name).write_text("Every effort moves you " * 10)
    (tmp_path / "other.txt").write_text("Any effort moves you " * 10)

    def fingerprint(path: str, tokenizer: str = "byte", val: float = 0.1) -> str:
        config = DataConfig(path=(path,), tokenizer=tokenizer, split=Split(val=val))
        return open_dataset(config, root=tmp_path, cache=tmp_path / "cache").fingerprint

    base = fingerprint("text.txt")
    assert len(base) == 64
    assert fingerprint("copy.txt") == base
    others = {fingerprint("other.txt"), fingerprint("text.txt", "gpt2"), fingerprint("text.txt", val=0.2)}
    assert len(others - {base}) == 3


@pytest.mark.parametrize(
    ("text", "split", "sentence"),
    [
        ("one two th", Split(), "found 1 byte token in val (val 0.1, test 0.1 of tiny.txt, 10 characters); allowed: "),
        ("x" * 20, Split(val=0.9, test=0.05), "found 1 byte token in train (val 0.9, test 0.05"),
        ("x" * 20, Split(val=0.1, test=0.01), "found 0 byte tokens in test (val 0.1, test 0.01"),
    ],
)
def test_splits_with_fewer_than_two_tokens_are_refused(text: str, split: Split, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.txt").write_text(text)
    with pytest.raises(CorpusError) as caught:
        open_dataset(DataConfig(path=("tiny.txt",), tokenizer="byte", split=split), root=tmp_path, cache=tmp_path / "c")
    assert caught.value.field == "data.split"
    assert str(caught.value).startswith(sentence)
    assert not (tmp_path / "c").exists()


# The cache


def test_a_second_open_encodes_nothing(cache: Path, no_encoding: None) -> None:
    before = {file: file.stat() for file in folder_of(cache).iterdir()}
    data = open_dataset(SMALL, cache=cache, compare=False)
    assert len(data.train) > 3000
    assert {file: file.stat().st_mtime_ns for file in folder_of(cache).iterdir()} == {
        file: stat.st_mtime_ns for file, stat in before.items()
    }


def test_a_worker_needs_no_tokenizer_and_no_torch(cache: Path) -> None:
    code = (
        "import sys; from harness.config.run import DataConfig; from harness.data import open_dataset; "
        "print(len(open_dataset(DataConfig(corpus='sotu-1820'), compare=False).train), "
        "[m for m in ('tiktoken', 'torch', 'pandas', 'pooch', 'typer') if m in sys.modules])"
    )
    done = run_python(code, cache)
    assert done.stdout == f"{len(open_dataset(SMALL, cache=cache).train)} []\n", done.stderr


def run_python(code: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {"GPT_HARNESS_CACHE": str(cache), "PATH": "", "HOME": str(cache)}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, truncate, empty, Path.unlink])
@pytest.mark.parametrize("name", ["train.npy", "test.npy", "token_bytes.npy", "meta.json"])
def test_damage_is_repaired_and_logged(
    damage: Callable[[Path], None], name: str, stored: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = contents(open_dataset(SMALL, cache=stored))
    damage(folder_of(cache) / name)
    with caplog.at_level(logging.INFO, logger="harness.data"):
        repaired = open_dataset(SMALL, cache=cache)
    assert contents(repaired) == whole
    for file in folder_of(stored).iterdir():
        assert (folder_of(cache) / file.name).read_bytes() == file.read_bytes()
    levels = [record.levelno for record in caplog.records]
    # A folder without metadata is not damaged: another process may be building it.
    missing = name == "meta.json" and damage is Path.unlink
    assert levels == ([] if missing else [logging.WARNING]) + [logging.INFO]
    assert missing or "encoding them again" in caplog.text


def test_edited_metadata_is_detected(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = folder_of(cache) / "meta.json"
    meta = json.loads(file.read_text())
    true_bytes = meta["content"]["bytes"]["val"]
    meta["content"]["bytes"]["val"] = 1
    file.write_text(json.dumps(meta))
    assert open_dataset(SMALL, cache=cache).bytes["val"] == true_bytes
    assert "meta.json was altered" in caplog.text


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"content": 3, "sha256": "x"}', b"\xff", b"null"])
def test_invalid_metadata_is_replaced(content: bytes, stored: Path, cache: Path) -> None:
    (folder_of(cache) / "meta.json").write_bytes(content)
    assert contents(open_dataset(SMALL, cache=cache)) == contents(open_dataset(SMALL, cache=stored))


def test_an_open_dataset_outlives_damage_and_repair(cache: Path) -> None:
    early = open_dataset(SMALL, cache=cache)
    before = contents(early)
    (folder_of(cache) / "train.npy").unlink()
    open_dataset(SMALL, cache=cache)
    assert contents(early) == before


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_processes_that_build_the_same_dataset_at_once_succeed(damaged: bool, tmp_path: Path) -> None:
    cache, go = tmp_path / "cache", tmp_path / "go"
    config = "DataConfig(corpus='sotu-1801-1822')"
    if damaged:
        open_dataset(DataConfig(corpus="sotu-1801-1822"), cache=cache)
        truncate(folder_of(cache) / "train.npy")
    code = f"""
import hashlib, pathlib, time
from harness.config.run import DataConfig
from harness.data import SPLITS, get_tokenizer, open_dataset
get_tokenizer("gpt2")
pathlib.Path({str(tmp_path)!r}, f"ready-{{time.time_ns()}}").touch()
while not pathlib.Path({str(go)!r}).exists():
    time.sleep(0.001)
data = open_dataset({config}, cache=pathlib.Path({str(cache)!r}))
print(data.fingerprint, *(hashlib.sha256(data.tokens(split)).hexdigest() for split in SPLITS))
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("ready-*"))) < len(processes):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        go.touch()
        answers = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(set(answers)) == 1
    assert len(answers[0].split()) == 4
    names = sorted(file.name for file in folder_of(cache).iterdir())  # no temporary folder is left
    assert names == ["meta.json", "test.npy", "token_bytes.npy", "train.npy", "val.npy"]


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError) as caught:
        open_dataset(SMALL, cache=tmp_path / "file")
    assert caught.value.field == "GPT_HARNESS_CACHE"
    assert "(Not a directory); allowed: a folder that can be written" in str(caught.value)


def test_a_failed_build_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(CorpusError, match=r"No space left on device"):
            open_dataset(SMALL, cache=tmp_path)
    assert list(folder_of(tmp_path).iterdir()) == []
    assert len(open_dataset(SMALL, cache=tmp_path).train) > 3000


# The corpus's own vocabulary


@pytest.mark.parametrize("tokenizer", ["gpt2", "byte"])
def test_the_corpus_vocabulary_has_the_tokens_that_occur(tokenizer: str, tmp_path: Path) -> None:
    full = open_dataset(DataConfig(corpus="sotu-1820", tokenizer=tokenizer), cache=tmp_path)
    data = open_dataset(DataConfig(corpus="sotu-1820", tokenizer=tokenizer, vocab="corpus"), cache=tmp_path)
    vocabulary = data.vocabulary
    assert vocabulary is not None and full.vocabulary is None
    everything = np.concatenate([full.tokens(split) for split in SPLITS])
    assert vocabulary.tolist() == sorted(set(everything.tolist()))  # ascending, without duplicates
    assert data.n_vocab == len(vocabulary) < full.n_vocab
    assert data.fingerprint != full.fingerprint
    assert data.bytes == full.bytes
    for split in SPLITS:
        assert np.array_equal(vocabulary[data.tokens(split)], full.tokens(split))
        assert data.target_bytes(split) == full.target_bytes(split)
        text = full.codec.decode(full.tokens(split))
        assert data.codec.decode(data.tokens(split)) == text
        assert data.codec.encode(text) == data.tokens(split).tolist()
    assert set(np.concatenate([data.tokens(split) for split in SPLITS]).tolist()) == set(range(data.n_vocab))


def test_the_fingerprint_of_the_full_vocabulary_is_unchanged() -> None:
    """So that caches and sweeps of earlier versions stay valid."""
    corpus = load_corpus(SMALL)
    content = {"corpus": corpus.sha256, "tokenizer": "gpt2", "split": {"val": 0.1, "test": 0.1}, "format": 1}
    assert open_dataset(SMALL).fingerprint == digest_of(content)


def test_a_corpus_vocabulary_comes_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = SMALL.model_copy(update={"vocab": "corpus"})
    first = open_dataset(config, cache=tmp_path)
    vocabulary, before = np.array(first.vocabulary), contents(first)
    file = folder_of(tmp_path) / "vocabulary.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with caplog.at_level(logging.WARNING):
        assert contents(open_dataset(config, cache=tmp_path)) == before
    assert "vocabulary.npy was altered" in caplog.text
    monkeypatch.setattr(harness.data.token_cache, "open_tokenizer", None)
    again = open_dataset(config, cache=tmp_path, compare=False)
    assert again.vocabulary is not None and np.array_equal(again.vocabulary, vocabulary)
    assert contents(again) == before


def test_a_run_gets_the_size_of_its_corpus_vocabulary() -> None:
    full, own = byte_data(), open_dataset(BYTES.model_copy(update={"vocab": "corpus"}))
    used = len(set(load_corpus(BYTES).text.encode()))
    config = small_config(data={**BYTES.model_dump(), "vocab": "corpus"})
    assert own.resolve(config).vocab_size == used
    assert full.resolve(small_config()).vocab_size == 256
    padded = small_config(data={**BYTES.model_dump(), "vocab": "corpus"}, model={"vocab_size": 128})
    assert own.resolve(padded).vocab_size == 128
    small = small_config(data={**BYTES.model_dump(), "vocab": "corpus"}, model={"vocab_size": used - 1})
    with pytest.raises(CorpusError, match=f"found {used - 1}; allowed: at least the {used} tokens that occur in the"):
        own.resolve(small)
    with pytest.raises(CorpusError, match="found corpus with a dataset opened with full; allowed: full"):
        full.resolve(config)


# The cost of encoding


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory is read from /proc")
def test_twelve_megabytes_are_encoded_within_500_megabytes(tmp_path: Path) -> None:
    """The whole process, with its libraries; the speeches joined are 12.2 MB."""
    code = (
        "import re\nfrom pathlib import Path\nfrom harness.config.run import DataConfig\n"
        "from harness.data import open_dataset\n"
        f"open_dataset(DataConfig(corpus='sotu', vocab='corpus'), cache=Path({str(tmp_path)!r}))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert 20e6 < int(done.stdout) * 1024 < 500e6


def test_trained_ids_are_those_of_the_train_split(monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset(SMALL)
    trained = data.trained
    assert trained is not None and np.array_equal(trained, np.unique(data.train))
    assert len(trained) < len(np.unique(np.concatenate([data.train, data.val, data.test]))) < data.n_vocab
    monkeypatch.setattr("harness.data.dataset._SCAN_CHUNK", 7)
    in_chunks = open_dataset(SMALL).trained
    assert in_chunks is not None and np.array_equal(in_chunks, trained)
    monkeypatch.setattr("harness.data.dataset._SCAN_LIMIT", len(data.train) - 1)
    assert open_dataset(SMALL).trained is None
