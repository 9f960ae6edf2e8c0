"""Every figure that draws the evidence of a sweep is in the registry."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import example_sweep as example
from harness.report import figures
from harness.report.figures import registry
from harness.report.figures.drawing import Drawing


def test_every_figure_of_a_sweep_is_in_the_registry() -> None:
    drawn = set()
    for found in pkgutil.iter_modules(figures.__path__, f"{figures.__name__}."):
        module = importlib.import_module(found.name)
        for name, function in inspect.getmembers(module, inspect.isfunction):
            ours = function.__module__ == module.__name__ and not name.startswith("_")
            if ours and inspect.signature(function).return_annotation == "Drawing | None":
                drawn.add(name)
                assert getattr(registry, name, None) is function, f"{name} of {found.name} is never drawn"
    assert {"forest", "tuning", "losses_by_position"} <= drawn


def test_a_place_shows_its_figures_in_order_and_leaves_out_empty_ones() -> None:
    runs = example.frame([*example.explore_runs(), *example.confirm_runs()])
    evidence = example.evidence(example.record(tune=example.TUNE), runs, example.curves_of(runs))

    def names(place: str) -> list[str]:
        found: tuple[Drawing, ...] = registry.draw(place, evidence)
        return [drawing.name for drawing in found]

    assert names("answer") == ["forest"] and names("evidence") == ["final-loss"]
    assert names("search") == ["tuning", "trial-curves", "search-luck"]  # one tuned dimension has no rank
    assert names("noise") == names("factors") == names("curves") == names("elsewhere") == []
    assert [axis.name for axis, _ in registry.draw_curves(evidence)] == ["tokens", "steps", "flops"]
