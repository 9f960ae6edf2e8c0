"""Every document says what is true of the code: its commands, links, paths, Python code, specs and field names."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import itertools
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from documents import ALL, COMMANDS, INLINE, LIMITS, PLACEHOLDERS, TEXTS, blocks, commands_of, prose
from harness.config.fields import field_paths, is_field
from harness.config.load import load_spec
from harness.config.spec import SweepSpec
from harness.config.study import StudyConfig
from paths import ROOT

# Tools whose own options are not checked here.
TOOLS = {
    "git",
    "pip",
    "pip-audit",
    "python3",
    "uv",
    "pre-commit",
    "mypy",
    "ruff",
    ".",
    "psql",
    "pg_dump",
    "export",
    "ray",
    "sbatch",
}
PYTEST_OPTIONS = {"-n", "-q", "-m", "-k", "-x", "--dist", "--durations", "--lf"}
# Files that a reader of the tutorial makes.
TUTORIAL = {"my.txt", "experiments/my.yaml"}


def parsed(app: Any, arguments: Sequence[str]) -> dict[str, Any]:
    """The parameters that a typer application gets from arguments; nothing is run."""
    command = app if hasattr(app, "make_context") else typer.main.get_command(app)
    context = command.make_context("command", list(arguments))
    if not hasattr(command, "resolve_command"):
        return dict(context.params)
    rest = [*context._protected_args, *context.args]
    name, chosen, rest = command.resolve_command(context, rest)
    return dict(chosen.make_context(name, rest, parent=context).params)


def check_harness(name: str, arguments: Sequence[str]) -> None:
    """A command of the harness takes these arguments; a sweep's spec and settings can be read."""
    arguments = [PLACEHOLDERS.get(word, word) for word in arguments]
    if not arguments or "--help" in arguments:  # the command's name
        return
    place = importlib.import_module(f"harness.{name}")
    app = place.app if hasattr(place, "app") else importlib.import_module(f"harness.{name}.__main__").app
    found = parsed(app, arguments)
    if name == "sweep" and str(found["spec_file"]) not in TUTORIAL:
        load_spec(ROOT / found["spec_file"], found["settings"] or [])


def check_script(path: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A script of the tests takes these arguments, by its own parser; nothing is run."""
    import argparse

    class Parsed(Exception):
        """The script's arguments are good."""

    def stop(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        read(self)
        raise Parsed

    read = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / path), run_name="__main__")


def check_mlflow(arguments: Sequence[str]) -> None:
    """MLflow has this command and these options. Its source is read, as importing it takes seconds."""
    [folder] = importlib.util.find_spec("mlflow").submodule_search_locations  # type: ignore[union-attr, misc]
    source = (Path(folder) / "cli" / "__init__.py").read_text("utf-8")
    assert f"def {arguments[0]}(" in source or f'"{arguments[0]}"' in source, arguments[0]
    shared = (Path(folder) / "utils" / "cli_args.py").read_text("utf-8")
    for word in arguments[1:]:
        assert not word.startswith("--") or f'"{word}"' in source + shared, word


