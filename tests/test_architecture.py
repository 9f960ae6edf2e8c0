"""The house rules: who may import whom, what stays light, and that every shipped experiment loads."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.specfile import load_spec
from paths import SUPPORT
from source_code import PACKAGE, imports, modules

EXPERIMENTS = sorted((PACKAGE.parent / "experiments").glob("*.yaml"))

# From the bottom up: a module imports only from rows below its own, or from its own row.
ROWS = [
    {"metrics", "outcomes", "rng", "problems", "collector", "processor"},
    {"config", "fields", "spec", "specfile", "runchecks", "schema", "yamlfile"},
    {
        "data",
        "windows",
        "files",
        "loss",
        "dropout",
        "model",
        "optim",
        "devices",
        "clock",
        "text",
        "checkpoint",
        "state",
        "passage",
        "step",
        "evaluation",
        "trainer",
        "speed",
    },
    {"tracking"},
    {"report"},
    {"workers", "worker"},
    {"progress", "live", "timeleft", "events", "endings"},
    {
        *(
            "calibration",
            "plan",
            "study",
            "samplers",
            "tasks",
            "rounds",
            "recovery",
            "status",
            "lock",
            "places",
            "inputs",
        ),
        *("agenda", "conductor"),
    },
    {"cli", "preview", "sweep", "generate", "compare", "bench", "report.__main__", "data.__main__"},
]

# Outside libraries, and the only modules in which they may be met.
HOMES = {
    "torch": {
        *("loss", "dropout", "model", "windows", "files", "optim", "devices", "clock", "text", "checkpoint", "state"),
        *("passage", "step", "evaluation", "trainer", "worker", "speed"),
    },
    "safetensors": {"checkpoint", "state"},
    "tiktoken": {"data"},
    "pooch": {"data"},
    "mlflow": {"tracking"},
    "optuna": {"study", "samplers", "tasks"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "scipy": {"report"},
    "sklearn": {"report"},
    "threadpoolctl": {"report"},
    "pandas": {"report", "tracking"},
    "pyarrow": {"report"},
    "pydantic": {"config", "fields", "spec", "schema", "specfile", "runchecks", "checkpoint"},
    "ruamel": {"yamlfile", "spec"},
    "multiprocessing": {"workers", "worker"},
    "typer": {"cli", "sweep", "generate", "compare", "bench", "report.__main__", "data.__main__"},
    "rich": {"progress", "live", "cli", "preview", "generate", "compare", "report.__main__", "data.__main__"},
    "filelock": {"lock"},
}


def short(path: Path) -> str:
    """`model`, `report` for a file of that package, `report.__main__` for its command."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts) if parts[-1] == "__main__" else parts[0]


def row(module: str) -> int:
    return next(number for number, names in enumerate(ROWS) if module in names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_below(path: Path) -> None:
    mine = short(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "harness" and rest and not rest.startswith("__version__"):
            theirs = rest.split(".")[0]
            assert theirs == mine.split(".")[0] or row(theirs) <= row(mine), f"{mine} imports {name}"
        elif top in HOMES:
            assert mine in HOMES[top], f"{mine} imports {name}"


def test_the_table_names_every_module() -> None:
    assert {short(path) for path in modules()} == set().union(*ROWS)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("spec", {"torch", "optuna", "mlflow", "pandas", "matplotlib", "numpy"}),
        ("specfile", {"torch", "optuna", "mlflow", "pandas", "matplotlib", "numpy"}),
        ("sweep", {"torch", "optuna", "mlflow", "pandas", "matplotlib", "tiktoken", "numpy", "pydantic", "ruamel"}),
        ("data", {"torch", "optuna", "mlflow", "pandas", "matplotlib"}),
        ("study", {"torch", "mlflow", "matplotlib"}),
        ("plan", {"torch", "optuna", "mlflow", "matplotlib", "pandas"}),
        ("workers", {"torch", "optuna", "mlflow", "matplotlib"}),
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
    for path in modules():
        tree = ast.parse(path.read_text("utf-8"))
        names = [tree, *(node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)))]
        for node in names:
            name = getattr(node, "name", "")
            if not name.startswith("_") and ast.get_docstring(node) is None:
                missing.append(f"{path.relative_to(PACKAGE)}:{name}")
    assert missing == []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_shipped_experiment_loads_and_plans(path: Path) -> None:
    from harness.inputs import Datasets
    from harness.plan import START_SECONDS, plan_arms, sweep_seconds

    datasets = Datasets()
    spec = load_spec(path, (), datasets.split_sizes)
    assert spec.name == path.stem
    assert spec.question.endswith("?")
    arms = plan_arms(spec, datasets.train_tokens(spec))
    assert all(arm.cost.flops and arm.cost.memory > 0 for arm in arms)
    assert sweep_seconds(spec, datasets.splits(spec), 2, {}, 1e11) > START_SECONDS
    header = path.read_text("utf-8").split("\nname:")[0]
    for line in ("# Question:", "# Command:", "# Time:", "# Seen:"):
        assert line in header, f"{path.name} has no {line} header"


def test_the_experiments_that_were_asked_for_are_there() -> None:
    names = {path.stem for path in EXPERIMENTS}
    assert names >= {"dropout", "context_length", "qkv_bias", "learning_rate", "search", "gpt2_124m"}


def test_training_and_reading_a_checkpoint_need_no_compiler(tmp_path: Path) -> None:
    """Its import takes a worker longer than torch's own."""
    code = """
import sys
from pathlib import Path
from harness.checkpoint import load_checkpoint
from helpers import run, small_config
for optimizer in ("adamw", "muon"):
    config = small_config(optimizer=optimizer, model={"drop_rate": 0.1}, sample={"max_new_tokens": 2})
    run(config, checkpoint=Path(sys.argv[1], optimizer))
    load_checkpoint(Path(sys.argv[1], optimizer))
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(SUPPORT)])}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
