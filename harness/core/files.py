"""Atomic writing of files, and JSON with a checksum.

A file is written under a temporary name and renamed: after a crash it is either the old one or the new one, never a
part of it. States and checkpoints are also flushed to disk, with their folder, to survive a power cut. Their tensors
are written one by one, so only the largest needs memory for a copy. Importing this module does not import torch.

Links are not followed: a link in the place of a file is replaced, or is an error, and what it leads to stays as it is.

JSON that the harness reads back has a checksum inside, so that a changed byte is an error and not another content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from harness.core.bounded_json import read_json

if TYPE_CHECKING:
    from torch import Tensor

# safetensors' names of the types that are written here
_DTYPES = {"torch.float64": "F64", "torch.float32": "F32", "torch.int32": "I32", "torch.uint8": "U8"}
_ALIGNMENT = 8  # bytes, of the first tensor's offset, as in safetensors' own writer
CHECKSUM: Final = "checksum"  # the key of a JSON object's checksum
_ITEMS: Final = "items"  # the key of a list that is stored as an object


class DamagedError(ValueError):
    """A text is not the JSON that was written; the message says why, without the file's name."""


def write_atomic(path: Path, chunks: Iterable[Any]) -> str:
    """Replace a file by these chunks (bytes or other buffers), flushed to disk.

    Returns:
        their SHA-256, in hex.

    Raises:
        OSError: with the file's name. The temporary file is removed, and the old file is unchanged.
    """
    digest = hashlib.sha256()
    part = path.with_name(f"{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # of a process that was killed, or a link
        with part.open("wb", buffering=0) as stream:
            for chunk in chunks:
                view = memoryview(chunk).cast("B")
                digest.update(view)
                while view:
                    view = view[os.write(stream.fileno(), view) :]
            os.fsync(stream.fileno())
        os.replace(part, path)  # noqa: PTH105
        _flush_folder(path.parent)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    return digest.hexdigest()


def write_after(path: Path, start: int, content: bytes) -> None:
    """Write bytes into a file from position `start` on, and flush them to disk; what stood there before is removed.

    The bytes before `start` are not touched. The file is created if it is missing; a link is an error.

    Raises:
        OSError: with the file's name. The bytes before `start` are intact.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            os.ftruncate(descriptor, start)
            os.lseek(descriptor, start, os.SEEK_SET)
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text in UTF-8, not flushed to disk: a reader finds the old text or the new one.

    Several processes may write the same file at once. A missing folder is created. A lone surrogate (from a file name,
    say) becomes a question mark.

    Raises:
        OSError: with the file's name. The old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.unlink(missing_ok=True)
        part.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        part.replace(path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def part_of(path: Path, texts: Iterable[str]) -> Iterator[Path]:
    """A new file beside `path` with these texts, in UTF-8, to be moved into its place; else it is removed at the end.

    Raises:
        OSError: with the file's name.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.unlink(missing_ok=True)  # of a process that was killed, or a link
        with part.open("x", encoding="utf-8", errors="replace", newline="\n") as file:
            file.writelines(texts)
        yield part
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def remove_folder(folder: Path, root: Path) -> None:
    """Delete a folder below `root` with its content, unless a link leads to it. Errors are ignored."""
    if folder.resolve() == root.resolve() / folder.relative_to(root):
        shutil.rmtree(folder, ignore_errors=True)


def _flush_folder(folder: Path) -> None:
    """Flush a rename in the folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Checked(NamedTuple):
    """A JSON object that was read back.

    Attributes:
        content: without the checksum.
        verified: False if the text has no checksum: an older version wrote it, or the key itself is damaged.
    """

    content: dict[str, Any]
    verified: bool


def json_with_checksum(content: Mapping[str, Any], indent: int | None = 2) -> str:
    """A JSON object as text; its first key, `checksum`, is the SHA-256 of all others.

    Raises:
        ValueError: a number is not finite, which JSON cannot hold.
    """
    assert CHECKSUM not in content
    return json.dumps({CHECKSUM: json_sha256(content), **content}, indent=indent, allow_nan=False)


def read_json_with_checksum(text: str | bytes) -> Checked:
    """The inverse of `json_with_checksum`.

    White space and the order of keys do not count, since they change no content.

    Raises:
        DamagedError: it is no JSON object, exceeds the bounds of `harness.core.bounded_json`, or does not match its
            checksum.
    """
    content = _read(text)
    if not isinstance(content, dict):
        raise DamagedError("is not a JSON object")
    if CHECKSUM not in content:
        return Checked(content, False)
    expected = content.pop(CHECKSUM)
    if json_sha256(content) != expected:
        raise DamagedError("does not match its checksum")
    return Checked(content, True)


def json_list_with_checksum(items: Iterable[Any]) -> str:
    """A list as a JSON object, whose key `items` has it, with a checksum."""
    return json_with_checksum({_ITEMS: list(items)})


def read_json_list(text: str | bytes) -> list[Any]:
    """The inverse of `json_list_with_checksum`. Older versions wrote the bare list, which has nothing to check.

    Raises:
        DamagedError: it is neither, or does not match its checksum.
    """
    if text[:1] in ("[", b"["):
        bare: list[Any] = _read(text)
        return bare
    content, verified = read_json_with_checksum(text)
    if not verified or not isinstance(content.get(_ITEMS), list):
        raise DamagedError("has no checksum")
    return list(content[_ITEMS])


def _read(text: str | bytes) -> Any:
    try:
        return read_json(text)
    except ValueError as error:
        raise DamagedError(str(error)) from None


def json_sha256(value: object) -> str:
    """SHA-256 (hex) of a JSON value, independent of white space and of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def safetensors_chunks(tensors: Mapping[str, Tensor]) -> Iterator[Any]:
    """The bytes of a safetensors file: its header, then tensor by tensor.

    Tensors of a GPU are copied to the CPU one at a time.
    """
    header, end = {}, 0
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # keeps them aligned
    for name, tensor in ordered:
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield len(text).to_bytes(8, "little")
    yield text
    for _, tensor in ordered:
        yield tensor.detach().cpu().contiguous().reshape(-1).numpy().view("uint8")
