"""Text that a corpus names or contains more than once."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config.run import DataConfig, Split
from harness.data import open_dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten files of 100 bytes: a.txt to j.txt."""
    for letter in "abcdefghij":
        (tmp_path / f"{letter}.txt").write_text((letter + "x ") * 33 + letter)
    return tmp_path


def sentences(root: Path, *patterns: str, split: Split | None = None) -> list[str]:
    config = DataConfig(path=patterns or ("*.txt",), tokenizer="byte", split=split or Split())
    return open_dataset(config, root, root / "cache").messages


def test_different_files_need_no_words(root: Path) -> None:
    assert sentences(root) == []
    assert open_dataset(DataConfig(corpus="sotu-1820")).messages == []


def test_a_link_is_named(root: Path) -> None:
    (root / "k.txt").symlink_to("a.txt")
    assert sentences(root) == ["data.path: 'k.txt' is another name of 'a.txt'; each file counts once"]
    (root / "l.txt").symlink_to("k.txt")
    assert sentences(root) == [
        "data.path: 'k.txt' is another name of 'a.txt' (1 more such name); each file counts once"
    ]


def test_copies_in_different_splits_are_a_warning(root: Path) -> None:
    (root / "i.txt").write_text("\ufeff" + (root / "b.txt").read_text(), "utf-8")  # bytes 816 to 916: validation
    [warning] = sentences(root)
    assert warning.startswith(
        "data.path: warning: 'b.txt' and 'i.txt' have equal content, which is part of the training and validation"
    )
    assert "Leave out all but one." in warning
    (root / "j.txt").write_text((root / "b.txt").read_text())
    assert "'b.txt', 'i.txt' and 'j.txt' have equal content" in sentences(root)[0]
    assert "training, validation and test text" in sentences(root)[0]
    (root / "j.txt").write_text((root / "c.txt").read_text())
    assert sentences(root)[0].endswith("Leave out all but one. The same holds for 1 other text.")


def test_copies_in_one_split_are_no_warning(root: Path) -> None:
    (root / "c.txt").write_text((root / "b.txt").read_text())
    assert sentences(root) == []
    assert sentences(root, split=Split(val=0.75, test=0.0)) != []  # the cut lies in c.txt, after 25 %


def test_empty_files_are_no_copies(root: Path) -> None:
    for name in ("a.txt", "j.txt"):
        (root / name).write_text(" \n")
    for name in ("b.txt", "i.txt"):
        (root / name).write_text("")
    assert sentences(root) == []
