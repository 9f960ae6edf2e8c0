"""Git repositories for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

_IDENTITY = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")


def make_repository(folder: Path) -> str:
    """A git repository with one commit of one file, `a.txt`; gives the commit."""
    folder.mkdir()
    (folder / "a.txt").write_text("one\n")
    return commit(folder, "a.txt")


def commit(folder: Path, *files: str) -> str:
    """Commit files in the repository of a folder, which is made if it is missing; gives the commit."""
    stage(folder, *files)
    _git(folder, *_IDENTITY, "commit", "-q", "-m", "m")
    return _git(folder, "rev-parse", "HEAD")


def stage(folder: Path, *files: str) -> None:
    """Stage files, in a repository as for `commit`."""
    _git(folder, "init", "-q")
    _git(folder, "add", "--force", *files)


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
