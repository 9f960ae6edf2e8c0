"""`from harness import …`: every name resolves, lazily, also next to a command of the same name."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import harness


def output(code: str) -> str:
    """What a new Python process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_no_library() -> None:
    heavy = "{'torch', 'pandas', 'numpy', 'mlflow', 'optuna', 'pydantic', 'matplotlib'}"
    assert output(f"import sys, harness; print(sorted({heavy} & set(sys.modules)))") == "[]"


@pytest.mark.parametrize("name", harness.__all__)
def test_every_public_name_resolves_and_has_a_docstring(name: str) -> None:
    found = getattr(harness, name)
    assert found.__name__ == name
    assert inspect.getdoc(found)
    assert name in dir(harness)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'harness' has no attribute 'nothing'"):
        _ = harness.nothing


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "from harness import compare; import harness.compare",
        "import harness.compare; from harness import compare",
        "from harness.compare import app; from harness import compare",
        "from harness import compare; from harness.compare import app",
    ],
)
def test_compare_is_the_function_whether_or_not_its_command_was_imported(imports: str) -> None:
    code = f"""
{imports}
import harness, harness.report, sys
from harness.compare import app
assert compare is harness.compare is harness.report.compare
assert callable(compare) and compare.__module__ == "harness.report.notebook"
assert sys.modules["harness.compare"].app is app
"""
    assert output(code) == ""
