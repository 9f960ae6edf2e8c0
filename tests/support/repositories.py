"""Git repositories for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_repository(folder: Path) -> str:
    """A git repository with one commit of one file, `a.txt`; gives the commit."""
    folder.mkdir()
    (folder / "a.txt").write_text("one\n")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "a.txt"], [*identity, "commit", "-q", "-m", "m"], ["rev-parse", "HEAD"]):
        done = subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()
