"""Errors of files name the file that could not be written, and its file system."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from harness.core.disk import disk_error, disk_full, file_system
from harness.core.files import write_text

FULL = "No space left on device"


def test_an_error_of_one_file(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "a.json")
    where = f"(on the file system {file_system(str(tmp_path))})"
    assert disk_error(OSError(errno.ENOSPC, FULL, path)) == disk_full(path) == f"disk: {FULL}: {path} {where}"
    assert disk_error(OSError(errno.EFBIG, "File too large", path)) == f"disk: File too large: {path}"
    assert disk_error(OSError(errno.ENOSPC, FULL)) == f"disk: {FULL}"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_copy_names_the_file_that_had_no_room(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("content")
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match=FULL) as caught:
        shutil.copyfile(source, full)
    if caught.value.filename is not None:  # the error of a copy by sendfile
        assert disk_error(caught.value) == f"disk: {FULL}: {full} (on the file system {file_system('/dev/full')})"
    named = OSError(errno.ENOSPC, FULL, str(source), None, str(full))
    assert disk_error(named) == f"disk: {FULL}: {full} (on the file system {file_system('/dev/full')})"
    with pytest.raises(OSError, match=FULL) as caught:
        os.write(os.open(full, os.O_WRONLY), b"x")
    assert disk_error(caught.value) == f"disk: {FULL}"


def test_a_copy_of_a_folder_names_its_first_file(tmp_path: Path) -> None:
    why = f"[Errno {errno.ENOSPC}] {FULL}: 'a' -> '/there/a'"
    error = shutil.Error([("a", "/there/a", why), ("b", "/there/b", why)])
    assert disk_error(error) == f"disk: {FULL}: /there/a (on the file system {file_system('/there')})"
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a").symlink_to("/no/such/file")
    with pytest.raises(shutil.Error) as caught:
        shutil.copytree(tmp_path / "from", tmp_path / "to")
    assert disk_error(caught.value) == f"disk: No such file or directory: {tmp_path}/to/a"


def test_errors_of_connections_are_not_called_disk() -> None:
    import requests

    for error in (ConnectionResetError(104, "reset by peer"), TimeoutError("timed out"), requests.HTTPError("413 x")):
        assert not disk_error(error).startswith("disk")
        assert disk_error(error)
    assert disk_error(requests.ConnectionError()) == "ConnectionError"


def test_a_text_that_cannot_be_written_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, FULL)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=FULL) as caught:
        write_text(tmp_path / "report.md", "x")
    assert disk_error(caught.value).startswith(f"disk: {FULL}: {tmp_path}/report.md (on the file system ")
