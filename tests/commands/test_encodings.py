"""Every command on terminals of every encoding: it ends as on a UTF-8 terminal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from in_process import call
from sandbox import Sandbox

pytestmark = pytest.mark.slow

SPEC = """\
name: tiny
question: "Größer ≥ besser – \U0001f600?"
data: {path: "Grüße ± Δ.txt", tokenizer: byte}
model: {context_length: 16, emb_dim: 8, n_heads: 2, n_layers: 1}
train:
  budget: {steps: 8}
  batch_tokens: 32
  eval_every: {steps: 4}
  train_eval_tokens: 64
  sample: {max_new_tokens: 8, temperature: 2.0, prompt: "é ± Δ \U0001f600 日本"}
compare: {model.drop_rate: [0.0, 0.1]}
tune:
  train.learning_rate: {log_uniform: [1e-3, 1e-2]}
study: {sampler: random, trials: 1, seeds: {min: 2, max: 4}}
"""
TEXT = "Über ± Δ → \U0001f600 日本 “quoted” …\n" * 300
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A finished sweep that was run on a terminal that has ASCII only."""
    folder = tmp_path_factory.mktemp("sweep")
    found = Sandbox(folder, SPEC.replace("Grüße", f"{folder}/Grüße"))  # the workers run in another folder
    (found.folder / "Grüße ± Δ.txt").write_text(TEXT, "utf-8")
    done = call(found, "tiny.yaml", encoding="ascii")
    assert done.returncode == 0, done.stderr
    assert (
        "+-" in done.stdout
        and "Delta to baseline" in done.stdout
        and r"Gr\xf6\xdfer >= besser - \U0001f600?" in done.stdout
    )
    log = (found.folder / "mlruns" / "tiny.log").read_text("utf-8")
    assert "Größer ≥ besser – \U0001f600?" in log
    return found


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_every_command_ends_as_on_a_utf_8_terminal(encoding: str, sandbox: Sandbox) -> None:
    first, second = [run.info.run_id for run in sandbox.runs()[1] if run.data.tags["harness.phase"] == "confirm"][:2]
    commands = [
        ("harness.sweep", 0, ["tiny.yaml", "--plain"]),
        ("harness.sweep", 0, ["tiny.yaml", "--status"]),
        ("harness.sweep", 0, ["tiny.yaml", "--plan"]),
        ("harness.sweep", 2, ["größer.yaml", "--set", "modell.größe=1"]),
        ("harness.sweep", 0, ["--help"]),
        ("harness.report.__main__", 0, ["tiny"]),
        ("harness.report.__main__", 2, ["tiny", "tiny"]),
        ("harness.report.__main__", 2, ["größer"]),
        ("harness.compare", 0, [first, second]),
        (
            "harness.generate",
            0,
            [first, "--prompt", "é ± Δ \U0001f600", "--temperature", "2", "--max-new-tokens", "200"],
        ),
        ("harness.generate", 2, ["größer"]),
        ("harness.data.__main__", 0, ["show", "Grüße ± Δ.txt", "-t", "byte"]),
        ("harness.data.__main__", 0, ["list", "-t", "byte"]),
        ("harness.data.__main__", 2, ["show", "größer"]),
    ]
    for module, code, arguments in commands:
        done = call(sandbox, *arguments, module=module, encoding=encoding)
        assert done.returncode == code, (module, arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert (done.stderr if code else done.stdout).strip()


def test_a_sweep_in_the_c_locale(tmp_path: Path) -> None:
    """Not only the output is ASCII: names of files and arguments are, too."""
    spec = SPEC.replace("Grüße ± Δ.txt", "Gr*.txt").replace("seeds: {min: 2, max: 4}", "seeds: 2")
    sandbox = Sandbox(tmp_path, spec)
    (sandbox.folder / "Grüße ± Δ.txt").write_text(TEXT, "utf-8")
    with sandbox.start("tiny.yaml", environment={**os.environ, **C_LOCALE}) as sweep:
        assert sweep.ended() == 0, sweep.said
    assert sweep.said.isascii() and "Traceback" not in sweep.said
    assert (sandbox.folder / "reports" / "tiny" / "report.html").exists()
    log = (sandbox.folder / "mlruns" / "tiny.log").read_text("utf-8")
    assert "Größer ≥ besser – \U0001f600?" in log


def test_first_lines_of_a_text_fit_the_window(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, SPEC)
    (tmp_path / "text.txt").write_text("é ± Δ … " * 100 + "\n" + "x" * 900, "utf-8")
    done = call(sandbox, "show", "text.txt", "-t", "byte", module="harness.data.__main__", encoding="ascii")
    first, second = done.stdout.splitlines()[-2:]
    assert first.startswith(r"\xe9 +- Delta ... \xe9") and second.startswith("xxx")
    assert max(len(first), len(second)) <= 80 and first.endswith("~")
