"""The files that `data.path` names: each of them once, however many names lead to it."""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.core.links import special_file
from harness.data.errors import CorpusError, reason

_ANY_DEPTH: Final = "**"


@dataclass(frozen=True)
class Found:
    """Files, and other names of theirs.

    Attributes:
        files: in the order of the patterns, sorted within each; relative to the root if the pattern is.
        repeats: other names of a file or a folder → the name under which it counts.
    """

    files: tuple[Path, ...]
    repeats: dict[str, str]


def find_files(patterns: Iterable[str], root: Path) -> Found:
    """The files of all patterns. Symbolic links, hard links and other spellings of a path do not repeat a file.

    Args:
        patterns: paths or globs; `**` stands for any number of folders, of which hidden ones are left out.
        root: folder that relative patterns start from.

    Raises:
        CorpusError: a pattern has no file or cannot be looked up, or a symbolic link leads to itself.
    """
    found: dict[Hashable, Path] = {}
    repeats: dict[str, str] = {}
    for pattern in patterns:
        try:
            files = _expand(pattern, root, repeats)
            for file in sorted(files, key=Path.as_posix):
                first = found.setdefault(_identity(root / file), file)
                if first != file:
                    repeats[str(file)] = str(first)
        except (OSError, RuntimeError) as error:  # RuntimeError: `~user` of an unknown user
            raise CorpusError(
                "data.path", f"found {pattern!r}, which cannot be looked up ({reason(error)}); allowed: paths or globs"
            ) from None
        if not files:
            raise CorpusError(
                "data.path", f"found no file for {pattern!r} in {str(root)!r}; allowed: paths or globs of text files"
            )
    if not found:
        raise CorpusError("data.path", "found an empty list; allowed: at least one path or glob of text files")
    return Found(tuple(found.values()), repeats)


def _identity(path: Path | str) -> Hashable:
    """What all names of a file or a folder have in common."""
    status = os.stat(path)  # noqa: PTH116 (follows links, as Path.stat)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)  # some shares have no inodes


def _expand(pattern: str, root: Path, repeats: dict[str, str]) -> set[Path]:
    place = Path(pattern).expanduser()
    if (root / place).is_dir():
        raise CorpusError(
            "data.path", f"found the folder {pattern!r}; allowed: files, such as {str(Path(pattern, '*.txt'))!r}"
        )
    mode = _mode(root, place)
    if kind := special_file(mode):
        raise CorpusError("data.path", f"found {pattern!r}, which is {kind}; allowed: text files")
    if stat.S_ISREG(mode):  # the name of a file is taken literally, even with a bracket or a star
        return {place}
    return {Path(name) for name in sorted(_matches(place, root, repeats)) if stat.S_ISREG(_mode(root, Path(name)))}


def _mode(root: Path, name: Path) -> int:
    """`st_mode` of a file or folder; 0 if there is none."""
    try:
        return (root / name).stat().st_mode
    except ValueError:  # a NUL in the name
        return 0
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CorpusError(
                "data.path", f"found {str(name)!r}, a loop of symbolic links; allowed: links that lead to a text file"
            ) from None
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return 0
        raise


def _matches(pattern: Path, root: Path, repeats: dict[str, str]) -> Iterator[str]:
    """What `glob.glob` finds with `recursive=True`, which would follow a loop of links for ever."""
    if _ANY_DEPTH not in pattern.parts:
        # Path.glob matches hidden files too.
        yield from glob.glob(str(pattern), root_dir=root)  # noqa: PTH207
        return
    depth = pattern.parts.index(_ANY_DEPTH)
    head, rest = pattern.parts[:depth], pattern.parts[depth + 1 :] or ("*",)
    tops = glob.glob(str(Path(*head)), root_dir=root) if head else [""]  # noqa: PTH207
    for top in sorted(tops):
        for folder in _folders(root, top, repeats):
            yield from _matches(Path(glob.escape(folder), *rest), root, repeats)


def _folders(root: Path, top: str, repeats: dict[str, str]) -> Iterator[str]:
    """A folder and all folders below it, each once, without hidden ones; links are followed last."""
    seen: dict[Hashable, str] = {}
    waiting = deque([top])
    while waiting:
        start = waiting.popleft()
        for path, names, _ in os.walk(root / start):
            below = os.path.relpath(path, root / start)
            folder = start if below == os.curdir else os.path.join(start, below)  # noqa: PTH118
            first = seen.setdefault(_identity(path), folder)
            if first != folder:
                repeats[folder] = first or os.curdir
                names.clear()
                continue
            names[:] = sorted(name for name in names if not name.startswith("."))
            waiting.extend(os.path.join(folder, name) for name in names if Path(path, name).is_symlink())  # noqa: PTH118
            yield folder
