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
from harness.config.run import DataConfig
from harness.config.yaml import parse_yaml
from harness.data import open_dataset
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
def test_text_comes_in(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "root")
    shutil.copytree(ROOT / "experiments", sandbox.folder / "experiments")
    text, parquet = part("Your own text"), part("A Parquet file, and validation text of your own")
    tokens = part("Tokens that nanoGPT has prepared")
    scripts = [words for script in blocks(text + parquet + tokens, "sh") for words in split_commands(script)]
    with contextlib.chdir(sandbox.folder):
        for words in scripts:
            if words[:2] == ["python", "-c"]:
                exec(compile(words[2], PAGE, "exec"), {})
    [show, sweep, show_tokens] = [words[2:] for words in scripts if words[1] == "-m"]
    shown = call(sandbox, *show[1:], module=f"{show[0]}.__main__")
    assert shown.returncode == 0, shown.stderr
    for line in blocks(text, "")[0].splitlines():
        assert line in [found.rstrip() for found in shown.stdout.splitlines()]
    assert blocks(text, "yaml")[0] in (sandbox.folder / sweep[1]).read_text("utf-8")
    done = call(sandbox, *sweep[1:], *FEW)
    assert done.returncode == 0, done.stderr
    hashes = set()
    for spec in blocks(text + parquet, "yaml"):
        config = DataConfig.model_validate(parse_yaml(spec, PAGE).values["data"])
        data = open_dataset(config, sandbox.folder, tmp_path / "cache")
        hashes.add(data.sha256)
        assert data.corpus.document_count + sum(own.document_count for own in data.corpus.held_out.values()) == 699
    assert len(hashes) == 2  # JSON Lines and Parquet have the same text
    assert '{"id": 0, "body":' in call(sandbox, *show_tokens[1:], module=f"{show[0]}.__main__").stdout
    [spec] = blocks(tokens, "yaml")
    ids = open_dataset(
        DataConfig.model_validate(parse_yaml(spec, PAGE).values["data"]), sandbox.folder, tmp_path / "cache"
    )
    assert (len(ids.val), len(ids.test)) == (9000, 0)
    assert ids.codec.decode([*ids.train, *ids.val]) == (sandbox.folder / "speeches.jsonl").read_text("utf-8")


@pytest.mark.slow
def test_a_mixture_of_texts(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "root")
    shutil.copytree(ROOT / "experiments", sandbox.folder / "experiments")
    text = part("A mixture of texts")
    [make, sweep] = [words for script in blocks(text, "sh") for words in split_commands(script)]
    with contextlib.chdir(sandbox.folder):
        exec(compile(make[2], PAGE, "exec"), {})
    path = sandbox.folder / sweep[3]
    [written] = blocks(text, "yaml")
    assert written in path.read_text("utf-8")
    # workers of the tests run in another folder
    path.write_text(path.read_text("utf-8").replace("path: code.txt", f"path: {sandbox.folder}/code.txt"), "utf-8")
    done = call(sandbox, *sweep[3:], *FEW)
    assert done.returncode == 0, done.stderr
    report = (sandbox.folder / "reports" / "mix" / "report.md").read_text("utf-8")
    table = report.partition("## Losses by source")[2].partition("Means over")[0]
    shares = [[cell.strip() for cell in line.split("|")[1:4]] for line in table.splitlines() if " % |" in line]
    wanted = [["code", "50 %"], ["code", "80 %"], ["speeches", "50 %"], ["speeches", "20 %"]]
    assert [row[1:] for row in shares] == wanted
    runs = load_runs("mix", sandbox.uri)
    assert set(runs["data.mix.code.weight"]) == {1.0, 4.0}
    assert runs["data_fingerprint"].nunique() == 1
    for split in ("val", "test"):  # by tokens: the loss of all lies between those of the sources
        sources = runs[[f"{split}/loss_code", f"{split}/loss_speeches"]]
        assert ((sources.min(axis=1) < runs[f"{split}/loss"]) & (runs[f"{split}/loss"] < sources.max(axis=1))).all()
    [run, *_] = runs["run_id"]
    again = call(sandbox, run, module="harness.replay")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.partition("\n\n")[2].startswith("Bit-equal: ")


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


@pytest.mark.slow
def test_a_tokenizer_of_ones_own(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "root")
    shutil.copytree(ROOT / "experiments", sandbox.folder / "experiments")
    text = part("Your own tokenizer")
    [make, show, sweep] = [words for script in blocks(text, "sh") for words in split_commands(script)]
    with contextlib.chdir(sandbox.folder):
        exec(compile(make[2], PAGE, "exec"), {})
    shown = call(sandbox, *show[3:], module="harness.data.__main__")
    assert shown.returncode == 0, shown.stderr
    assert "(./my-tokenizer.json, vocabulary 2,000)" in shown.stdout
    # workers of the tests run in another folder
    path = sandbox.folder / sweep[3]
    [written] = blocks(text, "yaml")
    spec = path.read_text("utf-8")
    assert written in spec
    path.write_text(spec.replace("./my", f"{sandbox.folder}/my"), "utf-8")
    done = call(sandbox, *sweep[3:], "--set", "train.budget.epochs=0.5", "--set", "study.seeds=1", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "Val bits per byte" in done.stdout
    for label in ("gpt2", "my-tokenizer.json", "bpe-1000", "char"):
        assert f"tokenizer {label}" in done.stdout
