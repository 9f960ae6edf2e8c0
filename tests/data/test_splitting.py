"""Splits by documents, and texts of their own for validation and test."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.run import DataConfig, Split
from harness.data import SPLITS, CorpusError, Dataset, load_corpus, open_dataset
from harness.data.splitting import Division

DOCUMENTS = [f"Document {n} has {'some ' * (n % 7)}words." for n in range(200)]


def write(path: Path, texts: Iterable[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def parts(root: Path, path: str = "a.jsonl", **fields: object) -> dict[str, str]:
    config = DataConfig.model_validate({"path": path, **fields})
    found = dict.fromkeys(SPLITS, "")
    for split, piece in Division(load_corpus(config, root), config.split).pieces():
        found[split] += piece
    return found


def data(root: Path, **fields: object) -> Dataset:
    config = DataConfig.model_validate({"path": "a.jsonl", "tokenizer": "byte", **fields})
    return open_dataset(config, root, root / "cache")


@settings(max_examples=30, deadline=None)
@given(val=st.floats(0.05, 0.4), test=st.just(0.0) | st.floats(0.05, 0.4), seed=st.integers(0, 5))
def test_documents_are_drawn_at_random_and_keep_their_order(
    val: float, test: float, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp()
    if not (root / "drawn.jsonl").exists():
        write(root / "drawn.jsonl", DOCUMENTS)
    split = {"by": "documents", "val": val, "test": test, "seed": seed}
    texts = parts(root, "drawn.jsonl", split=split)
    found = {name: text.split("\n\n") if text else [] for name, text in texts.items()}
    assert sorted(text for texts in found.values() for text in texts) == sorted(DOCUMENTS)
    total, longest = sum(map(len, DOCUMENTS)), max(map(len, DOCUMENTS))
    for name, share in (("val", val), ("test", test)):
        assert found[name] == [text for text in DOCUMENTS if text in found[name]]  # in the order of the file
        # Each border lies within one document of its share.
        assert abs(sum(map(len, found[name])) - share * total) <= 2 * longest


def test_only_content_and_seed_decide(tmp_path: Path) -> None:
    """Not the order of the documents, nor their files."""
    write(tmp_path / "a.jsonl", DOCUMENTS)
    write(tmp_path / "b.jsonl", reversed(DOCUMENTS))
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "c.jsonl", DOCUMENTS[:50])
    write(tmp_path / "deep" / "d.jsonl", DOCUMENTS[50:])

    def drawn(path: str, seed: int = 0) -> list[set[str]]:
        return [
            set(text.split("\n\n")) for text in parts(tmp_path, path, split={"by": "documents", "seed": seed}).values()
        ]

    assert drawn("a.jsonl") == drawn("b.jsonl") == drawn("deep")
    first, other = drawn("a.jsonl"), drawn("a.jsonl", seed=1)
    assert len(first[1] & other[1]) < 10 < len(first[1])  # of about 20 in each
    spread = [DOCUMENTS.index(text) for text in first[1]]
    assert min(spread) < 50 and max(spread) > 150  # not a contiguous part


def test_equal_documents_are_in_one_split(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [*DOCUMENTS, *DOCUMENTS])
    found = data(tmp_path, split={"by": "documents"})
    assert found.copies == ""
    by_position = data(tmp_path)
    assert "40 documents of the validation text and" in by_position.copies
    assert by_position.copies.endswith("Leave the copies out, or divide by documents (data.split.by).")


def test_tokens_bytes_and_fingerprints_of_a_split_by_documents(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", DOCUMENTS)
    text = parts(tmp_path, split={"by": "documents"})
    found = data(tmp_path, split={"by": "documents"})
    for split in SPLITS:
        assert bytes(found.tokens(split).tolist()).decode() == text[split]
        assert found.bytes[split] == len(text[split].encode())
    again = data(tmp_path, split={"by": "documents"})  # compared with the text
    assert np.array_equal(again.train, found.train) and again.fingerprint == found.fingerprint
    prints = {
        data(tmp_path, split=split).fingerprint
        for split in ({"by": "documents"}, {"by": "documents", "seed": 1}, {"by": "position"})
    }
    assert len(prints) == 3
    assert data(tmp_path, split={"by": "position", "seed": 5}).fingerprint in prints  # the seed is not used
    joined = [DOCUMENTS[0] + "\n\n" + DOCUMENTS[1], *DOCUMENTS[2:]]  # the same text, in other documents
    write(tmp_path / "a.jsonl", joined)
    assert data(tmp_path).fingerprint in prints
    assert data(tmp_path, split={"by": "documents"}).fingerprint not in prints


def test_a_text_that_changes_while_documents_are_chosen_is_refused(tmp_path: Path) -> None:
    config = DataConfig(path=("a.jsonl",), split=Split(by="documents"))
    for changed in ([*DOCUMENTS, "more"], DOCUMENTS[:-1], [DOCUMENTS[0] + "!", *DOCUMENTS[1:]]):
        write(tmp_path / "a.jsonl", DOCUMENTS)
        division = Division(load_corpus(config, tmp_path), config.split)
        write(tmp_path / "a.jsonl", changed)
        with pytest.raises(CorpusError, match=r"found another text in 1 file: a\.jsonl .* while it was read"):
            list(division.pieces())


@pytest.mark.parametrize(("count", "missing"), [(1, "train"), (2, "val")])
def test_too_few_documents_are_refused(count: int, missing: str, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", DOCUMENTS[:count] * 3)
    with pytest.raises(CorpusError) as caught:
        data(tmp_path, split={"by": "documents"})
    assert caught.value.field == "data.split"
    assert str(caught.value).startswith(f"found {count} different document")
    assert f", and none for {missing}; allowed: by position" in str(caught.value)


def test_validation_and_test_text_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", DOCUMENTS[:100])
    write(tmp_path / "b.jsonl", DOCUMENTS[100:150])
    write(tmp_path / "c.jsonl", DOCUMENTS[150:])
    whole = "\n\n".join(DOCUMENTS[:100])
    assert parts(tmp_path, val_path="b.jsonl", test_path=["c.jsonl"]) == {
        "train": whole,
        "val": "\n\n".join(DOCUMENTS[100:150]),
        "test": "\n\n".join(DOCUMENTS[150:]),
    }
    found = parts(tmp_path, val_path="b.jsonl")
    assert found["train"] + found["test"] == whole and found["val"] == "\n\n".join(DOCUMENTS[100:150])
    assert abs(len(found["test"]) - 0.1 * len(whole)) < 12
    found = parts(tmp_path, test_path="c.jsonl", split={"val": 0.2, "test": 0.7})
    assert found["train"] + found["val"] == whole and abs(len(found["val"]) - 0.2 * len(whole)) < 12
    found = parts(tmp_path, val_path="b.jsonl", split={"by": "documents"})
    assert found["val"] == "\n\n".join(DOCUMENTS[100:150]) and 5 < len(found["test"].split("\n\n")) < 15
    for fields in ({"val_path": "b.jsonl"}, {"val_path": "b.jsonl", "test_path": "c.jsonl"}):
        opened = data(tmp_path, **fields)
        text = parts(tmp_path, **fields)
        for split in SPLITS:
            assert bytes(opened.tokens(split).tolist()).decode() == text[split]
        again = data(tmp_path, **fields)
        assert np.array_equal(again.val, opened.val) and again.copies == ""
    assert opened.source == (
        "1 file: a.jsonl (100 documents, 'text'); val: 1 file: b.jsonl (50 documents, 'text'); "
        "test: 1 file: c.jsonl (50 documents, 'text')"
    )
    other = data(tmp_path, val_path="c.jsonl", test_path="b.jsonl")
    assert other.fingerprint != opened.fingerprint and other.sha256 != opened.sha256
    assert data(tmp_path, **fields, split={"val": 0.3, "test": 0.3}).fingerprint == opened.fingerprint  # not used


def test_copies_in_a_text_of_its_own_are_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", DOCUMENTS)
    write(tmp_path / "b.jsonl", [*DOCUMENTS[:3], "new"])
    assert data(tmp_path, val_path="b.jsonl", test_path="b.jsonl", split={"test": 0.0}).copies.startswith(
        "3 documents of the validation text and 4 documents of the test text also stand in an earlier split"
    )
    assert data(tmp_path, val_path="b.jsonl").copies.endswith("Leave the copies out.")
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).write_text("one and the same text, in two files")
    found = data(tmp_path, path="train.txt", val_path="val.txt", split={"test": 0.2})
    assert "'train.txt' and 'val.txt' have equal content" in found.copies


def test_a_file_that_is_held_out_is_no_part_of_the_text(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"text {name} " * 9)
    (tmp_path / "link.txt").symlink_to("c.txt")
    found = data(tmp_path, path="*.txt", val_path="link.txt", split={"test": 0.2})
    assert found.corpus.text == "text a " * 9 + "\n\n" + "text b " * 9
    assert found.messages == ["data.path: 'c.txt' and 1 more are left out, as data.val_path or data.test_path names it"]
    with pytest.raises(CorpusError) as caught:
        data(tmp_path, path="a.txt", val_path="a.txt")
    assert caught.value.field == "data.path"
    assert str(caught.value) == "found only files that data.val_path or data.test_path names; allowed: others too"


def test_what_is_wrong_with_a_text_of_its_own_names_its_field(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text " * 20)
    (tmp_path / "b.txt").write_text("x")
    for fields, field, sentence in (
        ({"val_path": "gone.txt"}, "data.val_path", "found no file for 'gone.txt'"),
        ({"test_path": "b.txt"}, "data.test_path", "found 1 byte token in test (b.txt); allowed: a text of at least 2"),
        ({"val_path": []}, "data.val_path", "found an empty list; allowed: at least one path"),
    ):
        with pytest.raises(CorpusError) as caught:
            data(tmp_path, path="a.txt", **fields)
        assert caught.value.field == field and str(caught.value).startswith(sentence)
