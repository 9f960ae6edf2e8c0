"""Nothing that a command prints can end it: other encodings, full disks, closed pipes, closed terminals."""

from __future__ import annotations

import ast
import errno
import io
import os
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from harness.console.choose import make_screen
from harness.console.cli import Command
from harness.console.live import LiveTable
from harness.console.output import ASCII_FORMS, SafeOutput, encodable, with_ascii_layout
from harness.console.state import ArmTally
from harness.core.outcomes import Outcome, Phase
from paths import ROOT
from screens import point
from source_code import modules

ENCODINGS = ("utf-8", "utf-16", "latin-1", "ascii", "cp1252", "cp437", "koi8-r", "shift_jis", "cp037")
POSIX = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@given(
    st.text() | st.text(st.sampled_from([*ASCII_FORMS, "a", "\ud800", "é", "\U0001f600"])), st.sampled_from(ENCODINGS)
)
def test_any_text_can_be_encoded(text: str, encoding: str) -> None:
    shown = encodable(text, encoding)
    assert shown.encode(encoding).decode(encoding) == shown == encodable(shown, encoding)
    if all(not "\ud800" <= c <= "\udfff" for c in text) and encoding == "utf-8":
        assert shown == text


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "Δ 6.79 ± 0.02 → δ …é"),
        ("latin-1", "Delta 6.79 ± 0.02 -> delta ...é"),
        ("cp437", "Delta 6.79 ± 0.02 -> δ ...é"),
        ("ascii", r"Delta 6.79 +- 0.02 -> delta ...\xe9"),
    ],
)
def test_signs_have_an_ascii_form(encoding: str, shown: str) -> None:
    assert encodable("Δ 6.79 ± 0.02 → δ …é", encoding) == shown


def strings(tree: ast.AST) -> Iterator[str]:
    """The string constants of a module without its docstrings."""
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in notes:
            yield node.value


def test_every_sign_that_the_harness_prints_has_an_ascii_form() -> None:
    assert "".join(ASCII_FORMS.values()).isascii()
    files = [
        file
        for name, file in modules().items()
        if not name.startswith(("harness.report.figures", "harness.report.page"))
    ]
    used = {
        c for file in files for text in strings(ast.parse(file.read_text("utf-8"))) for c in text if not c.isascii()
    }
    signs = {c for c in used if c.isprintable() and (not c.isalpha() or "GREEK" in unicodedata.name(c))}
    assert signs - set("⏎␣⇥") - set(ASCII_FORMS) == set()  # those three are on pages only


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_screen_fits_its_window_in_any_encoding(encoding: str, terminal: bool) -> None:
    from rich.console import Console

    raw = io.BytesIO()
    stream: Any = io.TextIOWrapper(raw, encoding=encoding, newline="")
    console = Console(file=SafeOutput(stream), force_terminal=terminal, width=60, color_system=None)  # type: ignore[arg-type]
    names = ["drop_rate=0.0 · prompt=Café · learning_rate=2.1e-03 · weight_decay=0.283 · seed 1", "é\ud800\U0001f600"]
    with make_screen(console) as screen:
        screen.sweep_started(2, 2.0, [ArmTally(name, 0, 1) for name in names])
        for key, name in enumerate(names):
            screen.run_started(key, name, 1.0, name, Phase.CONFIRM)
            screen.run_point(key, point(5, 0.5, 6.25))
        screen.message("6.79 ± 0.02 …")
        if isinstance(screen.view, LiveTable):
            frame = [line.plain for line in screen.view._frame(60, 25)]
            assert max(cell_len(with_ascii_layout(line, encoding)) for line in frame) <= 60
            assert all(
                encodable(text, encoding) == text for text in (with_ascii_layout(line, encoding) for line in frame)
            )
        screen.run_finished(0, Outcome.COMPLETE)
        screen.run_finished(1, Outcome.DIVERGED, "loss is ∞")
    stream.flush()
    shown = raw.getvalue().decode(encoding)
    assert "seed 1" in shown and "diverged" in shown


class Full(io.StringIO):
    """A stream whose disk is full, whose reader has gone, …"""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.reason = error

    def flush(self) -> None:
        raise self.reason


def printing() -> typer.Typer:
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

    @app.command(cls=Command)
    def main(code: int = 0) -> None:
        print("one ± two")
        sys.stdout.flush()
        print("three")
        raise typer.Exit(code)

    return app


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "standard output cannot be written: No space left on device\n",
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0, ""),
        (OSError(errno.EIO, "Input/output error"), 0, ""),
        (ValueError("I/O operation on closed file"), 0, ""),
    ],
)
def test_a_failing_output_does_not_end_a_command(error: Exception, code: int, said: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        spoken = io.StringIO()
        patch.setattr(sys, "stdout", Full(error))
        patch.setattr(sys, "stderr", spoken)
        for asked in (0, 3):
            with pytest.raises(SystemExit) as end:
                printing()(["--code", str(asked)], standalone_mode=True)
            assert end.value.code == (asked or code)
        assert spoken.getvalue() == said


def shell(folder: Path, script: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = script.replace("harness", f"{sys.executable} -m harness")
    environment = {**os.environ, **environment}
    return subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, env=environment, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("harness.data --help >/dev/full", 1, b"standard output cannot be written: No space left on device\n"),
        (
            "harness.data show text.txt -t byte >/dev/full",
            1,
            b"standard output cannot be written: No space left on device\n",
        ),
        ("harness.data show text.txt -t byte >&-", 0, b""),
        ("harness.data show text.txt -t byte >&- 2>&-", 0, b""),
        ("harness.data show nothing 2>/dev/full", 2, b""),
        ("{ harness.data show text.txt -t byte; echo $? >code; } | :; exit $(cat code)", 0, b""),
    ],
)
def test_redirected_output(script: str, code: int, said: bytes, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("é ± Δ \U0001f600\n" * 400, "utf-8")
    for environment in ({}, POSIX):
        done = shell(tmp_path, script, **environment)
        assert (done.returncode, done.stderr) == (code, said), script


def test_a_file_does_not_get_the_number_of_a_closed_output(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from harness.console.output import safe_output
with safe_output():
    with open("important", "w") as file:
        print(file.fileno(), file=file)
        print("lost")
"""
    (tmp_path / "write.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = f"{sys.executable} write.py <&- >&- 2>&-"
    subprocess.run(["sh", "-c", script], cwd=tmp_path, check=True, timeout=60, env=environment)
    assert int((tmp_path / "important").read_text()) > 2


def test_a_pipe_that_does_not_block_gets_everything(tmp_path: Path) -> None:
    (tmp_path / "write.py").write_text("""
import os, sys
from harness.console.output import safe_output
os.set_blocking(1, False)
with safe_output():
    for _ in range(100):
        print("x" * 9_999)
""")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "write.py"], cwd=tmp_path, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        time.sleep(0.5)  # so that the pipe gets full
        assert len(process.stdout.read()) == 1_000_000
    assert process.returncode == 0
