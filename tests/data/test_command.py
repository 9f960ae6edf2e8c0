"""`python -m harness.data` as a separate process with piped output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.data import BUILTIN, load_corpus
from helpers import BYTES
from paths import ROOT


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"GPT_HARNESS_CACHE": str(cache), "HOME": str(cache), "PATH": "", "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "harness.data", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_list(cache: Path) -> None:
    done = run(cache, "list")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["corpus", "years", "texts", "bytes", "tokens", "bytes/token"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1 : 1 + len(BUILTIN)]}
    assert list(rows) == list(BUILTIN)
    assert rows["sotu-1820"] == ["1820", "1", "20,416", "4,020", "5.08"]  # 20416 / 4020 = 5.0786
    assert rows["sotu"][:3] == ["1790–2026", "249", "12,186,247"]
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout


def test_show_a_builtin_corpus(cache: Path) -> None:
    done = run(cache, "show", "sotu-1820", "--tokenizer", "byte")
    assert (done.returncode, done.stderr) == (0, "")
    words = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    assert words["bytes"] == ["bytes", "20,416"]
    assert words["tokens"] == ["tokens", "20,416", "(byte,", "vocabulary", "256)"]
    assert words["occurring"][:2] == ["occurring", f"{len(set(load_corpus(BYTES).text.encode()))}"]
    assert words["bytes/token"] == ["bytes/token", "1.00"]
    assert words["sha256"] == ["sha256", "aca588c1e7e989b2…"]
    parts = [[int(number.replace(",", "")) for number in words[split][2:]] for split in ("train", "val", "test")]
    assert sum(size for size, _, _ in parts) == 20_416
    assert all(size == tokens == targets + 1 for size, tokens, targets in parts)
    assert [words[split][1] for split in ("train", "val", "test")] == ["80%", "10%", "10%"]
    assert "Fellow-Citizens of the Senate and House of Representatives:" in done.stdout
    assert "public domain" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_show_a_file(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("[bold]First[/bold]\x1b[31m :smile:\n\n" + "A long second line. " * 20, encoding="utf-8")
    done = run(cache, "show", str(file))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "[bold]First[/bold]\ufffd[31m :smile:" in lines  # shown literally, without colour
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("A long second line.")
    assert lines[-1].endswith("…")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "sotu-1821"], "data.corpus: unknown corpus 'sotu-1821'; did you mean sotu-1820? allowed: "),
        (["show", "x" * 300], "data.corpus: unknown corpus 'xxx"),
        (["show", "missing.txt"], "data.path: found no file for 'missing.txt' in "),
        (["show", "harness/core"], "data.path: found no text in the folder 'harness/core'; allowed: files that end in"),
        (["show", "sotu-1820", "-t", "gpt-2"], "data.tokenizer: unknown tokenizer 'gpt-2'; did you mean gpt2?"),
        (["list", "-t", "words"], "data.tokenizer: unknown tokenizer 'words'"),
    ],
)
def test_errors_are_one_sentence(arguments: list[str], sentence: str, cache: Path) -> None:
    done = run(cache, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_show_a_table(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    rows = "".join(f"{n},some text\n" for n in range(100))
    file.write_text("id,body\n" + rows)
    done = run(cache, "show", str(file), "--field", "body")
    assert done.returncode == 0, done.stderr
    assert ["documents", "100"] in [line.split() for line in done.stdout.splitlines()] and "some text" in done.stdout
    assert run(cache, "show", str(file)).stderr.endswith("rows.csv'; allowed: one of 'id', 'body'\n")
    file.with_suffix(".txt").write_text(rows.replace(",", ",,"))
    done = run(cache, "show", str(file.with_suffix(".txt")))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("rows.txt' looks like CSV: a spec needs data.format: text to read it as it is\n")
