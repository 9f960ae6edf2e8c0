"""Windows inside documents: none crosses a boundary, and every token but a document's first is a target once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.run import DataConfig
from harness.data import CorpusError, document_cuts, open_dataset
from harness.data.batches import NO_TARGET, strided_batches
from harness.data.document_cuts import cut_documents, documents_of, evenly_spaced, first_ids, strided_documents
from harness.data.document_windows import equal_batches, padded_windows
from harness.data.windows import WithinDocuments

END = 0  # the token that ends documents
# Each number but the end occurs once, so it tells its place. Documents of 3, 1, 0, 5 and 0 targets.
TOKENS = np.array([1, 2, 3, END, 4, END, END, 5, 6, 7, 8, 9, END, 10], np.uint16)


@st.composite
def splits(draw: st.DrawFn) -> np.ndarray:
    """Numbered tokens, of which some are replaced by the end."""
    ends = draw(st.lists(st.booleans(), min_size=1, max_size=60))
    return np.where(ends, END, np.arange(1, len(ends) + 1)).astype(np.uint32)


def places(tokens: np.ndarray) -> list[list[int]]:
    """The places of each document, with the one of its end."""
    found: list[list[int]] = [[]]
    for place, token in enumerate(tokens.tolist()):
        found[-1].append(place)
        if token == END:
            found.append([])
    return [document for document in found if document]


def targets_by_document(tokens: np.ndarray, least: int = 1) -> Counter[tuple[int, int]]:
    """The last input and the target of all pairs inside documents, where the target has `least` tokens before it."""
    return Counter(
        (int(tokens[place - 1]), int(tokens[place])) for document in places(tokens) for place in document[least:]
    )


def within(tokens: np.ndarray, length: int) -> WithinDocuments:
    return WithinDocuments(tokens, length, END, cut_documents(tokens, END, length))


@pytest.fixture(autouse=True, scope="module")
def short_pieces() -> Iterator[None]:
    """Read splits in pieces of 7 tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_cuts, "_CHUNK", 7)
        yield


def test_windows_by_hand() -> None:
    found = [(int(first), int(last)) for part in documents_of(TOKENS, END) for first, last in zip(*part, strict=True)]
    assert found == [(0, 3), (4, 5), (7, 12)]
    cut = cut_documents(TOKENS, END, 3)
    inputs, targets = padded_windows(TOKENS, cut, 3)
    assert inputs.tolist() == [[1, 2, 3], [4, 4, 4], [5, 6, 7], [8, 9, 8]]
    assert targets.tolist() == [[2, 3, END], [END, NO_TARGET, NO_TARGET], [6, 7, 8], [9, END, NO_TARGET]]
    assert cut.targets == 9 and len(cut) == 4
    assert np.concatenate(list(first_ids(TOKENS, END))).tolist() == [1, 4, END, 5, 10]
    batches = [(inputs.tolist(), targets.tolist(), first) for inputs, targets, first in equal_batches(TOKENS, cut, 2)]
    assert batches == [
        ([[1, 2, 3], [5, 6, 7]], [[2, 3, END], [6, 7, 8]], 0),
        ([[8, 9]], [[9, END]], 0),
        ([[4]], [[END]], 0),
    ]


@settings(deadline=None)
@given(tokens=splits(), length=st.integers(1, 9), sequences=st.integers(1, 5), seed=st.integers(0, 3))
def test_an_epoch_has_every_target_once_and_crosses_nothing(
    tokens: np.ndarray, length: int, sequences: int, seed: int
) -> None:
    windows = within(tokens, length)
    expected = targets_by_document(tokens)
    assert windows.targets == expected.total()
    if not len(windows):
        return
    rows: list[tuple[list[int], list[int]]] = []
    for inputs, targets in itertools.islice(windows.training(sequences, seed), 2 * len(windows)):
        assert inputs.shape == targets.shape == (sequences, length)
        rows += zip(inputs.tolist(), targets.tolist(), strict=True)
    for epoch in range(2):
        seen: Counter[tuple[int, int]] = Counter()
        for row, wanted in rows[epoch * len(windows) : (epoch + 1) * len(windows)]:
            counted = [target != NO_TARGET for target in wanted]
            assert sorted(counted, reverse=True) == counted and counted[0]  # filled up at the end only
            assert END not in row[: sum(counted)]  # no position sees another document
            seen.update(pair for pair in zip(row, wanted, strict=True) if pair[1] != NO_TARGET)
        assert seen == expected


def test_batches_go_on_where_they_were() -> None:
    windows = within(TOKENS, 2)
    whole = list(itertools.islice(windows.training(3, seed=1), 6))
    later = itertools.islice(windows.training(3, 1, start=2, rows=slice(1, 3)), 4)
    for (inputs, targets), (some, others) in zip(whole[2:], later, strict=True):
        assert inputs[1:].equal(some) and targets[1:].equal(others)


@settings(deadline=None)
@given(tokens=splits(), length=st.integers(1, 9), sequences=st.integers(1, 5))
def test_an_evaluation_scores_every_target_once(tokens: np.ndarray, length: int, sequences: int) -> None:
    count, batches = within(tokens, length).whole(sequences)
    seen: Counter[tuple[int, int]] = Counter()
    for inputs, targets, first in batches:
        assert first == 0 and len(inputs) <= sequences and END not in inputs
        seen.update(zip(inputs.flatten().tolist(), targets.flatten().tolist(), strict=True))
    assert seen == targets_by_document(tokens) and seen.total() == count


