"""Standard output and standard error that never end a command.

A terminal may have an encoding without `Δ`, be closed, or be a pipe that nobody reads; a file's disk may be full. What
a command prints is then written in ASCII, or is lost. The log of a sweep and the stores are not affected.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, TextIO, cast

from harness.core.outcomes import Exit

# ASCII forms of all signs that the harness prints. Any other character that cannot be encoded is escaped.
ASCII_FORMS: Final = {
    "±": "+-",
    "×": "x",
    "−": "-",
    "–": "-",
    "·": "|",
    "…": "...",
    "→": "->",
    "←": "<-",
    "≤": "<=",
    "≥": ">=",
    "Δ": "Delta",
    "Σ": "sum",
    "α": "alpha",
    "δ": "delta",
    "η": "eta",
    "λ": "lambda",
    "ρ": "rho",
    "σ": "sigma",
    "χ": "chi",
    "²": "^2",
    "√": "sqrt",
    "∞": "inf",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "\ufffd": "?",
    "✓": "+",
    "✗": "x",
    "✂": "/",
    "■": "#",
    "━": "=",
    "─": "-",
    **dict(zip("▁▂▃▄▅▆▇█", "_.-=+*%#", strict=True)),
}
# Of the signs that a layout adds to text that was made encodable before: they must not change its width.
_OF_ONE_CELL: Final = str.maketrans({"…": "~", "–": "-", "━": "=", "─": "-"})
_ASCII: Final = "harness.ascii"  # name of the error handler
# The reader has closed the pipe, or the terminal is gone: nobody misses the rest.
_READER_GONE: Final = (errno.EPIPE, errno.EIO, errno.ENXIO)


def _ascii_forms(error: UnicodeError) -> tuple[str, int]:
    """Error handler: replace what the encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(ASCII_FORMS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lost), error.end


codecs.register_error(_ASCII, _ascii_forms)


def encodable(text: str, encoding: str | None) -> str:
    """The text with ASCII forms of what `encoding` does not have. Lone surrogates are escaped in any encoding."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, _ASCII).decode(encoding)


def with_ascii_layout(text: str, encoding: str | None) -> str:
    """Text of the same width, with ASCII forms of the bars, dashes and ellipses that a layout has added."""
    return text if encodable(text, encoding) == text else text.translate(_OF_ONE_CELL)


class SafeOutput(io.TextIOBase):
    """Writes to a stream, in its encoding. After an error everything else is dropped.

    There is no `buffer`: typer would write around this class where the encoding is ASCII.

    Args:
        stream: standard output, say.

    Attributes:
        error: why the stream could not be written; None if it could.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.error: Exception | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only, as `TextIOWrapper.encoding` is
        """The stream's encoding."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write text; returns its length."""
        if self.error is None:
            try:
                self.stream.write(encodable(text, self.encoding))
            except (OSError, ValueError) as error:  # ValueError: the stream is closed
                self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Write what the stream has buffered."""
        if self.error is None:
            try:
                self.stream.flush()
            except (OSError, ValueError) as error:
                self._drop(error)

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self.error is None and self.stream.isatty()

    def fileno(self) -> int:
        """The stream's file descriptor."""
        return self.stream.fileno()

    def writable(self) -> bool:
        """Always: what cannot be written is dropped."""
        return True

    def _drop(self, error: Exception) -> None:
        """Drop what the stream has buffered too; Python would try to write it again when it exits."""
        self.error = error
        with suppress(OSError, ValueError):  # a stream in memory has no descriptor
            descriptor = self.stream.fileno()
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, descriptor)
            os.close(nothing)


@contextmanager
def safe_output() -> Iterator[None]:
    """Print through `SafeOutput` inside the context, which holds a whole command.

    Raises:
        SystemExit: with `Exit.FAILED`, if the command has succeeded but its output could not be written. A reader that
            has closed its pipe and a terminal that is gone are no failure.
    """
    _prepare_descriptors()
    before = sys.stdout, sys.stderr
    out, err = (SafeOutput(stream or open(os.devnull, "w", encoding="utf-8")) for stream in before)  # noqa: PTH123, SIM115
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield
    except SystemExit as end:
        out.flush()
        if end.code or not _is_failure(out.error):
            raise
        why = getattr(out.error, "strerror", None) or out.error
        print(f"standard output cannot be written: {why}", file=sys.stderr)
        raise SystemExit(Exit.FAILED) from None
    finally:
        sys.stdout, sys.stderr = before


def _is_failure(error: Exception | None) -> bool:
    return isinstance(error, OSError) and error.errno not in _READER_GONE


def _prepare_descriptors() -> None:
    """Open the standard descriptors that are closed, and make the others wait for their reader.

    The next file would get a closed one's number, and stray output would go into the file. Some programs leave a
    terminal non-blocking, where a long text fails half-way.
    """
    for descriptor in range(3):
        try:
            os.set_blocking(descriptor, True)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
