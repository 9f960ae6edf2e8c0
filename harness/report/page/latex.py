"""A table as LaTeX."""

from __future__ import annotations

from harness.report.tables.table import Table

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "δ": r"$\delta$",
    "–": "--",
    "∞": r"$\infty$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def latex_table(table: Table, caption: str) -> str:
    """The table as a booktabs `tabular`, with all text escaped."""
    setting_of = "".join("r" if column.numeric else "l" for column in table.columns)
    lines = [" & ".join(_latex(column.label) for column in table.columns) + r" \\", r"\midrule"]
    lines += [" & ".join(_latex(cell.text) for cell in row.cells) + r" \\" for row in table.rows]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            f"% {' '.join(caption.split())}",
            f"\\begin{{tabular}}{{{setting_of}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
