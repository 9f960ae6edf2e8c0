"""Durations, losses and names as short text."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size

from harness.console.eta import TimeLeft
from harness.console.state import RunProgress


def clock(seconds: float | None) -> str:
    """`4 s`, `2:05`, `1:02:33`; `–` if unknown."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def left_in_words(left: TimeLeft | None) -> str:
    """`about 3:20 left (2:50 to 4:10)`; `time left not known yet`."""
    if left is None:
        return "time left not known yet"
    about = f"about {clock(left.seconds)} left"
    if left.low is None or clock(left.low) == clock(left.high):
        return about
    return f"{about} ({clock(left.low)} to {clock(left.high)})"


def losses(run: RunProgress) -> str:
    """`train 3.2101  val 3.4012`, as far as they are known."""
    pairs = (("train", run.train_loss), (run.val_name, run.value))
    return "  ".join(f"{name} {loss:.4f}" for name, loss in pairs if loss is not None)


def fitted(name: str, rest: str, room: int) -> tuple[str, str]:
    """A name and the text after it, cut to `room` cells: first the name in its middle, then the text at its end."""
    least = min(cell_len(name), 12)
    rest = shortened_end(rest, max(0, room - least))
    return shortened(name, max(0, room - cell_len(rest))), rest


def shortened(text: str, room: int) -> str:
    """`text` in at most `room` cells, … replacing its middle: run names differ at their end."""
    if cell_len(text) <= room:
        return text
    if room < 2:
        return "…"[:room]
    head = (room - 1) // 2
    tail = room - 1 - head
    end = text
    while cell_len(end) > tail:
        end = end[1:]
    return f"{set_cell_size(text, head).rstrip()}…{end}"


def shortened_end(text: str, room: int) -> str:
    """`text` in at most `room` cells, … replacing its end."""
    if cell_len(text) <= room:
        return text
    return set_cell_size(text, room - 1).rstrip() + "…" if room > 0 else ""
