"""Encoding in pieces: the tokens, the files and the memory are those of the whole text, whatever the pieces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.run import VOCABULARY, DataConfig, Split
from harness.data import SPLITS, CorpusError, Tokenizer, get_tokenizer, load_corpus, open_dataset
from harness.data import encoding as module
from harness.data.encoding import IdFile, blocks
from harness.data.splitting import Division
from tokenizers_offline import with_ranks_of_gpt2

HOSTILE = (
    "aZéßſжк中文かカ한글ا̈\u0301🏳️\u200d🌈0٣９Ⅷ'’\"“.,;:!?()。，、！？；：/-_<|endoftext|>"
    " \t\n\r\x0b\x1c\x85\u00a0\u2028\u3000\ufeff"
)
words = st.sampled_from(
    [
        "'s",
        "'ll",
        "don't",
        "I'M",
        "ſ's",
        "...\n\n",
        "end.\n/",
        " \n",
        "\n ",
        "  x",
        "\t\tx",
        "\r\n",
        "12345",
        "<|endoftext|>",
        "a 1",
        "?? ",
        "ab",
        "é",
    ]
)
texts = st.lists(words | st.text(HOSTILE, max_size=6) | st.text(max_size=4), max_size=20).map("".join)


@pytest.fixture(scope="module", params=VOCABULARY)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Every tokenizer; those that would be downloaded with their own pattern and GPT-2's ranks."""
    with pytest.MonkeyPatch.context() as patch:
        return with_ranks_of_gpt2(request.param, patch)


def cut_everywhere(text: str, tokenizer: Tokenizer, sizes: list[int]) -> list[str]:
    pieces: list[str] = []
    place = 0
    while place < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[place : place + size])
        place += size
    return list(blocks(pieces, tokenizer))


@settings(max_examples=300)
@given(text=texts, sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_the_tokens_of_the_blocks_are_those_of_the_text(tokenizer: Tokenizer, text: str, sizes: list[int]) -> None:
    found = cut_everywhere(text, tokenizer, sizes)
    assert "".join(found) == text
    assert [token for block in found for token in tokenizer.encode(block)] == tokenizer.encode(text)


@pytest.mark.slow
@settings(max_examples=300)
@given(before=texts, after=texts)
def test_a_cut_between_two_texts_changes_no_token(tokenizer: Tokenizer, before: str, after: str) -> None:
    text = before + after
    place = tokenizer.last_cut(text[: len(before) + 1])  # it may be used, whatever follows
    parts = tokenizer.encode(text[:place]) + tokenizer.encode(text[place:])
    assert parts == tokenizer.encode(text)


@pytest.mark.parametrize(
    "text", ["one two three", "one\ntwo\nthree", "一二三。四五六，七八九", "a,b,c", '{"k":1,"l":22}']
)
def test_common_texts_have_places_to_cut(text: str) -> None:
    assert 0 < get_tokenizer("gpt2").last_cut(text) < len(text)
    assert get_tokenizer("byte").last_cut(text) == len(text)


def test_a_text_without_a_place_to_cut_is_one_block() -> None:
    assert cut_everywhere("x" * 50, get_tokenizer("gpt2"), [3]) == ["x" * 50]
    assert cut_everywhere("x" * 50, get_tokenizer("byte"), [20]) == ["x" * 20, "x" * 20, "x" * 10]
    assert cut_everywhere(" " * 50, get_tokenizer("gpt2"), [3]) == [" " * 50]
    assert cut_everywhere("", get_tokenizer("gpt2"), [3]) == []


def test_the_speeches_in_small_pieces() -> None:
    gpt2, text = get_tokenizer("gpt2"), load_corpus(DataConfig(corpus="sotu-1790-1799")).text
    found = cut_everywhere(text, gpt2, [997])
    assert len(found) > 100
    assert np.array_equal(np.concatenate([gpt2.encode_array(block) for block in found]), gpt2.encode_array(text))


@pytest.mark.parametrize("counts", [[], [0], [3], [5, 0, 70_000, 1]])
def test_appended_ids_are_what_numpy_saves(counts: list[int], tmp_path: Path) -> None:
    arrays = [np.random.default_rng(count).integers(0, 60_000, count).astype(np.uint32) for count in counts]
    with IdFile(tmp_path / "ours.npy", np.uint16) as file:
        for array in arrays:
            file.append(array)
    np.save(tmp_path / "theirs.npy", np.concatenate([np.zeros(0, np.uint16), *arrays]).astype(np.uint16))
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


@pytest.mark.parametrize("vocab", ["full", "corpus"])
@pytest.mark.parametrize("tokenizer_name", ["gpt2", "byte"])
def test_datasets_do_not_depend_on_the_pieces(
    vocab: str, tokenizer_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig.model_validate({"corpus": "sotu-1820", "tokenizer": tokenizer_name, "vocab": vocab})
    whole = open_dataset(config, cache=tmp_path / "whole")
    monkeypatch.setattr("harness.data.sources.text.PIECE", 313)
    monkeypatch.setattr(module, "_CHUNK", 101)
    pieces = open_dataset(config, cache=tmp_path / "pieces")
    assert (pieces.fingerprint, pieces.bytes, pieces.sha256) == (whole.fingerprint, whole.bytes, whole.sha256)
    for split in SPLITS:
        assert pieces.tokens(split).dtype == whole.tokens(split).dtype
        assert np.array_equal(pieces.tokens(split), whole.tokens(split))
    folders = [next((tmp_path / name / "tokens").iterdir()) for name in ("whole", "pieces")]
    names = [sorted(file.name for file in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    for name in names[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_a_text_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    for longer in ("Any effort moves you. " * 50, "Every effort moves me. " * 60, "Ever"):
        file.write_text("Every effort moves you. " * 50)
        corpus = load_corpus(DataConfig(path=("text.txt",)), tmp_path)
        file.write_text(longer)
        with pytest.raises(CorpusError, match=r"found another text in 1 file: text\.txt while it was read; allowed: "):
            module.encode(Division(corpus, Split()), DataConfig(path=("text.txt",)), get_tokenizer("byte"), tmp_path)


PEAK = (
    "import re, sys\nfrom pathlib import Path\nfrom harness.config.run import DataConfig\n"
    "from harness.data import open_dataset\n"
    "config = DataConfig(path=(sys.argv[1],), tokenizer=sys.argv[2], vocab=sys.argv[3])\n"
    "data = open_dataset(config, compare=False)\n"
    "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1], len(data.train))\n"
)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory is read from /proc")
@pytest.mark.parametrize("options", [("byte", "full"), ("byte", "corpus"), ("gpt2", "corpus")])
def test_the_memory_does_not_grow_with_the_text(
    options: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the process that encodes and of one that opens the encoded text, as a worker does."""
    monkeypatch.setenv("GPT_HARNESS_CACHE", str(tmp_path / "cache"))
    text = load_corpus(DataConfig(corpus="sotu-1790-1799")).text
    times = 12 if options[0] == "gpt2" else 400
    (tmp_path / "small.txt").write_text(text)
    (tmp_path / "large.txt").write_text(text * times)

    def peak(name: str) -> int:
        command = [sys.executable, "-c", PEAK, str(tmp_path / name), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        return int(done.stdout.split()[0]) * 1024

    size, small = len(text) * times, [peak("small.txt"), peak("small.txt")]  # it is encoded, then opened
    large = [peak("large.txt"), peak("large.txt")]
    assert large[0] - small[0] < max(25e6, size / 2)
    assert large[1] - small[1] < max(15e6, size / 4)
