"""Whatever the input is: it is accepted, or refused with exit code 2 and a line for each mistake; never a traceback.

Here hypothesis breaks specs, corpora and checkpoints. The examples are the same at each run. To look further, ask for
more, which are new ones each time: `FUZZ=20 pytest tests/test_fuzz.py` tries 20 times as many.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from broken_specs import changed_bytes, changed_texts, changed_values
from harness import plan, sweep
from harness.specfile import load_spec

MORE = int(os.environ.get("FUZZ", "1"))


def examples(count: int) -> Callable[[Any], Any]:
    """So many examples; the folder of a test is shared by its examples, each of which writes its file anew."""
    return settings(
        max_examples=count * MORE,
        derandomize=MORE == 1,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which nothing may be left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "measure_flops", lambda: 1e11)  # it takes a third of a second
    return tmp_path


def check(raw: bytes, *arguments: str) -> None:
    """The command takes or refuses a spec as it should, and writes nothing."""
    Path("spec.yaml").write_bytes(raw)
    result = CliRunner().invoke(sweep.app, ["spec.yaml", "--plan", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert [path.name for path in Path().iterdir()] == ["spec.yaml"]
    if result.exit_code == 0:
        assert result.stderr == ""
        spec = load_spec(Path("spec.yaml"), ())
        Path("spec.yaml").write_text(spec.to_yaml(), "utf-8")
        assert load_spec(Path("spec.yaml")).identity() == spec.identity()
        return
    assert (result.exit_code, result.stdout) == (2, "")
    lines = raw.count(b"\n") + raw.count(b"\r") + 1
    for line in result.stderr.rstrip("\n").split("\n"):
        place = re.match(r"(?:spec\.yaml(?::(\d+))?|--set .*?): ", line)
        assert place, line
        assert place[1] is None or 1 <= int(place[1]) <= lines, line
        assert line.isprintable() and len(line) < 1000, line


@given(text=changed_values())
@examples(120)
def test_specs_with_other_values(text: str, folder: Path) -> None:
    check(text.encode("utf-8", "surrogatepass"))


@given(text=changed_texts())
@examples(100)
def test_specs_with_other_text(text: str, folder: Path) -> None:
    check(text.encode("utf-8", "surrogatepass"))


@given(raw=changed_bytes())
@examples(60)
def test_specs_with_other_bytes(raw: bytes, folder: Path) -> None:
    check(raw)


@given(raw=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@examples(60)
def test_any_bytes_as_a_spec(raw: bytes, folder: Path) -> None:
    check(raw)
