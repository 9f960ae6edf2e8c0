"""A sweep as plain lines, for files and pipes: every evaluation and every finished run, or failures only."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.text import Text

from harness.console.output import encodable, with_ascii_layout
from harness.console.state import RunProgress, SweepState
from harness.console.text import fitted, left_in_words, losses
from harness.core.outcomes import Outcome

_MARKS: Final = {
    Outcome.COMPLETE: ("✓", "green"),
    Outcome.PRUNED: ("✂", "yellow"),
    Outcome.DIVERGED: ("∞", "red"),
    Outcome.INTERRUPTED: ("■", "yellow"),
}


class PlainLines:
    """Writes one line for every evaluation, finished run and message.

    Args:
        console: where to write.
        state: of the sweep.
    """

    def __init__(self, console: Console, state: SweepState) -> None:
        self.console = console
        self.state = state

    def open(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to clean up."""

    def message(self, text: str, style: str) -> None:
        """Write a message; a terminal wraps it, a file gets one line."""
        self.console.print(Text(encodable(text, self.console.encoding), style), soft_wrap=not self.console.is_terminal)

    def run_evaluated(self, run: RunProgress) -> None:
        """Write how far a run is, its losses and the time left."""
        assert run.last is not None
        left = left_in_words(self.state.time_left())
        rest = f"  {run.progress:4.0%}  {run.last.tokens:,} tokens  {losses(run)}  (sweep: {left})"
        self._line(Text("  "), run.shown, rest)

    def run_finished(self, name: str, outcome: Outcome, summary: str) -> None:
        """Write how a run ended."""
        mark = _MARKS.get(outcome, ("✗", "red"))
        self._line(Text.assemble(mark, f" {self.state.finished}/{self.state.total}  "), name, f"  {summary}")

    def refresh(self, at_once: bool = False) -> None:
        """Lines are written once and never change."""

    def _line(self, start: Text, name: str, rest: str) -> None:
        """Write one line. A terminal gets at most its width: the name is cut first, then the end of the line."""
        encoding = self.console.encoding
        name, rest = encodable(name, encoding), encodable(rest, encoding)
        if self.console.is_terminal:
            name, rest = fitted(name, rest, self.console.width - start.cell_len)
        self.console.print(start + Text(with_ascii_layout(name + rest, encoding)), soft_wrap=True)


class FailuresOnly:
    """Writes a line for every run that has failed, and nothing else.

    Args:
        lines: writes them.
    """

    def __init__(self, lines: PlainLines) -> None:
        self.lines = lines

    def open(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to clean up."""

    def message(self, text: str, style: str) -> None:
        """Not shown; the log has it."""

    def run_evaluated(self, run: RunProgress) -> None:
        """Not shown; the log has it."""

    def run_finished(self, name: str, outcome: Outcome, summary: str) -> None:
        """Write how a run failed."""
        if outcome.is_failure:
            self.lines.run_finished(name, outcome, summary)

    def refresh(self, at_once: bool = False) -> None:
        """Lines are written once and never change."""
