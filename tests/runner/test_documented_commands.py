"""Every command of the harness that a document prints is run, on small sweeps of the names that it has there."""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

from documents import ALL, PLACEHOLDERS, TEXTS, blocks, commands_of
from harness.config.load import load_spec
from in_process import call
from sandbox import SPEC, Sandbox

pytestmark = pytest.mark.slow

RUN_BY_OTHERS = {"harness.bench"}  # takes half a minute: tests/commands/test_bench.py runs it
RUN_WHOLE = {"experiments/bring_your_own/README.md"}  # tests/runner/test_bring_your_own.py runs its commands in order
# A sweep that a command starts is made small, whatever spec it has.
SMALL = ["--set", "train.budget.tokens=2_048", "--set", "study={trials: 1, seeds: 2}", "--workers", "2"]
TUTORIAL = TEXTS["experiments/README.md"]
NAMES = {name: PLACEHOLDERS[name] for name in ("SPEC", "[SPEC]", "NAME")}  # so that the same command is run once
COMMANDS = sorted(
    {
        shlex.join([NAMES.get(word, word) for word in shlex.split(command)])
        for document, command in ALL
        if command.startswith("python -m harness.") and document not in RUN_WHOLE
    }
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A folder with two finished sweeps, named as in the documents, and with the files of the tutorial."""
    sandbox = Sandbox(tmp_path_factory.mktemp("project"))
    experiments = sandbox.folder / "experiments"
    experiments.mkdir()
    for name in ("dropout", "qkv_bias"):
        (experiments / f"{name}.yaml").write_text(SPEC.replace("name: tiny", f"name: {name}"), "utf-8")
        assert call(sandbox, f"experiments/{name}.yaml", *SMALL).returncode == 0
    (experiments / "my.yaml").write_text(blocks(TUTORIAL, "yaml")[0], "utf-8")
    [code] = [words[2] for words in commands_of(TUTORIAL) if words[:2] == ["python", "-c"]]
    with (sandbox.folder / "my.txt").open("w", encoding="utf-8") as text, contextlib.redirect_stdout(text):
        exec(compile(code, "experiments/README.md", "exec"), {})
    return sandbox


def runs_with_a_checkpoint(sandbox: Sandbox) -> list[str]:
    experiment = sandbox.client.get_experiment_by_name("dropout")
    assert experiment is not None
    runs = sandbox.client.search_runs([experiment.experiment_id], "tags.`harness.phase` = 'confirm'")
    return [run.info.run_id for run in runs]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_documents_runs(command: str, project: Sandbox) -> None:
    _, _, module, *arguments = shlex.split(command)
    if module in RUN_BY_OTHERS or not arguments:
        pytest.skip("run by another test" if arguments else "only the name of a command")
    first, second = runs_with_a_checkpoint(project)[:2]
    given = {**PLACEHOLDERS, "RUN": first, "RUN_A": first, "RUN_B": second}
    arguments = [given.get(word, word) for word in arguments]
    if "--ray" in arguments:
        pytest.skip("needs a cluster: tests/runner/test_cluster.py runs it")
    if module == "harness.sweep":
        mine = Path(arguments[0]).name == "my.yaml"
        # Workers run in another folder, so the text needs its whole path. The tutorial's model would take minutes.
        own = ["--set", f"data.path={project.folder / 'my.txt'}", "--set", "model.emb_dim=32"] if mine else []
        arguments += own if {"--plan", "--status"} & set(arguments) else [*own, *SMALL]
    if module == "harness.report" and arguments == ["audit"]:
        pytest.skip("takes minutes: tests/analysis/test_simulation.py runs a part of it")
    in_a_package = module in ("harness.data", "harness.report")
    done = call(project, *arguments, module=f"{module}.__main__" if in_a_package else module)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_the_notebook_code_of_the_documents_runs(project: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = [body for body in blocks(TEXTS["reports/README.md"], "python") if "load_model" in body]
    monkeypatch.chdir(project.folder)
    matplotlib.use("agg")
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code.replace('"RUN"', repr(runs_with_a_checkpoint(project)[0])), names)
    spec = Path("best.yaml")
    spec.write_text(printed.getvalue(), "utf-8")
    best = load_spec(spec)
    table = names["compare"](names["runs"]).set_index("arm")
    assert {best.base.model.drop_rate} == {float(str(table["mean"].idxmin()).partition("=")[2])}
    assert best.seeds == (best.base.train.seed,)
    model, ids = names["model"], names["tokenizer"].encode("Every effort")
    assert model(torch.tensor([ids])).shape == (1, len(ids), 256) and not model.training