def check_pytest(arguments: Sequence[str]) -> None:
    """The options are known, files and tests are there, and markers are declared."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
    markers = {marker.partition(":")[0] for marker in settings["markers"]}
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            path, _, test = word.partition("::")
            assert (ROOT / path).exists(), path
            assert test in (ROOT / path).read_text("utf-8") if test else True, word
            continue
        assert word.partition("=")[0] in PYTEST_OPTIONS, word
        if word in ("-n", "-m", "-k", "--dist"):
            value = next(words)
            assert word != "-m" or set(re.findall(r"\w+", value)) - {"not", "and", "or"} <= markers, value


@pytest.mark.parametrize(("document", "command"), ALL)
def test_a_command_can_be_given(document: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), shlex.split(command)))
    match words:
        case ["python", "-m", module, *arguments] if module.removeprefix("harness.") in COMMANDS:
            check_harness(module.removeprefix("harness."), arguments)
        case ["python", "-m", "mlflow", *arguments]:
            check_mlflow(arguments)
        case ["python", "-c", code]:
            compile(code, document, "exec")
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module), module
        case ["python", script, *arguments]:
            check_script(script, arguments, monkeypatch)
        case ["pytest", *arguments]:
            check_pytest(arguments)
        case _:
            assert words[0] in TOOLS, command


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_help(name: str) -> None:
    place = importlib.import_module(f"harness.{name}")
    app = place.app if hasattr(place, "app") else importlib.import_module(f"harness.{name}.__main__").app
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    assert "Usage" in done.stdout


# The tutorial ----------------------------------------------------------------------------------------------------

TUTORIAL_TEXT = TEXTS["experiments/README.md"]


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the tutorial's text and its spec."""
    folder = tmp_path_factory.mktemp("tutorial")
    [code] = [words[2] for words in commands_of(TUTORIAL_TEXT) if words[:2] == ["python", "-c"]]
    spec = blocks(TUTORIAL_TEXT, "yaml")[0]
    (folder / "experiments").mkdir()
    (folder / "experiments" / "my.yaml").write_text(spec, "utf-8")
    with pytest.MonkeyPatch.context() as patch, (folder / "my.txt").open("w", encoding="utf-8") as text:
        patch.setattr(sys, "stdout", text)
        exec(compile(code, "experiments/README.md", "exec"), {})
    yield folder


