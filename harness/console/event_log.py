"""A sweep's log: a text file with one line per event, its time first."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from harness.core.text import printable


class EventLog:
    """Appends lines such as `2026-05-04T12:00:01+02:00 ended complete drop_rate=0.1 · seed 2 val loss 6.7921`.

    Args:
        path: the file, made with its folder at the first line; None for no log. Earlier lines stay.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.trouble = ""  # why the last line could not be written; a sweep does not end for its log

    def write(self, text: str) -> None:
        """Add a line of now; line breaks in `text` become spaces."""
        if self.path is None:
            return
        when = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"{when} {printable(' '.join(text.split()))}\n")
            self.trouble = ""
        except OSError as error:
            self.trouble = f"{self.path}: {error.strerror}"
