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
from harness.data.folders import files_of_one_kind, saved_files

_ANY_DEPTH: Final = "**"


@dataclass(frozen=True)
class Found:
    """Files, and other names of theirs.

    Attributes:
        files: in the order of the patterns, sorted within each; relative to the root if the pattern is.
        repeats: other names of a file or a folder → the name under which it counts.
        notes: sentences for the user about files that are left out.
    """

    files: tuple[Path, ...]
    repeats: dict[str, str]
    notes: tuple[str, ...] = ()


def find_files(patterns: Iterable[str], root: Path, field: str = "data.path", without: Iterable[Path] = ()) -> Found:
    """The files of all patterns. Symbolic links, hard links and other spellings of a path do not repeat a file.

    Args:
        patterns: paths, folders or globs; `**` stands for any number of folders, of which hidden ones are left out.
        root: folder that relative patterns start from.
        field: the field of the spec that has the patterns.
        without: files that other fields name, which are left out.

    Raises:
        CorpusError: a pattern has no file or cannot be looked up, or a symbolic link leads to itself.
    """
    found: dict[Hashable, Path] = {}
    repeats: dict[str, str] = {}
    notes: list[str] = []
    elsewhere = {_identity(file) for file in without}
    left_out: list[Path] = []
    for pattern in patterns:
        try:
            files = _expand(pattern, root, field, repeats, notes)
            for file in files:
                if _identity(root / file) in elsewhere:
                    left_out.append(file)
                    continue
                first = found.setdefault(_identity(root / file), file)
                if first != file:
                    repeats[str(file)] = str(first)
        except (OSError, RuntimeError) as error:  # RuntimeError: `~user` of an unknown user
            raise CorpusError(
                field, f"found {pattern!r}, which cannot be looked up ({reason(error)}); allowed: paths or globs"
            ) from None
        if not files:
            raise CorpusError(
                field, f"found no file for {pattern!r} in {str(root)!r}; allowed: paths, folders or globs of text files"
            )
    if left_out:
        more, verb = (f" and {len(left_out) - 1} more", "are") if len(left_out) > 1 else ("", "is")
        notes.append(f"{str(left_out[0])!r}{more} {verb} left out, as data.val_path or data.test_path names it")
        if not found:
            raise CorpusError(field, "found only files that data.val_path or data.test_path names; allowed: others too")
    if not found:
        raise CorpusError(field, "found an empty list; allowed: at least one path, folder or glob of text files")
    return Found(tuple(found.values()), repeats, tuple(notes))


def _identity(path: Path | str) -> Hashable:
    """What all names of a file or a folder have in common."""
    status = os.stat(path)  # noqa: PTH116 (follows links, as Path.stat)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)  # some shares have no inodes


def _expand(pattern: str, root: Path, field: str, repeats: dict[str, str], notes: list[str]) -> list[Path]:
    """The files that a pattern names, in their order."""
    place = Path(pattern).expanduser()
    if (root / place).is_dir() and pattern:
        saved = saved_files(root / place, pattern, field)
        if saved is not None:
            return [place / file for file in saved]
        below = sorted(_regular(Path(glob.escape(str(place)), _ANY_DEPTH), root, field, repeats), key=Path.as_posix)
        files, note = files_of_one_kind(below, pattern, field)
        notes += filter(None, [note])
        return files
    mode = _mode(root, place, field)
    if kind := special_file(mode):
        raise CorpusError(field, f"found {pattern!r}, which is {kind}; allowed: text files")
    if stat.S_ISREG(mode):  # the name of a file is taken literally, even with a bracket or a star
        return [place]
    return sorted(_regular(place, root, field, repeats), key=Path.as_posix) if pattern else []


def _regular(pattern: Path, root: Path, field: str, repeats: dict[str, str]) -> set[Path]:
    """The regular files that a glob matches."""
    names = sorted(_matches(pattern, root, repeats))
    return {Path(name) for name in names if stat.S_ISREG(_mode(root, Path(name), field))}


def _mode(root: Path, name: Path, field: str) -> int:
    """`st_mode` of a file or folder; 0 if there is none."""
    try:
        return (root / name).stat().st_mode
    except ValueError:  # a NUL in the name
        return 0
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CorpusError(
                field, f"found {str(name)!r}, a loop of symbolic links; allowed: links that lead to a text file"
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
