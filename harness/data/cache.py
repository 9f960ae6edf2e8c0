"""The cache: a folder for downloads, encoded texts and measured speeds.

Its content decides numbers. So it belongs to one user, and nobody else may write to it.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from harness.core.files import write_atomic
from harness.core.paths import broken_link
from harness.data.errors import CorpusError

CACHE_VARIABLE: Final = "GPT_HARNESS_CACHE"
TOKENS: Final = "tokens"
DOWNLOADS: Final = "downloads"
SCANS: Final = "scans"
_ROOT: Final = 0


def cache_folder(cache: Path | None = None) -> Path:
    """The folder of the cache: `cache`, else $GPT_HARNESS_CACHE, else the user's cache folder. It may not exist yet.

    Raises:
        CorpusError: it belongs to another user, or others can write to it.
    """
    folder = cache if cache is not None else _configured()
    refuse_shared(folder)
    return folder


def _configured() -> Path:
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    import pooch  # here because it takes 0.1 s, and workers are given their cache folder

    return Path(pooch.os_cache("gpt-harness"))


def refuse_shared(place: Path) -> None:
    """Raise CorpusError if a file or folder of the cache belongs to another user, or others can write to it."""
    if who := others_with_access(place):
        status = place.stat()
        ours = status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISVTX  # /tmp is meant to be shared
        mend = f"`chmod -R go-w {shlex.quote(str(place))}`, or another folder, " if ours else "a folder of your own, "
        raise CorpusError(
            CACHE_VARIABLE,
            f"found {str(place)!r} in the cache, which {who}; allowed: what only you can write to: {mend}named by "
            f"{CACHE_VARIABLE}",
        )


def others_with_access(place: Path) -> str:
    """`belongs to the user bob`, `everybody can write to` or `the group staff can write to`; empty if nobody else can.

    The system's administrator, who can write anywhere, may own it.
    """
    try:
        status = place.stat()
    except (OSError, ValueError):  # it does not exist yet, or whoever reads it reports the reason
        return ""
    if status.st_uid not in (os.geteuid(), _ROOT):
        return f"belongs to the user {_name(lambda: pwd.getpwuid(status.st_uid).pw_name, status.st_uid)}"
    if status.st_mode & stat.S_IWOTH:
        return "everybody can write to"
    if status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid):
        return f"the group {_name(lambda: grp.getgrgid(status.st_gid).gr_name, status.st_gid)} can write to"
    return ""


def make_private(folder: Path) -> None:
    """Create a folder and its missing parents, for this user alone whatever the umask.

    Raises:
        OSError: it cannot be created.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(mode=0o700, exist_ok=True)  # another process may have created it meanwhile


def write_private(file: Path, chunks: Iterable[Any]) -> str:
    """Write a file of the cache for this user alone; processes that write it at once do not disturb each other.

    Returns:
        the SHA-256 of the chunks, in hex.

    Raises:
        OSError: it cannot be written.
    """
    make_private(file.parent)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=file.parent) as folder:
        part = Path(folder, file.name)
        sha256 = write_atomic(part, chunks)
        part.chmod(0o600)
        part.replace(file)
    return sha256


def unusable_cache(folder: Path, why: str) -> CorpusError:
    """The error for a cache folder that cannot be read or written."""
    if link := broken_link(folder):
        return CorpusError(CACHE_VARIABLE, f"found {link}; allowed: a folder: mount or create it, or remove the link")
    return CorpusError(
        CACHE_VARIABLE, f"found the cache folder {str(folder)!r} ({why}); allowed: a folder that can be written"
    )


def _is_private(group_id: int) -> bool:
    """Whether a group has this user alone: several Linux distributions make one for each user."""
    try:
        group, user = grp.getgrgid(group_id), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
    return group.gr_name == user and set(group.gr_mem) <= {user}


def _name(look_up: Callable[[], str], number: int) -> Any:
    """A name from the system's tables; the number if it is not in them."""
    try:
        return look_up()
    except KeyError:
        return number
