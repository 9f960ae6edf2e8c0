"""The notebook in experiments/ runs, and its stored outputs are those of the code as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from notebooks import run_notebook
from paths import ROOT

pytestmark = pytest.mark.slow

FILE = ROOT / "experiments" / "from_question_to_figure.ipynb"


def kinds(notebook: dict[str, Any]) -> list[list[list[str]]]:
    """The types of the outputs of each cell of code."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [[sorted(one.get("data", {"stream": ""})) for one in cell["outputs"]] for cell in cells]


def printed(notebook: dict[str, Any]) -> list[str]:
    outputs = (one for cell in notebook["cells"] for one in cell.get("outputs", ()))
    return ["".join(one["text"]) for one in outputs if one["output_type"] == "stream"]


def test_the_notebook_runs_and_its_outputs_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the sweep that it starts
    stored = json.loads(FILE.read_text("utf-8"))
    assert (stored["nbformat"], stored["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])
    before = Path.cwd()
    now = run_notebook(FILE)
    assert Path.cwd() == before
    assert kinds(now) == kinds(stored)
    assert sum("image/png" in one for cell in kinds(now) for one in cell) == 3
    assert printed(now)[0].split(":")[0] == printed(stored)[0].split(":")[0] == "Better"
    assert FILE.stat().st_size < 200_000
