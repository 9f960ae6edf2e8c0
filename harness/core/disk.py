"""Errors of files in one sentence: what happened, to which file, and on which file system."""

from __future__ import annotations

import errno
import os
import re
import shutil
from typing import Final

# Errors of a whole file system. For others, such as a limit on the size of a file, its name would mislead.
_OF_THE_FILE_SYSTEM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_OF_A_FILE: Final = (*_OF_THE_FILE_SYSTEM, errno.EFBIG, errno.EIO)  # also where the error names no file


def disk_error(error: OSError) -> str:
    """`disk: No space left on device: mlruns/artifacts/a.json (on the file system /data)`.

    An error of a copy or a rename names both files: the one that was written is shown. Errors of connections are an
    `OSError` too; they are shown without `disk`.
    """
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        _, target, why = error.args[0][0]  # the first file that a copy of a folder could not copy
        found = re.match(r"\[Errno (\d+)\] ([^:]*)", str(why))
        error = OSError(int(found[1]), found[2], str(target)) if found else OSError(0, str(why), str(target))
    target = _target(error)
    if not (error.strerror and (target or error.errno in _OF_A_FILE)):
        return str(error) or type(error).__name__
    place = f" (on the file system {file_system(target)})" if target and error.errno in _OF_THE_FILE_SYSTEM else ""
    return ": ".join(filter(None, ("disk", error.strerror, target))) + place


def disk_full(path: str | os.PathLike[str]) -> str:
    """`disk_error` for a file whose library, such as SQLite, says only that the disk is full."""
    return disk_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path)))


def file_system(path: str) -> str:
    """The mount point of the file system that a path is on; the path need not exist."""
    place = os.path.realpath(path)
    while not os.path.ismount(place):
        place = os.path.dirname(place)  # noqa: PTH120 (the path is a string)
    return place


def _target(error: OSError) -> str:
    found = error.filename2 or error.filename
    return os.fsdecode(found) if isinstance(found, str | bytes | os.PathLike) else ""
