"""Checkpoints that a parent takes from a node in pieces: complete and right, or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.links import NotRegularError
from harness.workers.checkpoints import Download, IncompleteError, checksums, read_piece

CONTENT = {"model.safetensors": b"weights" * 100, "checkpoint.json": b"{}" * 50, "token_losses.json": b""}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint's folder on the node. Some files end where a piece does."""
    monkeypatch.setattr("harness.workers.checkpoints.PIECE_BYTES", 100)
    (tmp_path / "node").mkdir()
    for name, content in CONTENT.items():
        (tmp_path / "node" / name).write_bytes(content)
    return tmp_path / "node"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_all_files_arrive_in_pieces(node: Path, tmp_path: Path) -> None:
    download, asked = Download(tmp_path / "parent", checksums(node)), []
    while download.next is not None:
        asked.append(download.next)
        assert not (tmp_path / "parent" / "checkpoint.json").exists()
        download.write(read_piece(node, *download.next))
    assert files(tmp_path / "parent") == CONTENT
    assert asked[:2] == [("checkpoint.json", 0), ("checkpoint.json", 100)] and len(asked) == 2 + 8 + 1
    download.discard()
    assert files(tmp_path / "parent") == CONTENT


def test_a_checkpoint_that_does_not_arrive_whole_is_absent(node: Path, tmp_path: Path) -> None:
    for taken in range(10):
        download = Download(tmp_path / "parent", checksums(node))
        for _ in range(taken):
            assert download.next is not None
            download.write(read_piece(node, *download.next))
        download.discard()
        assert files(tmp_path / "parent") == {}


@pytest.mark.parametrize("name", CONTENT)
def test_a_changed_file_is_refused(name: str, node: Path, tmp_path: Path) -> None:
    expected = checksums(node)
    (node / name).write_bytes(b"x" + CONTENT[name][1:])
    download = Download(tmp_path / "parent", expected)
    with pytest.raises(IncompleteError, match=f"{name} differs"):
        while download.next is not None:
            download.write(read_piece(node, *download.next))
    download.discard()
    assert files(tmp_path / "parent") == {}


def test_no_other_file_is_sent_or_written(node: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("private")
    (node / "link").symlink_to(tmp_path / "secret")
    for name in ("../secret", "link", str(tmp_path / "secret")):
        with pytest.raises(NotRegularError):
            read_piece(node, name, 0)
        with pytest.raises(IncompleteError):
            Download(tmp_path / "parent", {"checkpoint.json": "", name: ""})
    with pytest.raises(IncompleteError):
        Download(tmp_path / "parent", {"model.safetensors": ""})
