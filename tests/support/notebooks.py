"""Runs notebooks without Jupyter: `python tests/support/notebooks.py FILE` runs one and stores its outputs in it.

Like Jupyter it keeps what is printed, the value of a cell's last line (as HTML where it has that) and open figures.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

Cell = dict[str, Any]


def run_notebook(file: Path) -> dict[str, Any]:
    """The notebook with the outputs of its cells as they are now. Raises what a cell raises."""
    import matplotlib as mpl

    mpl.use("agg")
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    try:
        for number, cell in enumerate((cell for cell in found["cells"] if cell["cell_type"] == "code"), 1):
            cell["execution_count"], cell["outputs"] = number, _outputs("".join(cell["source"]), names, number)
    finally:
        os.chdir(before)
    return found


def _outputs(source: str, names: dict[str, Any], number: int) -> list[Cell]:
    import matplotlib.pyplot as plt

    tree = ast.parse(source)
    end = tree.body[-1]
    last = end if isinstance(end, ast.Expr) and tree.body.pop() else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), names)
        value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names) if last else None
    found: list[Cell] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        found.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        data: Cell = {"text/plain": [repr(value)]}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = value._repr_html_().splitlines(keepends=True)
        found.append({"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data})
    for figure in map(plt.figure, plt.get_fignums()):
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=60, bbox_inches="tight", metadata={"Software": None})
        data = {"image/png": base64.b64encode(drawn.getvalue()).decode()}
        found.append({"output_type": "display_data", "metadata": {}, "data": data})
    plt.close("all")
    return found


if __name__ == "__main__":
    path = Path(sys.argv[1]).resolve()
    path.write_text(json.dumps(run_notebook(path), indent=1, ensure_ascii=False) + "\n", "utf-8")
