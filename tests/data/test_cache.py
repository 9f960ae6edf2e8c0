"""The cache folder: whose it is, and with which rights it is made."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.data import CorpusError, cache_folder
from harness.data.cache import make_private, refuse_shared, write_private


def test_the_cache_folder_is_the_argument_else_the_variable_else_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT_HARNESS_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.delenv("GPT_HARNESS_CACHE")
    assert cache_folder().name == "gpt-harness"


def test_new_folders_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private(tmp_path / "a" / "b")
        make_private(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    for place in (tmp_path / "a", tmp_path / "a" / "b"):
        assert place.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_a_group_of_one_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux distributions with a group for each user set the umask to 002."""
    tmp_path.chmod(0o770)
    name = pwd.getpwuid(os.geteuid()).pw_name
    groups = {
        "own": SimpleNamespace(gr_name=name, gr_mem=[]),
        "shared": SimpleNamespace(gr_name=name, gr_mem=[name, "alice"]),
        "other": SimpleNamespace(gr_name="staff", gr_mem=[]),
    }
    monkeypatch.setattr(grp, "getgrgid", lambda _: groups["own"])
    refuse_shared(tmp_path)
    for kind in ("shared", "other"):
        monkeypatch.setattr(grp, "getgrgid", lambda _, kind=kind: groups[kind])
        with pytest.raises(CorpusError, match=f"the group {groups[kind].gr_name} can write to") as caught:
            refuse_shared(tmp_path)
        assert caught.value.field == "GPT_HARNESS_CACHE"


def test_the_target_of_a_link_counts(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "cache").symlink_to(tmp_path / "open")
    with pytest.raises(CorpusError, match="everybody can write to"):
        cache_folder(tmp_path / "cache")


def test_the_sentence_says_what_to_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(CorpusError) as caught:
        cache_folder(tmp_path)
    assert str(caught.value) == (
        f"found '{tmp_path}' in the cache, which everybody can write to; allowed: what only you can write to: "
        f"`chmod -R go-w {tmp_path}`, or another folder, named by GPT_HARNESS_CACHE"
    )
    tmp_path.chmod(0o1777)  # as /tmp, whose rights are right
    with pytest.raises(CorpusError, match="only you can write to: a folder of your own, named by GPT_HARNESS_CACHE"):
        cache_folder(tmp_path)
    tmp_path.chmod(0o700)


def test_files_are_private_and_written_at_once_by_several(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "notes.json"
    content = b"0123456789" * 50_000
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: write_private(file, [content]), range(40)))
    assert found == {hashlib.sha256(content).hexdigest()}
    assert file.read_bytes() == content and list(file.parent.iterdir()) == [file]
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
