"""Any input is accepted, or rejected with exit code 2 and a line per mistake; there is never a traceback.

Hypothesis breaks specs, corpora and checkpoints. The examples are the same in every run.
`FUZZ=20 pytest tests/commands/test_fuzz.py` tries 20 times as many, new ones each time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from broken_specs import changed_bytes, changed_texts, changed_values
from fuzzing import examples
from harness import generate, sweep
from harness.config.load import load_spec
from harness.core.paths import DESCRIPTION, WEIGHTS
from harness.cost import calibration
from harness.cost import estimate as plan
from harness.model.weights import save_checkpoint
from helpers import lively_gpt, small_config

pytestmark = pytest.mark.slow


def unmeasured(*_: Any, **__: Any) -> Any:
    raise calibration.MeasurementError("not measured")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "measure_flops", lambda: 1e11)  # it takes a third of a second
    monkeypatch.setattr(calibration, "measure_in_processes", unmeasured)  # it takes five seconds
    return tmp_path


def check(raw: bytes, *arguments: str) -> int:
    """Check that the command accepts or rejects a spec correctly and writes nothing; returns its exit code."""
    Path("spec.yaml").write_bytes(raw)
    before = sorted(Path().iterdir())
    result = CliRunner().invoke(sweep.app, ["spec.yaml", "--plan", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert sorted(Path().iterdir()) == before
    if result.exit_code == 0:
        assert result.stderr == ""
        settings = [value for option, value in itertools.pairwise(arguments) if option == "--set"]
        spec = load_spec(Path("spec.yaml"), settings)
        Path("spec.yaml").write_text(spec.to_yaml(), "utf-8")
        assert load_spec(Path("spec.yaml")).identity() == spec.identity()
        return 0
    assert (result.exit_code, result.stdout) == (2, "")
    lines = raw.count(b"\n") + raw.count(b"\r") + 1
    for line in result.stderr.rstrip("\n").split("\n"):
        place = re.match(r"(?:spec\.yaml(?::(\d+))?|--set .*?): ", line)
        assert place, line
        assert place[1] is None or 1 <= int(place[1]) <= lines, line
        assert line.isprintable() and len(line) < 1000, line
    return 2


@given(text=changed_values())
@examples(30)
def test_specs_with_other_values(text: str, folder: Path) -> None:
    check(text.encode("utf-8", "surrogatepass"))


@given(text=changed_texts())
@examples(25)
def test_specs_with_broken_yaml(text: str, folder: Path) -> None:
    check(text.encode("utf-8", "surrogatepass"))


@given(raw=changed_bytes())
@examples(30)
def test_specs_with_other_bytes(raw: bytes, folder: Path) -> None:
    check(raw)


@given(raw=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@examples(60)
def test_any_bytes_as_a_spec(raw: bytes, folder: Path) -> None:
    check(raw)


# Corpora

SPEC = b"""\
name: mine
data: {path: corpus.txt, tokenizer: byte}
model: {context_length: 16, emb_dim: 8, n_heads: 2, n_layers: 1}
train: {budget: {tokens: 512}, batch_tokens: 32}
"""
PIECES = [
    b"word ",
    b"\n",
    b"\xef\xbb\xbf",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    "名前 \U0001f600 \u2028".encode(),
    b"\x1b[31m",
    b"<b>",
]
contents = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(st.sampled_from(PIECES), max_size=80).map(b"".join),
    st.builds(
        lambda text, encoding: text.encode(encoding),
        st.text("abc é\n", max_size=300),
        st.sampled_from(["utf-16", "latin-1"]),
    ),
)


@given(content=contents, tokenizer=st.sampled_from(["byte", "gpt2"]))
@examples(80)
def test_any_bytes_as_a_corpus(content: bytes, tokenizer: str, folder: Path) -> None:
    (folder / "corpus.txt").write_bytes(content)
    code = check(SPEC, "--set", f"data.tokenizer={tokenizer}")
    try:
        text = content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or not text.strip():
        assert code == 2
    if tokenizer == "byte" and len(text) < 3 * 17:  # too small for three splits with a window and a target each
        assert code == 2


def loop(path: Path) -> None:
    path.symlink_to(path)


def unreadable(path: Path) -> None:
    path.write_text("a text " * 100)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**43)  # sparse: takes no space on the disk


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (Path.touch, "found no text in 1 file: corpus.txt"),
    "a folder": (Path.mkdir, "found no text in the folder 'corpus.txt'"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "found no file for 'corpus.txt'"),
    "a link to itself": (loop, "found 'corpus.txt', a loop of symbolic links"),
    "a pipe": (os.mkfifo, "found 'corpus.txt', which is a FIFO"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "found 'corpus.txt', which is a device"),
    "unreadable": (unreadable, "which cannot be read (Permission denied)"),
    "one byte": (lambda path: path.write_text("a"), "data.split: found 1 byte token in train"),
    "shorter than a window": (lambda path: path.write_text("abcd " * 20), "found 16; allowed: under "),
    "far larger than the memory": (
        huge,
        "fit into memory",
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_unusual_files_as_a_corpus(odd: str, folder: Path) -> None:
    make, message = ODD[odd]
    make(folder / "corpus.txt")
    assert check(SPEC) == 2
    result = CliRunner().invoke(sweep.app, ["spec.yaml"])
    assert result.exit_code == 2 and message in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["corpus.txt", "spec.yaml"]  # no mlruns, no lock


@pytest.mark.parametrize("tokenizer", ["byte", "gpt2"])
def test_a_long_line_without_spaces_is_a_corpus(tokenizer: str, folder: Path) -> None:
    (folder / "corpus.txt").write_text("abcdefghij" * 30_000)
    assert check(SPEC, "--set", f"data.tokenizer={tokenizer}") == 0


# Checkpoints


@pytest.fixture
def checkpoint(folder: Path) -> tuple[bytes, bytes]:
    """The two files of a good checkpoint, in the folder `run`."""
    config = small_config()
    save_checkpoint(folder / "run", lively_gpt(config), config, step=3)
    return (folder / "run" / DESCRIPTION).read_bytes(), (folder / "run" / WEIGHTS).read_bytes()


def generated(description: bytes, weights: bytes) -> int:
    """The exit code of the command on a checkpoint with these files; checks that a rejection is one line."""
    Path("run", DESCRIPTION).write_bytes(description)
    Path("run", WEIGHTS).write_bytes(weights)
    result = CliRunner().invoke(generate.app, ["run", "--max-new-tokens", "2"])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    if result.exit_code:
        assert (result.exit_code, result.stdout) == (2, "")
        assert re.fullmatch(r"run[/:].*\n", result.stderr) and result.stderr[:-1].isprintable(), result.stderr
    else:
        assert result.stdout.startswith("Every effort moves you") and result.stderr == ""
    return result.exit_code


def with_valid_checksum(description: bytes, weights: bytes) -> bytes:
    """The description with the checksum of `weights`."""
    return json.dumps(json.loads(description) | {"sha256": hashlib.sha256(weights).hexdigest()}).encode()


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), in_header=st.booleans())
@examples(60)
def test_a_flipped_bit_in_the_weights_is_detected(
    where: float, bit: int, in_header: bool, checkpoint: tuple[bytes, bytes]
) -> None:
    description, weights = checkpoint
    flipped = bytearray(weights)
    flipped[int(where * (1000 if in_header else len(weights)))] ^= 1 << bit
    assert generated(description, bytes(flipped)) == 2
    generated(with_valid_checksum(description, bytes(flipped)), bytes(flipped))  # accepted, or not a safetensors file


@given(cut=st.floats(0, 1, exclude_max=True), tail=st.binary(max_size=8), valid_checksum=st.booleans())
@examples(40)
def test_truncated_weights_are_rejected(
    cut: float, tail: bytes, valid_checksum: bool, checkpoint: tuple[bytes, bytes]
) -> None:
    description, weights = checkpoint
    rest = weights[: int(cut * len(weights))] + tail
    assert generated(with_valid_checksum(description, rest) if valid_checksum else description, rest) == 2


@given(raw=st.binary(max_size=64) | st.sampled_from([b"[" * 100_000, b'{"config":' * 5000, b"9" * 10_000, b"1e999"]))
@examples(40)
def test_any_bytes_as_a_description(raw: bytes, checkpoint: tuple[bytes, bytes]) -> None:
    assert generated(raw, checkpoint[1]) == 2


@given(data=st.data())
@examples(25)
def test_a_description_with_other_values(data: st.DataObject, checkpoint: tuple[bytes, bytes]) -> None:
    description = json.loads(checkpoint[0])
    section = data.draw(st.sampled_from(["model", "train", "data", None]))
    part = description if section is None else description["config"][section]
    name = data.draw(st.sampled_from(sorted(part)))
    part[name] = data.draw(
        st.sampled_from([None, True, -1, 0, 1, 3, 10**9, 2**62, 10**400, 1.5, "x", "\ud800", [], {}, [[]]])
    )
    code = generated(json.dumps(description).encode(), checkpoint[1])
    if section == "model" and name in ("emb_dim", "n_layers", "context_length", "vocab_size"):
        assert code == (0 if small_config().resolved()["model"][name] == part[name] else 2)
