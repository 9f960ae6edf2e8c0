"""The worked examples of `experiments/bring_your_own/README.md`, run as they stand there."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import pytest

from documents import TEXTS, blocks, split_commands
from harness.tracking import load_runs
from in_process import call
from paths import ROOT
from sandbox import Sandbox

PAGE = "experiments/bring_your_own/README.md"
FEW = ("--set", "train.budget.tokens=512", "--set", "study.seeds=1", "--workers", "1")  # a test needs no result


def part(heading: str) -> str:
    """What stands under a heading."""
    return re.split(r"^## ", TEXTS[PAGE].partition(f"## {heading}\n")[2], flags=re.MULTILINE)[0]


@pytest.mark.slow
def test_weights_come_in_and_go_out(tmp_path: Path) -> None:
    import gpt2_folders  # noqa: F401 (sets transformers to work offline)

    pytest.importorskip("transformers", reason="transformers is not installed")
    sandbox = Sandbox(tmp_path / "root")
    shutil.copytree(ROOT / "experiments", sandbox.folder / "experiments")
    [make, sweep] = [words for script in blocks(part("Your own weights"), "sh") for words in split_commands(script)]
    with contextlib.chdir(sandbox.folder):
        exec(compile(make[2], PAGE, "exec"), {})
    done = call(sandbox, *sweep[3:], *FEW)
    assert done.returncode == 0, done.stderr
    assert "from scratch" in done.stdout and "from ./gpt2-small" in done.stdout
    [shown] = blocks(part("Your own weights"), "yaml")
    assert shown in (sandbox.folder / sweep[3]).read_text("utf-8")

    [command] = [words for script in blocks(part("Back to transformers"), "sh") for words in split_commands(script)]
    runs = load_runs("finetune", sandbox.uri)
    [run] = runs.loc[runs["model.init_from"] == "./gpt2-small", "run_id"]
    assert command[3:] == ["RUN", "DIR"]
    assert call(sandbox, run, "exported", module=command[2]).returncode == 0
    [code] = blocks(part("Back to transformers"), "python")
    with contextlib.chdir(sandbox.folder), contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(code, PAGE, "exec"), {})
    assert said.getvalue().startswith("Every effort")
    config = json.loads((sandbox.folder / "exported" / "config.json").read_text("utf-8"))
    assert (config["n_positions"], config["tie_word_embeddings"], config["qkv_bias"]) == (64, True, True)
