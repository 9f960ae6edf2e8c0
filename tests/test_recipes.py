"""The recipes of CONTRIBUTING.md, as far as no other test fails when one of their places is forgotten."""

from __future__ import annotations

import ast
import re

import pytest
import torch

from harness.analysis.evidence import _IMPLIED
from harness.config.run import PRESETS, ModelConfig
from harness.model.init import build_gpt
from harness.training.model_optimizer import ModelOptimizer
from harness.training.optimizers import OPTIMIZERS
from helpers import small_config
from paths import ROOT
from source_code import PACKAGE


def test_there_are_eight_recipes_and_each_names_a_test_that_fails() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    recipes = re.split(r"^### ", text[text.index("## Recipes") :], flags=re.MULTILINE)[1:]
    assert len(recipes) == 8
    for recipe in recipes[:-1]:  # the last one describes a feature that does not exist yet
        assert "`tests/" in recipe.partition("Forgotten")[2], recipe.splitlines()[0]


def test_every_figure_of_a_report_is_in_the_registry() -> None:
    folder = PACKAGE / "report" / "figures"
    trees = {path.stem: ast.parse(path.read_text("utf-8")) for path in folder.glob("*.py")}
    written = {
        node.name
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.returns and ast.unparse(node.returns) == "Drawing | None"
    }
    listed = {node.id for node in ast.walk(trees["registry"]) if isinstance(node, ast.Name)}
    assert written <= listed, "see the recipe 'a figure of the report' in CONTRIBUTING.md"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_report_expects_every_field_that_a_preset_sets(preset: str) -> None:
    """Arms that compare presets differ in all of them; any other difference between arms is a warning."""
    fields = ModelConfig.model_validate({"preset": preset}).model_fields_set
    assert {f"model.{name}" for name in fields} <= _IMPLIED["model.preset"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_gradients_an_optimizer_only_decays_matrices(name: str) -> None:
    """Embedding rows that are never trained are decayed by this rule, without the optimizer."""
    torch.set_num_threads(1)
    config = small_config(optimizer=name, weight_decay=0.5, learning_rate=0.1)
    model = build_gpt(config)
    before = {path: parameter.detach().clone() for path, parameter in model.named_parameters()}
    optimizer = ModelOptimizer(model, config.train)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.set_learning_rate(1.0)
    optimizer.step()
    for path, parameter in model.named_parameters():
        expected = before[path] * (1 - 0.1 * 0.5) if parameter.dim() >= 2 else before[path]
        torch.testing.assert_close(parameter.detach(), expected)
