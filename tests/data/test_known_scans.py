"""A large text is read again only if its files have changed; nothing is taken from notes about other files."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from harness.config.run import DataConfig
from harness.core import unchanged
from harness.core.files import json_with_checksum, read_json_with_checksum
from harness.data import Dataset, known_scans, open_dataset, token_cache, token_comparison
from harness.data.documents import Scan, scan
from harness.data.sources.source import Source

LINES = "".join(f'{{"text": "Document {number} of the text. Every effort moves you."}}\n' for number in range(60))


class Readings:
    """Counts how often a text was read by a scan, and compared with its tokens."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.scans = self.comparisons = 0
        compare = token_comparison.compare_tokens

        def counted_scan(sources: Sequence[Source], *options: object) -> Scan:
            self.scans += 1
            return scan(sources, *options)  # type: ignore[arg-type]

        def counted_compare(*options: object) -> None:
            self.comparisons += 1
            compare(*options)  # type: ignore[arg-type]

        patch.setattr(known_scans, "scan", counted_scan)
        patch.setattr(token_cache, "compare_tokens", counted_compare)

    def since(self) -> tuple[int, int]:
        found = self.scans, self.comparisons
        self.scans = self.comparisons = 0
        return found


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Readings:
    monkeypatch.setattr(unchanged, "LARGE", 0)
    return Readings(monkeypatch)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.jsonl"
    file.write_text(LINES + '{"text": ""}\n{"text": null}\n')
    return file


def opened(text: Path, cache: str = "cache", separator: str = "endoftext") -> Dataset:
    config = DataConfig(path=(str(text),), tokenizer="gpt2", separator=separator)  # type: ignore[arg-type]
    return open_dataset(config, cache=text.parent / cache)


def assert_equal(found: Dataset, expected: Dataset) -> None:
    assert found.fingerprint == expected.fingerprint and found.corpus == expected.corpus
    for split in ("train", "val", "test"):
        assert np.array_equal(found.tokens(split), expected.tokens(split))
    ours, theirs = found.corpus.documents, expected.corpus.documents
    assert ours is not None and theirs is not None
    for field in dataclasses.fields(ours):
        assert np.array_equal(getattr(ours, field.name), getattr(theirs, field.name))
    assert found.messages == expected.messages


def test_an_unchanged_text_is_neither_scanned_nor_compared_again(text: Path, readings: Readings) -> None:
    first = opened(text)
    assert readings.since() == (1, 0)  # its tokens are new
    assert_equal(opened(text), first)
    assert readings.since() == (0, 0)
    assert first.corpus.notes == ("2 documents without text are left out (1 empty, 1 without a value)",)
    opened(text, separator="none")  # is another text of the same files
    assert readings.since() == (1, 0)


def test_a_text_of_the_same_size_and_times_is_noticed(text: Path, readings: Readings) -> None:
    first, status = opened(text), text.stat()
    readings.since()
    text.write_text(text.read_text().replace("Every effort", "Other effort"))
    os.utime(text, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert text.stat().st_size == status.st_size and text.stat().st_mtime_ns == status.st_mtime_ns
    changed = opened(text)
    assert readings.since() == (1, 0)
    assert changed.fingerprint != first.fingerprint
    assert "Other effort" in changed.codec.decode(changed.train)


def test_tokens_of_the_same_size_and_times_are_noticed(
    text: Path, readings: Readings, caplog: pytest.LogCaptureFixture
) -> None:
    opened(text)
    [file] = (text.parent / "cache" / "tokens").glob("*/train.npy")
    expected, status = file.read_bytes(), file.stat()
    file.write_bytes(expected[:-2] + b"\1\0")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    opened(text)
    assert "damaged (train.npy was altered)" in caplog.text and file.read_bytes() == expected


def test_notes_about_a_cache_do_not_hold_for_a_copy(text: Path, readings: Readings) -> None:
    first = opened(text)
    opened(text)
    readings.since()
    shutil.copytree(text.parent / "cache", text.parent / "copy")  # with the files' times of modification
    assert_equal(opened(text, "copy"), first)
    assert readings.since() == (0, 1)  # the tokens are compared with the text, which is still the same file
    shutil.copy2(text, text.parent / "other.jsonl")
    (text.parent / "other.jsonl").replace(text)
    assert_equal(opened(text), first)
    assert readings.since()[0] == 1


@pytest.mark.parametrize("damage", ["cut", "checksum", "arrays", "unknown"])
def test_damaged_notes_are_made_again(text: Path, readings: Readings, damage: str) -> None:
    first = opened(text)
    readings.since()
    [notes] = (text.parent / "cache" / "scans").glob("*.json")
    content = notes.read_text()
    if damage == "cut":
        notes.write_text(content[: len(content) // 2])
    elif damage == "checksum":
        notes.write_text(content.replace('"blank": false', '"blank": true'))
    elif damage == "arrays":
        notes.with_suffix(".npy").write_bytes(b"")
    else:
        values = read_json_with_checksum(content).content
        notes.write_text(json_with_checksum({key: value for key, value in values.items() if key != "size"}))
    assert_equal(opened(text), first)
    assert readings.since()[0] == 1
    assert json.loads(notes.read_text()) == json.loads(content)


def test_a_small_text_leaves_no_notes(text: Path) -> None:
    opened(text)
    cache = text.parent / "cache"
    assert not (cache / "scans").exists() and not list(cache.glob("tokens/*/checked.json"))


def test_a_file_that_has_just_changed_is_waited_for(tmp_path: Path) -> None:
    """Until a change would get another time."""
    file = tmp_path / "text.txt"
    for number in range(5):
        file.write_text(str(number))
        before = unchanged.state_of([file])
        file.write_text(str(number + 1))
        assert unchanged.state_of([file]) != before
