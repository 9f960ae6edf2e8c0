"""A research harness for questions about training a GPT: one YAML file in, one answer out.

In a notebook:

    from harness import best_config, compare, load_curves, load_model, load_runs, plot_curves

    compare(load_runs("dropout"))
    plot_curves(load_curves("dropout"))
    model, tokenizer = load_model("0a1b2c")
    print(best_config("dropout").to_yaml())

Names are imported at their first use: torch, pandas and MLflow take seconds to import.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from harness.core.version import VERSION

TYPE_CHECKING = False  # importing it from typing takes longer than everything else here; mypy knows the name
if TYPE_CHECKING:
    from typing import Any

    from harness.config.load import load_spec
    from harness.config.run import RunConfig
    from harness.data import Dataset
    from harness.report import best_config, compare, load_curves, load_runs, pivot, plot_comparison, plot_curves
    from harness.training.trained_model import load_model, train_model
    from harness.training.trainer import train

__version__ = VERSION

__all__ = [
    "Dataset",
    "RunConfig",
    "best_config",
    "compare",
    "load_curves",
    "load_model",
    "load_runs",
    "load_spec",
    "pivot",
    "plot_comparison",
    "plot_curves",
    "train",
    "train_model",
]

_HOMES = {
    "Dataset": "harness.data",
    "RunConfig": "harness.config.run",
    "best_config": "harness.report",
    "compare": "harness.report",
    "load_curves": "harness.report",
    "load_model": "harness.training.trained_model",
    "load_runs": "harness.report",
    "load_spec": "harness.config.load",
    "pivot": "harness.report",
    "plot_comparison": "harness.report",
    "plot_curves": "harness.report",
    "train": "harness.training.trainer",
    "train_model": "harness.training.trained_model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


class _Package(ModuleType):
    """Keeps `harness.compare` the function.

    Python sets every imported submodule as an attribute of its package, so importing the command `harness.compare`
    would hide the function. `from harness.compare import …` and `python -m harness.compare` still find the command.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
