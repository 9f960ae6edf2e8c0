from __future__ import annotations

from pathlib import Path

import pytest

from harness.config.fingerprint import DECIDES_NO_NUMBER, code_digest, training_code, training_files
from source_code import PACKAGE, imports, modules
from specs import GOOD, load

SOURCE = '''\
"""What the module holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.core import metrics
from harness.core.rng import derive

if TYPE_CHECKING:
    from harness.model.gpt import GPT

RATE = 0.1  # share of the budget


class Scores:
    """Losses by position."""

    nats: float = 0.0
    """Summed over the targets."""

    def mean(self, count: int) -> float:
        """Nats per target."""
        from harness.core.text import plural

        if count < 1:
            raise ValueError(f"count: found {plural(count, 'target')}; allowed: at least 1")
        return self.nats / count


def named(seed: int) -> dict[str, float]:
    return {metrics.VAL_LOSS: math.exp(derive(seed, "weights"))}
'''


def digest(*changes: tuple[str, str]) -> str:
    text = SOURCE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return code_digest([text])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # share of the budget", ""),
        ("RATE = 0.1", "# a comment\n\nRATE = 0.1"),
        ("What the module holds.", "Other words."),
        ("Losses by position.", "Other words."),
        ('        """Nats per target."""\n', ""),
        ("Summed over the targets.", "Other words."),
        ("from harness.core.rng import derive", "from harness.other.place import derive"),
        ("from harness.core.text import plural", "from harness.other.place import plural"),
        ("from harness.model.gpt import GPT", "from harness.other.place import GPT"),
        ("allowed: at least 1", "a count starts at 1"),
        ("0.1 ", "0.1"),
    ],
)
def test_comments_docstrings_messages_and_import_paths_are_not_hashed(old: str, new: str) -> None:
    assert digest((old, new)) == digest()


def test_the_form_of_an_import_does_not_change_the_hash() -> None:
    as_module = digest()
    by_name = digest(("core import metrics", "core.metrics import VAL_LOSS"), ("metrics.VAL", "VAL"))
    other_name = digest(
        ("core.rng import derive", "core.rng import derive as seed_of"), ("derive(seed", "seed_of(seed")
    )
    assert as_module == by_name == other_name


def test_splitting_and_reordering_files_does_not_change_the_hash() -> None:
    body = SOURCE.index("\n\n\nclass")
    function = SOURCE.index("\n\n\ndef")
    head, one, two = SOURCE[:body], SOURCE[body:function], SOURCE[function:]
    imports_only = head.replace("RATE = 0.1", "")
    assert code_digest([head + one, imports_only + two]) == code_digest([imports_only + two, head + one]) == digest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.1", "RATE = 0.2"),
        ("RATE = 0.1", "RATE = 1"),
        ("count < 1", "count <= 1"),
        ("self.nats / count", "self.nats * count"),
        ('"weights"', '"order"'),
        ("math.exp", "math.log"),
        ("metrics.VAL_LOSS", "metrics.TEST_LOSS"),
        ("raise ValueError", "raise TypeError"),
        ("import math", "import cmath as math"),
        ("count: int", "count: int = 1"),
        ("        return self.nats / count", "        self.nats = 0.0\n        return self.nats / count"),
    ],
)
def test_every_change_of_a_computation_changes_the_hash(old: str, new: str) -> None:
    assert digest((old, new)) != digest()


def test_another_training_code_gives_another_sweep_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(tmp_path, GOOD).identity("data")
    assert training_code() == training_code()
    monkeypatch.setattr("harness.config.spec.training_code", lambda: "other")
    assert load(tmp_path, GOOD).identity("data") != before


def test_every_module_that_the_trainer_imports_is_hashed_or_decides_no_number() -> None:
    every = modules()
    found: set[str] = set()

    def visit(name: str) -> None:
        found.add(name)
        if every[name].relative_to(PACKAGE).as_posix() in DECIDES_NO_NUMBER:  # so does what it uses
            return
        for imported in imports(every[name]):
            if imported in every and imported not in found:
                visit(imported)

    visit("harness.training.trainer")
    files = {every[name].relative_to(PACKAGE).as_posix() for name in found}
    hashed = {path.relative_to(PACKAGE).as_posix() for path in training_files()}
    not_hashed = {name for name in files - hashed if not name.endswith("__init__.py")} - DECIDES_NO_NUMBER
    no_numbers = {
        "config/fingerprint.py",
        "config/starting.py",
        "config/writing.py",
        "core/bounded_json.py",
        "core/files.py",
        "core/links.py",
        "core/paths.py",
        "core/secrets.py",
        "core/text.py",
    }
    assert not_hashed <= no_numbers, "add the others to DECIDES_NUMBERS, or here if they decide no number"
    assert all((PACKAGE / name).is_file() for name in DECIDES_NO_NUMBER)
