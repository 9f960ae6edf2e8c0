"""The recipes of CONTRIBUTING.md, as far as no other test fails when one of their places is forgotten."""

from __future__ import annotations

import ast
import re

import pytest

from harness.analysis.evidence import _IMPLIED
from harness.config.run import PRESETS, ModelConfig
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
