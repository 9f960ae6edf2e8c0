"""Durations and names as short text."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size

from harness.console.eta import TimeLeft


def clock(seconds: float | None) -> str:
    """`4 s`, `2:05`, `1:02:33`; `–` where it is not known."""
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


def fitted(name: str, rest: str, room: int) -> tuple[str, str]:
    """A name and what follows it, in `room` cells: the name is cut in its middle, and only then the rest at its end."""
    least = min(cell_len(name), 12)
    rest = shortened_end(rest, max(0, room - least))
    return shortened(name, max(0, room - cell_len(rest))), rest


def shortened(text: str, room: int) -> str:
    """`text` in at most `room` cells, with … in place of its middle: its end tells runs apart."""
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
    """`text` in at most `room` cells, with … where it was cut."""
    if cell_len(text) <= room:
        return text
    return set_cell_size(text, room - 1).rstrip() + "…" if room > 0 else ""
