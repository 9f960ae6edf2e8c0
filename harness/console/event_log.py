"""The log of a sweep: a text file with one line per event, which starts with the time."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Final

from harness.core.secrets import without_secrets
from harness.core.text import printable

_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe is not waited for


class EventLog:
    """Appends lines such as `2026-05-04T12:00:01+02:00 finished complete drop_rate=0.1 · seed 2 val loss 6.7921`.

    Args:
        path: the file, created with its folder at the first line; new lines are appended. A link is not followed. None
            for no log.

    Attributes:
        error: why the last line could not be written; empty if it was. A log that fails does not stop the sweep.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.error = ""

    def write(self, text: str) -> None:
        """Add a line with the current time; line breaks in `text` become spaces."""
        if self.path is None:
            return
        when = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(self.path, _APPEND, 0o666), "a", encoding="utf-8", errors="replace") as file:
                file.write(f"{when} {printable(without_secrets(' '.join(text.split())))}\n")
            self.error = ""
        except OSError as error:
            self.error = f"{self.path}: {error.strerror}"
