"""The house rules: who may import whom, what stays light, and that every shipped experiment loads."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness.config.load import load_spec
from paths import EXPERIMENTS, ROOT, SUPPORT
from source_code import PACKAGE, imports, modules

# From the bottom up: a package imports only from rows strictly below its own.
ROWS = [
    {"core"},
    {"config"},
    {"console"},
    {"data", "search", "tracking"},
    {"analysis", "model"},
    {"report", "training"},
    {"workers"},
    {"cost"},
    {"runner"},
    {"bench", "compare", "export", "generate", "replay", "sweep"},
]
ROW = {name: number for number, names in enumerate(ROWS) for name in names}

# The commands that lie in a package: rules for commands apply to them.
COMMANDS = {"harness.data.__main__", "harness.report.__main__"}

# Outside libraries and the only places in which they may be imported.
HOMES: Mapping[str, set[str]] = {
    "torch": {"core.files", "data", "model", "training", "workers.job", "cost.probe"},
    "numpy": {"analysis", "core.rng", "cost", "data", "model", "report", "search.cma_es", "tracking"},
    "safetensors": {"model", "training"},
    "tiktoken": {"data"},
    "tokenizers": {"data"},
    "sentencepiece": {"data"},
    "tiktoken_ext": {"data"},
    "requests": {"data", "tracking"},
    "alembic": {"tracking.migration"},
    "sqlalchemy": {"console.preflight", "core.database_servers", "core.waiting", "search", "tracking"},
    "markupsafe": {"report.page"},
    "pooch": {"data"},
    "mlflow": {"tracking"},
    "optuna": {"search"},
    "cmaes": {"search.cma_es"},
    "matplotlib": {"report.figures"},
    "jinja2": {"report.page"},
    "scipy": {"analysis"},
    "sklearn": {"analysis"},
    "threadpoolctl": {"analysis"},
    "pandas": {"analysis", "report", "tracking"},
    "pyarrow": {"data.sources", "report.write"},
    "pydantic": {"config", "model.sources", "model.weights", "tracking.stored_json"},
    "ruamel": {"config"},
    "psutil": {"tracking", "workers"},
    "ray": {"workers"},
    "huggingface_hub": {"model.hub"},
    "filelock": {"core.locks", "training.resume"},
    "fsspec": {"workers.shared"},
    "typer": {
        "console",
        "sweep",
        "bench",
        "compare",
        "export",
        "generate",
        "replay",
        "data.__main__",
        "report.__main__",
    },
    "rich": {"console"},
}

PICKLES = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
STANDARD = sys.stdlib_module_names


def short(module: str) -> str:
    """`model.gpt` for `harness.model.gpt`."""
    return module.removeprefix("harness.")


def package(module: str) -> str:
    """`model` for `harness.model.gpt`, `sweep` for `harness.sweep`."""
    return short(module).partition(".")[0]


def ours(path: Path) -> set[str]:
    """The modules of the harness that a file imports."""
    return {name for name in imports(path) if name in modules()}


def within(module: str, places: set[str]) -> bool:
    return any(short(module) == place or short(module).startswith(f"{place}.") for place in places)


INSIDE = {name: path for name, path in modules().items() if name != "harness"}


@pytest.mark.parametrize("module", INSIDE)
def test_a_package_imports_only_from_rows_below_its_own(module: str) -> None:
    if module in COMMANDS:
        return
    for name in ours(INSIDE[module]) - {"harness"}:
        same = package(name) == package(module)
        assert same or ROW[package(name)] < ROW[package(module)], f"{module} imports {name}"
    assert not ours(INSIDE[module]) & COMMANDS


def test_the_rows_name_every_package() -> None:
    assert {package(name) for name in INSIDE} == set(ROW)
    assert len(ROW) <= 20  # packages and commands: more do not fit into one look


def circles() -> Iterator[list[str]]:
    """Every module from which a way of imports leads back to it, with that way."""
    graph = {name: ours(path) - {name} for name, path in INSIDE.items()}
    for start in graph:
        ways = {name: [start, name] for name in graph[start]}
        waiting = list(ways)
        while waiting:
            here = waiting.pop(0)
            if here == start:
                yield ways[here]
                break
            for name in graph.get(here, ()):
                if name not in ways:
                    ways[name] = [*ways[here], name]
                    waiting.append(name)


def test_no_imports_lead_in_a_circle() -> None:
    assert list(circles()) == []


@pytest.mark.parametrize("module", INSIDE)
def test_an_outside_library_has_one_home_and_is_declared(module: str) -> None:
    for name in imports(INSIDE[module]):
        top = name.partition(".")[0]
        if top in STANDARD or top == "harness":
            continue
        assert top in HOMES, f"{module} imports {top}, which has no home"
        assert within(module, HOMES[top]), f"{module} imports {top}; its home: {sorted(HOMES[top])}"


def test_no_module_loads_pickles() -> None:
    calls = ("torch.load(", "allow_pickle", ".load_model(", "read_pickle(")
    for module, path in INSIDE.items():
        assert not {name.partition(".")[0] for name in imports(path)} & PICKLES, module
        assert not any(call in path.read_text("utf-8") for call in calls), module


def test_every_outside_library_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = ("ray", "postgres", "tokenizers", "hub")
    optional = [name for extra in extras for name in project["optional-dependencies"][extra]]
    names = [*project["dependencies"], *optional]
    declared = {re.split(r"[=<>!~;\[ ]", name, maxsplit=1)[0].lower() for name in names}
    distributions = {"tiktoken_ext": "tiktoken", "sklearn": "scikit-learn", "ruamel": "ruamel.yaml"}
    assert {distributions.get(name, name) for name in HOMES} <= declared


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("config.spec", {"torch", "optuna", "mlflow", "pandas", "matplotlib", "numpy"}),
        ("config.load", {"torch", "optuna", "mlflow", "pandas", "matplotlib", "numpy"}),
        ("sweep", {"torch", "optuna", "mlflow", "pandas", "matplotlib", "tiktoken", "numpy", "pydantic", "ruamel"}),
        ("model.sources", {"torch", "optuna", "mlflow", "pandas", "matplotlib", "safetensors", "huggingface_hub"}),
        ("data", {"torch", "optuna", "mlflow", "pandas", "matplotlib"}),
        ("search.study", {"torch", "mlflow", "matplotlib"}),
        ("cost.estimate", {"torch", "optuna", "mlflow", "matplotlib", "pandas"}),
        ("workers.local_pool", {"torch", "optuna", "mlflow", "matplotlib"}),
        ("workers.ray_pool", {"ray", "torch", "optuna", "mlflow", "matplotlib"}),
        ("tracking", {"torch", "optuna", "mlflow", "matplotlib"}),
        ("report", {"torch", "optuna", "mlflow", "matplotlib", "pandas"}),
    ],
)
def test_what_is_imported_early_stays_light(module: str, absent: set[str]) -> None:
    code = f"import sys, harness.{module}; print(*sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


def test_every_public_name_has_a_docstring() -> None:
    missing = []
    for path in modules().values():
        tree = ast.parse(path.read_text("utf-8"))
        names = [tree, *(node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)))]
        for node in names:
            name = getattr(node, "name", "")
            if not name.startswith("_") and ast.get_docstring(node) is None:
                missing.append(f"{path.relative_to(PACKAGE)}:{name}")
    assert missing == []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_shipped_experiment_loads_and_plans(path: Path) -> None:
    from harness.cost.estimate import plan_arms, sweep_seconds
    from harness.cost.overheads import Overheads
    from harness.runner.datasets import Datasets

    datasets = Datasets()
    spec = load_spec(path, (), datasets.split_sizes, datasets.codec)
    assert spec.name == path.stem
    assert spec.question.endswith("?")
    arms = plan_arms(spec, datasets.train_tokens(spec))
    assert all(arm.cost.flops and arm.cost.memory > 0 for arm in arms)
    assert sweep_seconds(spec, datasets.splits(spec), 2, {}, 1e11, Overheads()) > Overheads().start
    header = path.read_text("utf-8").split("\nname:")[0]
    for line in ("# Question:", "# Command:", "# Time:", "# Result:"):
        assert line in header, f"{path.name} has no {line} header"


def test_the_experiments_that_were_asked_for_are_there() -> None:
    names = {path.stem for path in EXPERIMENTS}
    assert names >= {"dropout", "context_length", "qkv_bias", "learning_rate", "search", "gpt2_124m", "vocabulary"}


@pytest.mark.slow
def test_training_and_reading_a_checkpoint_need_no_compiler(tmp_path: Path) -> None:
    """Its import takes a worker longer than torch's own."""
    code = """
import sys
from pathlib import Path
from harness.model.weights import load_checkpoint
from harness.training.optimizers import OPTIMIZERS
from helpers import run, small_config
for optimizer in OPTIMIZERS:
    config = small_config(optimizer=optimizer, model={"drop_rate": 0.1}, sample={"max_new_tokens": 2})
    run(config, checkpoint=Path(sys.argv[1], optimizer))
    load_checkpoint(Path(sys.argv[1], optimizer))
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(SUPPORT)])}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
