"""Files are read without following links that somebody else made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.core.links import NotRegularError, irregular_in, read_regular, refuse_irregular, regular_files


def planted(folder: Path) -> dict[str, str]:
    """Path inside a folder → what is there, of everything that is no regular file; made here."""
    secret, inside = folder.parent / "secret", folder / "inside"
    secret.mkdir()
    (secret / "key").write_text("private")
    inside.mkdir(parents=True)
    (folder / "file").symlink_to(secret / "key")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "linked").symlink_to(secret)
    (inside / "device").symlink_to("/dev/zero")
    os.mkfifo(inside / "fifo")
    return {
        "file": "a link",
        "dangling": "a link",
        "linked": "a link",
        "inside/device": "a link",
        "inside/fifo": "a FIFO",
    }


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    found = planted(folder)
    (folder / "inside" / "text").write_text("text")
    os.link(folder / "inside" / "text", folder / "second name")
    assert read_regular(folder, "inside/text", 4) == read_regular(folder, "second name", 4) == b"text"
    (tmp_path / "link").symlink_to(folder)
    assert read_regular(tmp_path / "link", "inside/text", 4) == b"text"  # a link above the folder is the user's
    for inside, kind in {**found, "inside": "a folder", "../secret/key": "a path that leads out of its folder"}.items():
        with pytest.raises(NotRegularError, match=f"{inside}: found {kind}; allowed: a regular file"):
            read_regular(folder, inside, 9)
    with pytest.raises(NotRegularError, match="linked: found a link"):
        read_regular(folder, "linked/key", 9)
    for missing in ("other", "inside/other", "inside/text/other"):
        refuse_irregular(folder, missing)
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            read_regular(folder, missing, 9)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(NotRegularError, match="found 1,099,511,627,776 bytes, more than 1,000"):
        read_regular(tmp_path, "sparse", 1000)


def test_links_are_listed_and_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    found = planted(folder)
    (folder / "inside" / "text").write_text("text")
    assert {path.relative_to(folder).as_posix(): kind for path, kind in irregular_in(folder)} == found
    assert regular_files(folder) == [folder / "inside" / "text"]
    assert not list(irregular_in(tmp_path / "missing")) and not regular_files(tmp_path / "missing")
