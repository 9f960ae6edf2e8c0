"""Regular files only: a folder into which somebody else may have put something is read without following links.

A link can lead to a private file of the user's, a FIFO blocks for ever, a device has no end. Links above such a folder
are the user's own, such as one that leads to a larger disk. A hard link is a regular file: whoever made it could read
the content already.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

_KINDS: Final = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegularError(ValueError):
    """Something is no regular file; the message has its path, what it is, and what is allowed."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f"{path}: found {found}; allowed: a regular file (links are not followed)")


def read_regular(folder: Path, inside: str, limit: int) -> bytes:
    """The content of a file in a folder.

    Args:
        folder: may be behind links.
        inside: the file's path in it, with `/`; no part of it is a link.
        limit: bytes that the file may have.

    Raises:
        NotRegularError: it, or a folder on the way to it, is something else, or it is too large.
        OSError: it is missing or cannot be read.
    """
    refuse_irregular(folder, inside)
    path = folder / inside
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:  # noqa: PTH123 (it is open already)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):  # it was replaced since
            raise NotRegularError(path, _kind(found.st_mode))
        if found.st_size > limit:  # a sparse file may be larger than the disk
            raise NotRegularError(path, f"{found.st_size:,} bytes, more than {limit:,}")
        return stream.read(limit)


def refuse_irregular(folder: Path, inside: str) -> None:
    """Raise a `NotRegularError` if a file in a folder, or a folder on the way to it, is there as something else.

    Args:
        folder, inside: as for `read_regular`.
    """
    *parents, last = Path(inside).parts
    if Path(inside).is_absolute() or ".." in parents or last == "..":
        raise NotRegularError(folder / inside, "a path that leads out of its folder")
    place = folder
    for part in parents:
        place /= part
        if (kind := _kind_at(place)) not in ("", _KINDS[stat.S_IFDIR]):
            raise NotRegularError(place, kind)
    if kind := _kind_at(place / last):
        raise NotRegularError(place / last, kind)


def special_file(mode: int) -> str:
    """`a FIFO`, `a device` or `a socket`, for such a file's `st_mode`; empty for a regular file and for a folder."""
    return "" if stat.S_ISDIR(mode) else _KINDS.get(stat.S_IFMT(mode), "")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file that the user named, or a link to one, for reading.

    Raises:
        OSError: with the file's name; also for a FIFO, a device or a socket.
    """
    if kind := special_file(path.stat().st_mode):  # before it is opened, which may wait, or do something to a device
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
    stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):  # it was replaced meanwhile
        stream.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return stream


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a regular file, or of what a link leads to, of at most `limit` bytes; a larger one is not read.

    Raises:
        OSError: with the file's name: it cannot be read, is not a regular file or is too large.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"it is larger than {limit:,} bytes", str(path))
        content = stream.read(size)
        if stream.read(1):  # some files of the system never end
            raise OSError(errno.EFBIG, f"it has more than its {size:,} bytes", str(path))
    return content


def irregular_in(folder: Path) -> Iterator[tuple[Path, str]]:
    """Path and kind (`a link`) of everything below a folder that is neither a regular file nor a folder."""
    for parent, folders, files in os.walk(folder):  # links are not followed
        for path in (Path(parent, name) for name in sorted([*folders, *files])):
            if (kind := _kind_at(path)) not in ("", _KINDS[stat.S_IFDIR]):
                yield path, kind


def regular_files(folder: Path) -> list[Path]:
    """The regular files below a folder, sorted; links to files are left out, and links to folders not followed."""
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sorted(path for path in paths if not _kind_at(path))


def _kind_at(path: Path) -> str:
    """What is at a path, in words; empty for a regular file and for nothing."""
    try:
        return _kind(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _kind(mode: int) -> str:
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")
