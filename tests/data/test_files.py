"""Which files a pattern names: each once, whatever links and spellings lead to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.data import CorpusError
from harness.data.files import find_files


def names(root: Path, *patterns: str) -> list[str]:
    return [file.as_posix() for file in find_files(patterns, root).files]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """a.txt and b.txt, in a folder and outside of it."""
    root = tmp_path / "texts"
    (root / "deep").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "deep/a.txt", "deep/b.txt"):
        (root / name).write_text(name)
    return root


def test_other_names_of_a_file_are_left_out(texts: Path) -> None:
    (texts / "c.txt").symlink_to("a.txt")
    (texts / "d.txt").symlink_to("c.txt")
    os.link(texts / "a.txt", texts / "e.txt")
    found = find_files(("*.txt",), texts)
    assert found.files == (Path("a.txt"), Path("b.txt"))
    assert found.repeats == {"c.txt": "a.txt", "d.txt": "a.txt", "e.txt": "a.txt"}


def test_other_spellings_of_a_path_are_left_out(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(texts))
    patterns = ("a.txt", "./deep/../a.txt", "~/a.txt", str(texts / "a.txt"), "../texts/a.txt", "./a.txt", "a.txt")
    found = find_files(patterns, texts)
    assert found.files == (Path("a.txt"),)
    others = {"deep/../a.txt", str(texts / "a.txt"), "../texts/a.txt"}  # "./a.txt" is the same path
    assert found.repeats == dict.fromkeys(others, "a.txt")


def test_files_of_another_case_are_one_file_where_the_system_says_so(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.stat

    def ignoring_case(path: str | Path, **options: object) -> os.stat_result:
        return real(Path(path).parent / Path(path).name.lower(), **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", ignoring_case)
    assert names(texts, "a.txt", "A.TXT") == ["a.txt"]


def test_a_file_without_an_inode_is_known_by_its_resolved_path(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (texts / "c.txt").symlink_to("a.txt")
    real = os.stat

    def without_inode(path: str | Path, **options: object) -> os.stat_result:
        status = real(path, **options)  # type: ignore[arg-type]
        return os.stat_result([status.st_mode, 0, *status[2:]])

    monkeypatch.setattr(os, "stat", without_inode)
    assert names(texts, "*.txt") == ["a.txt", "b.txt"]


def test_a_folder_is_searched_once_under_its_own_name(texts: Path) -> None:
    (texts / "again").symlink_to("deep")
    found = find_files(("**/*.txt",), texts)
    assert [file.as_posix() for file in found.files] == ["a.txt", "b.txt", "deep/a.txt", "deep/b.txt"]
    assert found.repeats == {"again": "deep"}
    assert names(texts, "again/**") == ["again/a.txt", "again/b.txt"]


def test_a_linked_folder_outside_is_searched(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "er").mkdir(parents=True)
    (tmp_path / "elsewhere" / "er" / "c.txt").write_text("c")
    (texts / "link").symlink_to(tmp_path / "elsewhere")
    assert names(texts, "**/c.txt") == ["link/er/c.txt"]


def test_links_that_lead_back_do_not_repeat_the_search(texts: Path) -> None:
    """Followed blindly, two links back are 2^40 folders."""
    for name in ("back", "deep/back", "deep/up"):
        (texts / name).symlink_to(texts, target_is_directory=True)
    found = find_files(("**/*.txt",), texts)
    assert [file.as_posix() for file in found.files] == ["a.txt", "b.txt", "deep/a.txt", "deep/b.txt"]
    assert found.repeats == {"back": ".", "deep/back": ".", "deep/up": "."}
    assert names(texts, "**/deep/**/a.txt") == ["deep/a.txt", "deep/back/a.txt"]


@pytest.mark.parametrize("pattern", ["one.txt", "*.txt", "**/*.txt"])
def test_a_loop_of_links_is_refused(texts: Path, pattern: str) -> None:
    (texts / "one.txt").symlink_to("two.txt")
    (texts / "two.txt").symlink_to("one.txt")
    with pytest.raises(CorpusError, match=r"found 'one.txt', a loop of symbolic links; allowed: links that lead to"):
        find_files((pattern,), texts)


def test_hidden_folders_are_not_searched(texts: Path) -> None:
    (texts / ".git").mkdir()
    (texts / ".git" / "c.txt").write_text("c")
    with pytest.raises(CorpusError, match="found no file"):
        find_files(("**/c.txt",), texts)
    assert names(texts, ".git/**") == [".git/c.txt"]


def test_several_depths_and_folders_with_brackets(texts: Path) -> None:
    (texts / "deep" / "[x]").mkdir()
    (texts / "deep" / "[x]" / "c.txt").write_text("c")
    assert names(texts, "**/c.txt") == ["deep/[x]/c.txt"]
    assert names(texts, "**/**/c.txt") == ["deep/[x]/c.txt"]
    assert names(texts, f"{texts}/**/c.txt") == [f"{texts}/deep/[x]/c.txt"]
    assert names(texts, "deep/**/*.txt") == ["deep/[x]/c.txt", "deep/a.txt", "deep/b.txt"]
