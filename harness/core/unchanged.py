"""Whether files are those that were read before, by their inodes, sizes and times; for files too large to read again.

The system sets the time of a file's last change itself (`st_ctime`), so an altered file, a copy and one that was moved
here differ from what was noted, also with the old time of modification.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

LARGE: Final = 32 << 20  # bytes of files in all: reading fewer again takes less than a second
_TICK_SECONDS: Final = 0.05  # two changes in less time than this may get the same time from the system

Identity = tuple[int, int, int, int]
State = list[list[int]]  # as JSON holds it


def state_of(paths: Iterable[Path]) -> State:
    """What `identity_of` gives for each file.

    Returns only when a later change would get another time.

    Raises:
        OSError: a file is missing or cannot be looked up.
    """
    found = [list(identity_of(path)) for path in paths]
    latest = max((changed for *_, changed in found), default=0)
    if abs(time.time() - latest / 1e9) < _TICK_SECONDS:
        time.sleep(_TICK_SECONDS)
    return found


def are_large(state: State) -> bool:
    """Whether files of this state are large enough that it is worth noting it."""
    return sum(size for _, size, *_ in state) >= LARGE


def identity_of(path: Path) -> Identity:
    """Inode, size, time of modification and of the last change of a file: they differ between two contents of it.

    Raises:
        OSError: the file is missing or cannot be looked up.
    """
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
