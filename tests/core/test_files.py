"""A file is complete or absent however its writing ends, and the safetensors library reads our tensors."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from harness.core.files import remove_folder, safetensors_chunks, sha256_of, write_after, write_atomic, write_text


def test_write_atomic_replaces_the_file_and_returns_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "file"
    found = write_atomic(path, [b"one ", bytearray(b"two "), memoryview(b"three"), b""])
    assert path.read_bytes() == b"one two three"
    assert found == sha256_of(path) == hashlib.sha256(b"one two three").hexdigest()
    assert write_atomic(path, [b"other"]) == hashlib.sha256(b"other").hexdigest()
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, view: write(file, view[:3]))
    write_atomic(tmp_path / "file", [b"abcdefgh", b"ij"])
    assert (tmp_path / "file").read_bytes() == b"abcdefghij"


def test_writes_fsyncs_and_rename_come_in_the_right_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is flushed before the rename, and the rename before the next file is written."""
    calls = []
    for name in ("write", "fsync", "replace"):
        plain = getattr(os, name)

        def spy(*arguments: Any, name: str = name, plain=plain) -> object:  # type: ignore[no-untyped-def]
            folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            calls.append("fsync folder" if folder else name)
            return plain(*arguments)

        monkeypatch.setattr(os, name, spy)
    write_atomic(tmp_path / "file", [b"a", b"b"])
    assert calls == ["write", "write", "fsync", "replace", "fsync folder"]


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
@pytest.mark.parametrize("kind", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=repr)
def test_a_failure_leaves_the_old_file_and_nothing_else(
    name: str, kind: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, [b"old"])

    def fail(*_: object) -> None:
        raise kind

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(type(kind)) as caught:
        write_atomic(path, [b"new"])
    if isinstance(caught.value, OSError):
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_failure_between_two_chunks_leaves_no_file(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"one"
        raise MemoryError

    with pytest.raises(MemoryError):
        write_atomic(tmp_path / "file", chunks())
    assert not list(tmp_path.iterdir())


def test_write_text_replaces_the_file_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new folder" / "page.html"
    write_text(path, "über\r\n")
    write_text(path, "half \ud83d of a pair\n")
    assert path.read_bytes() == b"half ? of a pair\n"

    def refuse(_source: Path, target: Path) -> None:
        assert target == path and path.read_bytes() == b"half ? of a pair\n"
        raise PermissionError

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        write_text(path, "new")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
    assert path.read_bytes() == b"half ? of a pair\n"


def test_links_are_not_followed(tmp_path: Path) -> None:
    """In the place of a file, of its temporary file, or on the way to a folder that is deleted."""
    own, folder = tmp_path / "own", tmp_path / "folder"
    (own / "run").mkdir(parents=True)
    (own / "run" / "file").write_text("mine")
    folder.mkdir()
    for name in ("a", "a.part", "b", f".b.{os.getpid()}", "c"):
        (folder / name).symlink_to(own / "run" / "file")
    (folder / "link").symlink_to(own)
    write_atomic(folder / "a", [b"one"])
    write_text(folder / "b", "two")
    with pytest.raises(OSError, match="symbolic links"):
        write_after(folder / "c", 0, b"three")
    remove_folder(folder / "link" / "run", folder)
    remove_folder(folder / "link", folder)
    assert (own / "run" / "file").read_text() == "mine"
    assert [(folder / name).read_text() for name in "ab"] == ["one", "two"]
    (folder / "inside" / "run").mkdir(parents=True)
    remove_folder(folder / "inside", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "c", "link"]


def test_processes_can_write_the_same_text_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "page"
    script = "import sys; from pathlib import Path; from harness.core.files import write_text\n"
    script += "for _ in range(300): write_text(Path(sys.argv[1]), sys.argv[2] * 50_000)\n"
    script += "assert 'torch' not in sys.modules"
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), letter]) for letter in "ab"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            assert path.read_text("utf-8") in ("a" * 50_000, "b" * 50_000)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["page"]


def test_the_safetensors_library_reads_the_tensors(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "b": torch.randn(3, 5, generator=generator),
        "a": torch.randn(4, 2, generator=generator).T,  # not contiguous
        "step": torch.tensor(7.0),
        "rng": torch.randint(256, (5,), generator=generator, dtype=torch.uint8),
        "grad": torch.nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / "file.safetensors"
    write_atomic(path, safetensors_chunks(tensors))
    again = load_file(path)
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype and torch.equal(again[name], tensor), name
    with safe_open(path, "pt") as lazily:
        assert torch.equal(lazily.get_tensor("rng"), tensors["rng"])
