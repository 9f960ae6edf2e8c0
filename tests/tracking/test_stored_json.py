"""The types of what a sweep's JSON artifacts hold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from harness.core.files import DamagedError
from harness.tracking import stored_json
from stored_runs import DATA, PLAN

SWEEP: dict[str, Any] = {
    "name": "x",
    "question": "",
    "identity": "1",
    "spec_text": "",
    "arms": [
        {"name": "a", "values": {"model.drop_rate": 0.1, "data.path": ["a.txt", "b.txt"]}},
        {"name": "b", "values": {}},
    ],
    "baseline": "a",
    "compare": ["model.drop_rate"],
    "tune": {"train.learning_rate": {"log_uniform": [1e-4, 1]}, "train.optimizer": {"choice": ["adamw", None]}},
    "study": {
        "sampler": "tpe",
        "pruner": "none",
        "trials": 4,
        "seeds": 4,
        "looks": [2, 4],
        "delta": 0.02,
        "of": "later",
    },
    "command": "",
    "data": DATA,
    "plan": PLAN,
}


def changed(path: str, value: object) -> dict[str, Any]:
    """The description with one value changed."""
    plain = copy.deepcopy(SWEEP)
    *parents, leaf = path.split("/")
    here: Any = plain
    for name in parents:
        here = here[int(name)] if isinstance(here, list) else here[name]
    here[leaf] = value
    return plain


def test_what_the_harness_stores_is_accepted() -> None:
    stored_json.check_sweep(SWEEP)
    stored_json.check_sweep({name: part for name, part in SWEEP.items() if name != "plan"})
    stored_json.check_sweep(changed("data/source", "1 file: Gr\udcc3.txt"))  # a name that is no text in its locale
    stored_json.check_plan({})
    assert stored_json.is_data(DATA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", None),
        ("question", "\ud800"),
        ("arms", []),
        ("arms/0/name", ""),
        ("arms/1/name", "a"),
        ("arms/0/values", {"x": {}}),
        ("baseline", "c"),
        ("tune/train.learning_rate", {"log_uniform": [0, 1]}),
        ("tune/train.learning_rate", {"uniform": [1, 1]}),
        ("tune/train.learning_rate", {"uniform": ["a", "b"]}),
        ("tune/train.learning_rate", {"uniform": [0, 1], "choice": [1]}),
        ("tune/train.learning_rate", {"choice": []}),
        ("tune/train.learning_rate", {"normal": [0, 1]}),
        ("study", {}),
        ("study/sampler", "oracle"),
        ("study/seeds", "4"),
        ("study/seeds", -1),
        ("study/looks", [4, 2]),
        ("study/looks", [10**9]),
        ("study/delta", 0),
        ("data", []),
        ("data/tokens", {"val": 1.5}),
        ("plan", []),
        ("plan/looks", []),
        ("plan/trials", True),
    ],
)
def test_another_type_or_range_is_damage(path: str, value: object) -> None:
    with pytest.raises(DamagedError, match=r"^has another content than expected$"):
        stored_json.check_sweep(changed(path, value))


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (stored_json.check_samples, {"step": 1, "tokens": 2, "text": "a\x1b"}, {"step": "1", "tokens": 2, "text": ""}),
        (stored_json.check_passage, {"text": "a", "probability": 1}, {"text": "a", "probability": 1.5}),
        (stored_json.check_positions, 2.5, "2.5"),
        (stored_json.check_changes, {"when": "", "confirm_runs": 1, "plan": PLAN}, {"when": "", "confirm_runs": 1}),
    ],
)
def test_lists_hold_items_of_one_kind(check: Callable[[object], None], good: object, bad: object) -> None:
    check([])
    check([good, good])
    for wrong in ([good, bad], {}, None, good):
        with pytest.raises(DamagedError):
            check(wrong)
