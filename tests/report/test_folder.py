"""A report's folder: what somebody else put there is never replaced, removed or followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core.files import write_text
from harness.report.folder import LIST, check_folder, write_folder, written_files
from harness.report.write import write_report
from harness.tracking import TrackingError

FILES = {"report.md": "# one\n", "figures/forest.svg": "<svg/>", "figures/old.svg": "<svg>old</svg>"}
FEWER = {"report.md": "# two\n", "figures/forest.svg": "<svg>new</svg>"}


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder except the list, with its text."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LIST)
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths}


def test_a_report_replaces_and_removes_only_files_of_the_report_before(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write_folder(folder, FILES)
    assert tree(folder) == FILES
    (folder / "figures" / "own.svg").write_text("mine", "utf-8")
    (folder / "notes.txt").write_text("mine", "utf-8")
    write_folder(folder, FEWER)
    assert tree(folder) == {**FEWER, "figures/own.svg": "mine", "notes.txt": "mine"}
    assert [path.name for path in written_files(folder)] == ["forest.svg", "report.md"]


def test_a_long_file_comes_in_parts_and_one_that_fails_changes_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[str]:
        yield "half"
        raise ValueError

    write_folder(tmp_path, {**FILES, "curves.csv": iter(["a,b\n", "1,\x1b\n"])})
    assert tree(tmp_path) == {**FILES, "curves.csv": "a,b\n1,\\x1b\n"}
    with pytest.raises(ValueError):
        write_folder(tmp_path, {**FEWER, "curves.csv": failing()})
    assert tree(tmp_path) == {**FILES, "curves.csv": "a,b\n1,\\x1b\n"}
    write_folder(tmp_path, {**FEWER, "curves.csv": ["new"]})
    assert tree(tmp_path) == {**FEWER, "curves.csv": "new"}


def test_an_edited_file_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    write_folder(tmp_path, FILES)
    for turn, name in enumerate(("report.edited.md", "report.edited1.md")):
        (tmp_path / "report.md").write_text(f"edit {turn}", "utf-8")
        write_folder(tmp_path, FEWER)
        assert (tmp_path / "report.md").read_text("utf-8") == "# two\n"
        assert (tmp_path / name).read_text("utf-8") == f"edit {turn}"


def test_a_file_that_is_no_longer_written_is_kept_if_it_was_edited(tmp_path: Path) -> None:
    write_folder(tmp_path, FILES)
    (tmp_path / "figures" / "old.svg").write_text("edited", "utf-8")
    write_folder(tmp_path, FEWER)
    assert tree(tmp_path) == {**FEWER, "figures/old.edited.svg": "edited"}


def test_somebody_elses_folder_is_refused_unchanged(tmp_path: Path) -> None:
    own = {"report.md": "my paper", "figures/plot.svg": "mine", "tables/numbers.csv": "1,2"}
    for name, text in own.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    refused = r"found figures, which no report wrote; allowed: a new folder"
    with pytest.raises(TrackingError, match=refused):
        check_folder(tmp_path)
    with pytest.raises(TrackingError, match=refused):
        write_folder(tmp_path, FILES)
    assert tree(tmp_path) == own
    assert not (tmp_path / LIST).exists()


def test_the_report_command_asks_nothing_of_the_store_before_it_knows_its_folder(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "report.md").write_text("my paper", "utf-8")
    with pytest.raises(TrackingError, match=r"found report\.md, which no report wrote"):
        write_report("tiny", f"sqlite:///{tmp_path}/none.db", tmp_path)
    assert tree(tmp_path) == {"tiny/report.md": "my paper"}


def test_a_foreign_file_in_the_way_is_refused_unchanged(tmp_path: Path) -> None:
    write_folder(tmp_path, FEWER)
    (tmp_path / "figures" / "old.svg").write_text("mine", "utf-8")
    before = tree(tmp_path)
    with pytest.raises(TrackingError, match=r"old\.svg: found a file that no report wrote"):
        write_folder(tmp_path, FILES)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("link", ["figures", "report.md", "figures/forest.svg", LIST])
def test_links_are_not_followed(link: str, tmp_path: Path) -> None:
    folder, target = tmp_path / "report", tmp_path / "target"
    write_folder(folder, FILES)
    target.mkdir()
    (target / "mine.svg").write_text("mine", "utf-8")
    path = folder / link
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
        path.symlink_to(target)
    else:
        path.unlink()
        path.symlink_to(target / "mine.svg")
    with pytest.raises(TrackingError, match="found a link"):
        write_folder(folder, FEWER)
    assert tree(target) == {"mine.svg": "mine"}


def test_the_report_of_a_version_without_a_list_is_replaced(tmp_path: Path) -> None:
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src">'
    )
    (tmp_path / "figures").mkdir()
    (tmp_path / "report.html").write_text(page, "utf-8")
    (tmp_path / "figures" / "forest.svg").write_text("before", "utf-8")
    (tmp_path / "figures" / "own.svg").write_text("perhaps mine", "utf-8")
    write_folder(tmp_path, {**FEWER, "report.html": "new"})
    assert tree(tmp_path) == {**FEWER, "report.html": "new", "figures/own.svg": "perhaps mine"}


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"files": {"../x": []}}', '{"checksum": "0", "files": {}}', '{"files": [1]}', '{"files": {"a": 3}}'],
)
def test_a_list_that_is_damaged_or_lists_other_places_removes_nothing(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (tmp_path / "x").write_text("mine", "utf-8")
    (folder / LIST).write_text(text, "utf-8")
    (folder / "a").write_text("mine", "utf-8")
    with pytest.raises(TrackingError, match="found a damaged list of files"):
        write_folder(folder, {"a": "new"})
    assert tree(tmp_path) == {"report/a": "mine", "x": "mine"}


def test_an_interrupted_report_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, FILES)
    calls: list[Path] = []

    def full(path: Path, text: str) -> None:
        calls.append(path)
        if len(calls) == 3:  # the list and one file are written
            raise OSError(28, "No space left on device", str(path))
        write_text(path, text)

    monkeypatch.setattr("harness.report.folder.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_folder(tmp_path, FEWER)
    monkeypatch.undo()
    write_folder(tmp_path, FEWER)
    assert tree(tmp_path) == FEWER


def test_characters_that_hide_text_are_escaped(tmp_path: Path) -> None:
    write_folder(tmp_path, {"report.md": "a\x1b[31m\u202etxt.exe\u2066\ttab\nline \u00e9\u200d\n"})
    assert (tmp_path / "report.md").read_text("utf-8") == "a\\x1b[31m\\u202etxt.exe\\u2066\ttab\nline \u00e9\u200d\n"


def test_a_list_or_page_that_is_no_ordinary_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LIST)
    with pytest.raises(TrackingError, match="found a damaged list of files"):
        check_folder(tmp_path)
    (tmp_path / LIST).unlink()
    (tmp_path / "report.html").touch()
    os.truncate(tmp_path / "report.html", 1 << 42)  # sparse
    with pytest.raises(TrackingError, match=r"found report.html, which no report wrote"):
        check_folder(tmp_path)