@settings(deadline=None)
@given(tokens=splits(), length=st.integers(1, 9), sequences=st.integers(1, 5), data=st.data())
def test_strided_windows_give_each_target_its_context(
    tokens: np.ndarray, length: int, sequences: int, data: st.DataObject
) -> None:
    least = data.draw(st.integers(1, length))
    count, batches = within(tokens, length).strided(sequences, least)
    seen: Counter[tuple[int, int]] = Counter()
    for inputs, targets, first in batches:
        assert first >= least - 1 and END not in inputs
        seen.update(zip(inputs[:, first:].flatten().tolist(), targets[:, first:].flatten().tolist(), strict=True))
    assert seen == targets_by_document(tokens, least) and seen.total() == count


@settings(deadline=None)
@given(size=st.integers(10, 60), length=st.integers(1, 9), data=st.data())
def test_strided_windows_of_one_document_are_those_of_a_split(size: int, length: int, data: st.DataObject) -> None:
    least, tokens = data.draw(st.integers(1, length)), np.arange(1, size + 1)
    cut = strided_documents(tokens, END, length, least)
    expected = [
        (row, first) for inputs, _, first in strided_batches(tokens, length, 3, least) for row in inputs.tolist()
    ]
    assert cut.firsts is not None
    found = zip(cut.starts.tolist(), cut.lengths.tolist(), cut.firsts.tolist(), strict=True)
    assert [(tokens[start : start + many].tolist(), first) for start, many, first in found] == expected


def test_a_sample_is_spread_evenly() -> None:
    tokens = np.tile(np.array([1, 2, 3, 4, END]), 100)  # 100 windows of 4 targets
    cut = evenly_spaced(cut_documents(tokens, END, 8), 20)
    assert (cut.starts // 5).tolist() == [0, 25, 50, 74, 99]  # windows 0, 24.75, 49.5, 74.25, 99


def test_a_split_without_the_end_is_one_document() -> None:
    assert cut_documents(np.arange(1, 9), None, 3).lengths.tolist() == [3, 3, 1]
    windows = within(TOKENS, 3)
    assert windows.passage(2)[:].tolist() == [1, 2, 3] and windows.passage(9)[:].tolist() == [1, 2, 3, END]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "found within and data.separator blank_line; allowed: data.separator endoftext"),
    ({"separator": "none", "tokenizer": "byte"}, "found within and data.separator none; allowed"),
    ({"path": ("ids.bin",), "tokenizer": "byte"}, "found within and tokenizer byte, which has no token that ends"),
    ({"path": ("ends.bin",)}, "found within, and no document of train has two tokens; allowed: longer documents"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_has_no_documents_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one two three four five six seven eight nine ten " * 20)
    np.arange(100, dtype="<u2").tofile(tmp_path / "ids.bin")
    np.full(100, 50256, "<u2").tofile(tmp_path / "ends.bin")
    config = DataConfig.model_validate({"path": ("text.txt",), "windows": "within", **fields})
    with pytest.raises(CorpusError, match=message) as caught:
        open_dataset(config, tmp_path, tmp_path / "cache")
    assert caught.value.field == "data.windows"


@pytest.mark.parametrize("vocab", ["full", "corpus"])
def test_documents_of_a_data_set_are_its_texts(vocab: str, tmp_path: Path) -> None:
    texts = [f"Document {number}{' has more words' * number}." for number in range(40)]
    for number, text in enumerate(texts):
        (tmp_path / f"{number:02}.txt").write_text(text)
    config = DataConfig.model_validate(
        {"path": ("*.txt",), "separator": "endoftext", "windows": "within", "vocab": vocab, "split": {"test": 0}}
    )
    data = open_dataset(config, tmp_path, tmp_path / "cache")
    found = [
        data.codec.decode(data.train[first : last + 1]).replace("<|endoftext|>", "")
        for part in documents_of(data.train, data.codec.end_of_text)
        for first, last in zip(*part, strict=True)
    ]
    assert found[:-1] == texts[: len(found) - 1] and texts[len(found) - 1].startswith(found[-1])  # split in the middle
    firsts = [data.codec.decode([data.val[0]]), *["Document"] * (40 - len(found))]
    assert data.target_bytes("val") == data.bytes["val"] - sum(len(text.encode()) for text in firsts)


@pytest.mark.parametrize("vocab", ["full", "corpus"])
def test_windows_of_a_mixture_stay_inside_the_documents_of_each_source(vocab: str, tmp_path: Path) -> None:
    for number in range(30):
        for name in ("left", "right"):
            (tmp_path / f"{name}{number:02}.txt").write_text(f"{name} " * (number % 7 + 2))
    config = DataConfig.model_validate(
        {
            "mix": {name: {"path": [str(tmp_path / f"{name}*.txt")], "weight": 1} for name in ("left", "right")},
            "separator": "endoftext",
            "windows": "within",
            "vocab": vocab,
            "split": {"test": 0},
        }
    )
    data = open_dataset(config, tmp_path, tmp_path / "cache")
    windows = data.windows("train", 4)
    assert len(windows) == sum(len(part.windows("train", 4)) for part in data.sources.values())
    for inputs, targets in itertools.islice(windows.training(1, seed=1), len(windows)):
        text = data.codec.decode(inputs[0][targets[0] != NO_TARGET].tolist())
        assert "<|endoftext|>" not in text and not ("left" in text and "right" in text)
    assert "right" not in data.codec.decode(data.windows("val", 4).passage(99)[:])
