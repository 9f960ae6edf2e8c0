"""Options of every command: a wrong one is reported in one line with exit code 2, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import harness.data.__main__ as data
import harness.report.__main__ as report
import warm_start
from harness import bench, export, generate, replay, sweep
from harness.compare import app as compare_app
from harness.console.cli import out

SPEC = """\
name: tiny
data: {corpus: sotu-1820, tokenizer: byte}
model: {context_length: 32, emb_dim: 32, n_heads: 2, n_layers: 1}
train: {budget: {tokens: 512}, batch_tokens: 256}
"""

WRONG: list[tuple[typer.Typer, list[str], str]] = [
    (sweep.app, [], "SPEC: found nothing; allowed: "),
    (sweep.app, ["missing.yaml"], "missing.yaml: cannot be read: No such file or directory"),
    (sweep.app, ["folder"], "folder: cannot be read: Is a directory"),
    (sweep.app, ["dangling.yaml"], "dangling.yaml: cannot be read: No such file or directory"),
    (sweep.app, ["tiny.yaml", "extra"], "Got unexpected extra argument"),
    (sweep.app, ["tiny.yaml", "--nosuch"], "No such option: --nosuch"),
    (sweep.app, ["tiny.yaml", "--workers"], "Option '--workers' requires an argument"),
    (sweep.app, ["tiny.yaml", "--workers", "0"], "--workers: found '0'; allowed: a whole number from 1 to "),
    (sweep.app, ["tiny.yaml", "--workers", "two"], "--workers: found 'two'; allowed: a whole number from 1 to "),
    (sweep.app, ["tiny.yaml", "--threads", "-1"], "--threads: found '-1'; allowed: a whole number from 1 to "),
    (sweep.app, ["tiny.yaml", "--threads", "9" * 9999], "--threads: found '999"),
    (sweep.app, ["tiny.yaml", "--patience", "0"], "--patience: found '0'; allowed: a number at least 1"),
    (sweep.app, ["tiny.yaml", "--patience", "nan"], "--patience: found 'nan'; allowed: a number at least 1"),
    (
        sweep.app,
        ["tiny.yaml", "--noise-floor", "1"],
        "--noise-floor: found '1'; allowed: a whole number from 2 to 1000",
    ),
    (sweep.app, ["tiny.yaml", "--set", "a"], "--set a: allowed: path=value"),
    (sweep.app, ["tiny.yaml", "--set", "=1"], "--set =1: allowed: path=value"),
    (sweep.app, ["tiny.yaml", "--set", "model.drop_rate=[1"], "--set model.drop_rate=[1: model.drop_rate: is not"),
    (
        sweep.app,
        ["tiny.yaml", "--set", "model.droprate=0"],
        "--set model.droprate=0: model.droprate: unknown field 'droprate'; did you mean drop_rate? allowed: ",
    ),
    (sweep.app, ["tiny.yaml", "--tracking", "nonsense://"], "--tracking: found 'nonsense://'; allowed: "),
    (sweep.app, ["tiny.yaml", "--storage", "nonsense"], "--storage: found 'nonsense' ("),
    (sweep.app, ["tiny.yaml", "--status", "--storage", "nonsense"], "--storage: found 'nonsense' ("),
    (sweep.app, ["tiny.yaml", "--reports", "tiny.yaml"], "--reports: found '"),
    (generate.app, ["nosuch"], "found no MLflow store at "),
    (generate.app, ["nosuch", "--tracking", "nonsense://"], "--tracking: found 'nonsense://'; allowed: "),
    (generate.app, ["folder"], "folder: found no checkpoint.json; a checkpoint has both files"),
    (generate.app, ["folder", "--prompt", ""], "--prompt: found an empty text; allowed: "),
    (generate.app, ["folder", "--prompt", "a\udcff"], r"--prompt: found 'a\udcff'; allowed: a text in UTF-8"),
    (generate.app, ["folder", "--top-k", "0"], "--top-k: found '0'; allowed: a whole number at least 1"),
    (generate.app, ["folder", "--temperature", "inf"], "--temperature: found 'inf'; allowed: a number at least 0"),
    (report.app, [], "NAME: found nothing; allowed: "),
    (report.app, ["nosuch"], "found no MLflow store at "),
    (report.app, ["nosuch", "--tracking", "nonsense://"], "--tracking: found 'nonsense://'; allowed: "),
    (report.app, ["../x"], "experiment: found '../x'; allowed: letters"),
    (data.app, ["nosuch"], "No such command 'nosuch'"),
    (data.app, ["show"], "corpus: found nothing; allowed: "),
    (data.app, ["show", "nosuch"], "data.corpus: unknown corpus 'nosuch'; allowed: sotu"),
    (data.app, ["show", "x", "--nosuch"], "No such option: --nosuch"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "tiny.yaml").write_text(SPEC)
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    return tmp_path


@pytest.mark.parametrize(
    ("app", "arguments", "message"), WRONG, ids=[" ".join(arguments)[:40] or "nothing" for _, arguments, _ in WRONG]
)
def test_a_wrong_option_gives_one_line(app: typer.Typer, arguments: list[str], message: str, folder: Path) -> None:
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (2, ""), repr(result.exception)
    assert result.stderr.startswith(message)
    assert result.stderr.removesuffix("\n").isprintable() and result.stderr.endswith("\n")
    assert sorted(path.name for path in folder.iterdir()) == ["dangling.yaml", "folder", "tiny.yaml"]


@pytest.mark.parametrize("app", [sweep.app, generate.app, report.app, replay.app, export.app, compare_app, bench.app])
def test_help_has_two_examples_in_80_columns(app: Any) -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: ") and "{" not in result.stdout
    assert result.stdout.count("\n  python -m harness.") >= 2
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_the_options_of_a_sweep_are_in_groups() -> None:
    said = CliRunner().invoke(sweep.app, ["--help"]).stdout
    groups = [line for line in said.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert groups == [
        *("Arguments:", "What is trained:", "Show, and train nothing:", "Where runs train:", "Stores and files:"),
        *("What is printed:", "Options:", "Examples:", "Environment:"),
    ]
    assert said.index("Where runs train:") < said.index("--ray ADDRESS") < said.index("Stores and files:")


def test_the_audit_has_a_help_of_its_own() -> None:
    said = CliRunner().invoke(report.app, ["audit", "--help"])
    assert said.exit_code == 0 and "simulated sweeps whose truth is known" in said.stdout
    wrong = CliRunner().invoke(report.app, ["audit", "dropout"])
    assert (wrong.exit_code, wrong.stdout, len(wrong.stderr.splitlines())) == (2, "", 1)


def test_a_group_without_a_command_shows_its_help() -> None:
    assert "Usage" in CliRunner().invoke(data.app, []).output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("sweep", ["missing.yaml"], "missing.yaml: cannot be read"),
        ("sweep", ["tiny.yaml", "--workers", "0"], "--workers: found '0'"),
        ("sweep", ["tiny.yaml", "--tracking", "nonsense://"], "--tracking: found 'nonsense://'"),
        ("report", ["nosuch"], "found no MLflow store"),
    ],
)
def test_as_a_process(module: str, arguments: list[str], message: str, folder: Path) -> None:
    done = warm_start.run(["-m", f"harness.{module}", *arguments], folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["dangling.yaml", "folder", "tiny.yaml"]


HOSTILE = """\
name: hostile
question: "<script>alert(1)</script> [/bold] {{ 7 }} :smile:?"
data: {path: "[/x].txt", tokenizer: byte}
model: {context_length: 8, emb_dim: 8, n_heads: 2, n_layers: 1}
train: {budget: {tokens: 64}, batch_tokens: 32}
compare: {data.path: ["[/x].txt", "\\e[31mred\\nline\\r\\a", "<b>:smile:<b>", "\\u202eabc"]}
study: {seeds: 2}
"""


@pytest.mark.slow
def test_markup_and_control_characters_in_values_are_shown_literally(folder: Path) -> None:
    (folder / "[").mkdir()
    for name in ("[/x].txt", "\x1b[31mred\nline\r\x07", "<b>:smile:<b>", "\u202eabc"):
        (folder / name).write_text("[/y] \x1b[31m :smile: text " * 30)
    (folder / "hostile.yaml").write_text(HOSTILE)
    result = CliRunner().invoke(sweep.app, ["hostile.yaml", "--plan"])
    assert result.exit_code == 0, repr(result.exception)
    for name in ("[/x].txt", r'"\u001b[31mred\nline\r\u0007"', "<b>:smile:<b>", r'"\u202eabc"'):
        assert f"path={name}" in result.stdout
    assert result.stdout.replace("\n", "").isprintable()
    status = CliRunner().invoke(sweep.app, ["hostile.yaml", "--status"])
    assert status.exit_code == 0 and "<script>alert(1)</script> [/bold] {{ 7 }} :smile:?" in status.stdout
    shown = CliRunner().invoke(data.app, ["show", "[/x].txt", "-t", "byte"])
    assert shown.exit_code == 0, repr(shown.exception)
    assert "[/y] \ufffd[31m :smile: text" in shown.stdout and "\x1b" not in shown.output


def test_printed_text_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    out.print("a\x1b]0;title\x07 [red]b[/red] :smile:\r\n\tc\x9b1m", soft_wrap=True)
    assert capsys.readouterr().out == r"a\x1b]0;title\x07 [red]b[/red] :smile:\r" + "\n        c\\x9b1m\n"