def test_the_tutorial_shows_its_text_as_it_is(tutorial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.data.__main__ import app

    monkeypatch.chdir(tutorial)
    done = CliRunner().invoke(app, ["show", "my.txt"])
    assert done.exit_code == 0, done.stderr
    [shown] = [body for body in blocks(TUTORIAL_TEXT, "") if "occurring" in body]
    for line in filter(str.strip, shown.splitlines()):
        assert line in done.stdout


def test_the_tutorials_spec_and_its_settings_can_be_read(tutorial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.cost.estimate import plan_arms
    from harness.runner.datasets import Datasets

    monkeypatch.chdir(tutorial)
    datasets = Datasets()
    specs: list[SweepSpec] = []
    for words in commands_of(TUTORIAL_TEXT):
        if words[:3] == ["python", "-m", "harness.sweep"] and words[3] == "experiments/my.yaml":
            settings = [after for word, after in itertools.pairwise(words) if word == "--set"]
            specs.append(load_spec(Path(words[3]), settings, datasets.split_sizes, datasets.codec))
    assert {spec.name for spec in specs} == {"my", "my-longer"}
    [planned] = [body for body in blocks(TUTORIAL_TEXT, "") if "FLOPs/run" in body]
    for arm in plan_arms(specs[0], datasets.train_tokens(specs[0])):
        assert specs[0].labels.of[arm.name] in planned
        assert f"{arm.cost.parameters:,}" in planned


def test_a_status_can_be_asked_for_before_there_is_a_sweep(tutorial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.sweep import app

    monkeypatch.chdir(tutorial)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    done = CliRunner().invoke(app, ["experiments/my.yaml", "--status"])
    assert done.exit_code == 0, done.stderr
    assert "not started" in done.stdout


def test_the_run_without_a_sweep_trains(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    torch.set_num_threads(1)  # as in the other tests: conftest sets it where torch was imported by then
    [code] = [body for body in blocks(TEXTS["reports/README.md"], "python") if "RunConfig" in body]
    exec(compile(code, "reports/README.md", "exec"), {})
    assert "4096 {" in capsys.readouterr().out


# Links, paths, code and names --------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_somewhere(name: str) -> None:
    text = prose(TEXTS[name])
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text("utf-8")), link


# What is made by sweeps, or by a reader.
MADE = re.compile(
    r"(mlruns|reports|build)/.*|\.venv/.*|(report|curves|runs|comparison)\.\w+|(figures|tables|artifacts|models)/"
)


def paths_in(text: str) -> Iterator[str]:
    """What looks like a path of the repository in a document's backticks."""
    for code in INLINE.findall(prose(text)):
        word = code.partition(" ")[0].partition("::")[0]
        is_file = re.fullmatch(r"[\w./-]+\.(py|md|yaml|toml|j2|css|js|txt)", word)
        is_folder = re.fullmatch(r"[\w.-]+(/[\w.-]+)*/", word)
        if (is_file or is_folder) and word not in TUTORIAL and not MADE.fullmatch(word):
            yield code


@pytest.mark.parametrize("name", TEXTS)
def test_every_path_is_there(name: str) -> None:
    folder = (ROOT / name).parent
    for code in paths_in(TEXTS[name]):
        word, _, test = code.partition(" ")[0].partition("::")
        found = [place / word for place in (folder, ROOT, ROOT / "harness", ROOT / "tests") if (place / word).exists()]
        assert found, f"{name}: {word}"
        assert not test or re.search(rf"^def {test}", found[0].read_text("utf-8"), re.MULTILINE), f"{name}: {code}"


def test_every_fault_names_its_test() -> None:
    text = TEXTS["mlruns/README.md"]
    table = text[text.index("| fault |") :].split("\n\n")[0]
    named = [re.search(r"`(?:([\w/]+\.py)::)?(test_\w+)` \|$", row) for row in table.splitlines()[2:]]
    assert len(named) > 20 and all(named)
    faults = (ROOT / "tests" / "runner" / "test_faults.py").read_text("utf-8")
    there = set(re.findall(r"^def (test_\d\d)_", faults, re.MULTILINE))
    assert {found[2] for found in named if found and not found[1]} == there
    for found in named:
        if found and found[1]:
            source = (ROOT / "tests" / found[1]).read_text("utf-8")
            assert re.search(rf"^def {found[2]}\(", source, re.MULTILINE), found[0]


def test_every_row_of_the_threat_model_names_its_tests() -> None:
    text = TEXTS["mlruns/README.md"]
    rows = text[text.index("| who can write it |") :].splitlines()[2:]
    there = set(re.findall(r"^def (test_\w+)\(", (ROOT / "tests" / "test_trust.py").read_text("utf-8"), re.MULTILINE))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.split("|")[-2])
        assert len(row.split("|")) == 7 and named and set(named) <= there, row
    assert len(rows) > 8


@pytest.mark.parametrize("name", TEXTS)
def test_python_code_compiles_and_its_imports_are_there(name: str) -> None:
    for code in blocks(TEXTS[name], "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness"):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{name}: {node.module} has no {alias.name}"


STUDY = {f"study.{field}" for field in StudyConfig.model_fields}


@pytest.mark.parametrize("name", TEXTS)
def test_every_field_of_a_spec_is_there(name: str) -> None:
    fields = {*field_paths(), *STUDY}
    sections = {path.rpartition(".")[0] for path in fields}
    for code in INLINE.findall(prose(TEXTS[name])):
        for path in re.findall(r"(?<![\w./])(?:data|model|train|study)\.[a-z_0-9.]+", code):
            known = is_field(path) or path in fields or path in sections or path.startswith("study.seeds.")
            assert known or path.endswith((".py", ".safetensors", ".md", ".bin")), f"{name}: {path}"


@pytest.mark.parametrize("name", LIMITS)
def test_a_document_is_short(name: str) -> None:
    assert len(TEXTS[name].splitlines()) <= LIMITS[name]


def test_there_are_eight_recipes_and_each_names_a_test_that_fails() -> None:
    text = TEXTS["CONTRIBUTING.md"]
    recipes = re.split(r"^### ", text[text.index("## Recipes") :], flags=re.MULTILINE)[1:]
    assert len(recipes) == 8
    for recipe in recipes:
        assert "`tests/" in recipe.partition("Forgotten")[2], recipe.splitlines()[0]


def test_the_readme_has_the_test_command() -> None:
    """`.ci/run` reads the block behind this comment."""
    [command] = re.findall(r"<!-- test command -->\n```sh\n(.*?)```", TEXTS["README.md"], re.DOTALL)
    assert command.rstrip().endswith("pytest -n 2 --dist worksteal")
