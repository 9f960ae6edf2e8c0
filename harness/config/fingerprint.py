"""SHA-256 of a configuration, and of the code that decides a run's numbers.

The code is hashed by content and not by path: every statement at the top of a module that decides numbers is reduced
to its syntax tree, without comments, docstrings, positions, imports from the harness and the words of error messages.
So moving a statement to another file, renaming a module or rewording a docstring gives the same hash.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeGuard

# Fields that do not change a run's numbers: they are left out of its digest, and cannot be compared or tuned.
WITHOUT_EFFECT: Final = ("train.checkpoint_every",)

SET_ASIDE: Final = " (set aside)"  # appended to the identity of a sweep that `--fresh` has replaced

_PACKAGE: Final = Path(__file__).parents[1]

# Files of the package that decide a run's numbers, and those in the same folders that do not: they only store, read
# back or describe what was trained.
DECIDES_NUMBERS: Final = (
    *("config/base.py", "config/mixture.py", "config/run.py", "config/sections.py", "config/tokenizers.py"),
    *("core/metrics.py", "core/rng.py"),
    "core/hardware.py",  # the processor's name decides how the head's loss is computed
    *("data/*.py", "data/sources/*.py", "model/*.py", "training/*.py"),
)
DECIDES_NO_NUMBER: Final = frozenset(
    {
        *("data/__main__.py", "data/cache.py", "data/downloads.py", "data/encoded.py", "data/lost_text.py"),
        *("data/repeated_text.py", "data/token_cache.py", "data/known_scans.py", "data/parallel.py"),
        *("data/token_comparison.py", "data/from_memory.py", "data/opening.py"),
        *("model/generation.py", "model/weights.py", "training/token_losses.py", "training/trained_model.py"),
        *("data/hugging_face.py", "model/hugging_face_config.py", "training/export.py"),
        # the SHA-256 of weights to start from is a part of the configuration, whatever finds them
        *("model/hub.py", "model/sources.py", "model/tensor_file.py"),
    }
)


def decisive(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of plain sections (`train`, `data`, …) without the fields in `WITHOUT_EFFECT` and the place of weights."""
    kept = dict(plain)
    for path in WITHOUT_EFFECT:
        section, _, name = path.partition(".")
        kept[section] = {key: value for key, value in kept[section].items() if key != name}
    model = kept.get("model", {})
    if model.get("init_sha256"):  # which weights they are, wherever they lie
        kept["model"] = {key: value for key, value in model.items() if key != "init_from"}
    return kept


def digest_of(plain: object) -> str:
    """SHA-256 (hex) of a JSON value, independent of key order and white space."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def training_code() -> str:
    """SHA-256 (hex) of the code that decides a run's numbers, so that no sweep mixes runs of two versions of it."""
    return code_digest(path.read_text("utf-8") for path in training_files())


def training_files() -> list[Path]:
    """The source files that `training_code` covers."""
    found = (path for pattern in DECIDES_NUMBERS for path in _PACKAGE.glob(pattern))
    return sorted(path for path in found if path.relative_to(_PACKAGE).as_posix() not in DECIDES_NO_NUMBER)


def code_digest(sources: Iterable[str]) -> str:
    """SHA-256 (hex) of the statements in the texts of some modules, whatever their order and their files."""
    statements = {text for source in sources for text in _statements(ast.parse(source))}
    return hashlib.sha256("\n".join(sorted(statements)).encode()).hexdigest()


def _statements(module: ast.Module) -> Iterator[str]:
    """Each statement at the top of a module as normalised text."""
    names: dict[str, str | None] = {}
    for statement in module.body:
        if _is_own_import(statement):
            names |= _imported_names(statement)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            source = statement.module if isinstance(statement, ast.ImportFrom) else None
            yield from (f"import {source} {alias.name} {alias.asname}" for alias in statement.names)
        elif not _is_left_out(statement):
            words: list[str] = []
            _write(statement, names, words)
            yield " ".join(words)


def _write(node: ast.AST, names: dict[str, str | None], words: list[str]) -> None:
    """Append a syntax tree to `words`.

    Empty fields are left out, so that Python versions whose nodes have more fields give the same text.

    Args:
        node: its root.
        names: those imported from the harness: local name → name where it was defined, None for a module.
        words: of the statement so far.
    """
    if isinstance(node, ast.Name):
        words.append(names.get(node.id) or node.id)
    elif isinstance(node, ast.Constant):
        words.append(repr(node.value))
    elif isinstance(node, ast.Attribute) and names.get(getattr(node.value, "id", ""), "") is None:
        words.append(node.attr)  # `metrics.VAL_LOSS` and `VAL_LOSS` are the same
    elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        words.append("Raise")  # its message changes no number
        _write(node.exc.func, names, words)
    else:
        words.append(type(node).__name__)
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                _write_list(name, value, names, words)
            elif isinstance(value, ast.AST):
                if not isinstance(value, ast.expr_context):
                    words.append(name)
                    _write(value, names, words)
            elif value is not None:
                words.append(f"{name}={value!r}")


def _write_list(name: str, parts: list[Any], names: dict[str, str | None], words: list[str]) -> None:
    if not parts:
        return
    words.append(f"{name} [")
    for part in parts:
        if not isinstance(part, ast.AST):
            words.append(repr(part))
        elif _is_own_import(part):
            names |= _imported_names(part)
        elif not _is_left_out(part):
            _write(part, names, words)
    words.append("]")


def _is_own_import(node: ast.AST) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == _PACKAGE.name


def _is_left_out(node: ast.AST) -> bool:
    """Whether it is a docstring, or imports for a type checker only."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imported_names(statement: ast.ImportFrom) -> dict[str, str | None]:
    folder = _PACKAGE.parent.joinpath(*(statement.module or "").split("."))
    names: dict[str, str | None] = {}
    for alias in statement.names:
        is_module = (folder / alias.name).is_dir() or (folder / f"{alias.name}.py").is_file()
        names[alias.asname or alias.name] = None if is_module else alias.name
    return names
