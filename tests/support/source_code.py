"""The package's source files and the imports between them, read from their syntax trees."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import harness

PACKAGE = Path(harness.__file__).parent


@functools.cache
def modules() -> dict[str, Path]:
    """Dotted name → file of every module; a package's `__init__.py` goes by the package's name."""
    return {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def dotted(path: Path) -> str:
    """`harness.model.gpt` for its file, `harness.model` for the `__init__.py` of that package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports, anywhere in it, except for type checking only."""
    return frozenset(_imported(ast.parse(path.read_text("utf-8"))))


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module:
        every = modules_of_the_package()
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield full if full in every else node.module
    for child in ast.iter_child_nodes(node):
        yield from _imported(child)


@functools.cache
def modules_of_the_package() -> frozenset[str]:
    """The names of all modules."""
    return frozenset(modules())
