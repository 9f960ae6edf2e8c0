"""The types of what a sweep's JSON artifacts hold. Text that parses and has a checksum may still be anybody's.

Only what the harness reads is checked. Unknown fields are allowed, so that other versions can be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from harness.config.dimensions import KINDS
from harness.config.samplers import SAMPLERS
from harness.config.study import MAX_SEEDS
from harness.core.bounded_json import MAX_WHOLE
from harness.core.files import DamagedError

_Count = Annotated[int, Field(ge=0, le=MAX_WHOLE)]
_Seeds = Annotated[int, Field(ge=0, le=10 * MAX_SEEDS)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Value = bool | int | _Finite | str | None


class _Data(BaseModel):
    name: str
    source: str
    sha256: str
    fingerprint: str
    tokenizer: str
    tokens: dict[str, _Count]
    bytes: dict[str, _Count]


class _Arm(BaseModel):
    name: Annotated[str, Field(min_length=1)]
    values: dict[str, _Value | list[_Value]]


class _Study(BaseModel):
    sampler: str
    pruner: str
    trials: _Count
    seeds: _Seeds
    looks: list[_Seeds] = []
    delta: Annotated[_Finite, Field(gt=0)] = 1.0
    unmodelled_trials: _Count = 0


class _Plan(BaseModel):
    method: str = ""
    question: str = ""
    metric: str = ""
    baseline: str = ""
    arms: list[str] = []
    trials: _Count = 0
    seeds: _Seeds = 0
    looks: Annotated[list[_Seeds], Field(min_length=1)] = [0]
    test: str = ""
    correction: str = ""
    alpha: _Finite = 0.0
    delta: _Finite = 0.0


class _Sweep(BaseModel):
    name: str
    question: str
    identity: str
    spec_text: str
    arms: Annotated[list[_Arm], Field(min_length=1)]
    baseline: str
    compare: list[str]
    tune: dict[str, dict[str, list[_Value]]]
    study: _Study
    command: str
    data: _Data


class _Change(BaseModel):
    when: str
    confirm_runs: _Count
    plan: _Plan


class _Sample(BaseModel):
    step: _Count
    tokens: _Count
    text: str
    greedy: str | None = None


class _Token(BaseModel):
    text: str
    probability: Annotated[float, Field(ge=0, le=1)]


def check_sweep(plain: Mapping[str, Any]) -> None:
    """Raise a `DamagedError` if a sweep's description has another content than `SweepInfo`."""
    _check(_Sweep, {**plain, "data": _as_text(plain.get("data"))})
    check_plan(plain.get("plan", {}))
    names = [arm["name"] for arm in plain["arms"]]
    if len(set(names)) < len(names) or plain["baseline"] not in names or plain["study"]["sampler"] not in SAMPLERS:
        raise DamagedError(_OTHER)
    looks = plain["study"].get("looks", [])
    if looks != sorted(set(looks)) or not all(map(_is_dimension, plain["tune"].values())):
        raise DamagedError(_OTHER)


def check_plan(plain: object) -> None:
    """Raise a `DamagedError` if this is no analysis plan; an empty one is."""
    _check(_Plan, plain)


def check_changes(plain: object) -> None:
    """Raise a `DamagedError` if these are no changes of an analysis plan."""
    _check(list[_Change], plain)


def check_samples(plain: object) -> None:
    """Raise a `DamagedError` if these are no samples of a run."""
    _check(list[_Sample], plain)


def check_passage(plain: object) -> None:
    """Raise a `DamagedError` if these are no scored tokens."""
    _check(list[_Token], plain)


def check_positions(plain: object) -> None:
    """Raise a `DamagedError` if these are no losses by position."""
    _check(list[_Finite], plain)


def is_data(plain: object) -> bool:
    """Whether these are the facts about a corpus that runs record."""
    try:
        _check(_Data, _as_text(plain))
    except DamagedError:
        return False
    return True


_OTHER: Final = "has another content than expected"


def _is_dimension(plain: Mapping[str, list[Any]]) -> bool:
    """Whether this is a dimension of a search space, as a spec writes it."""
    ((kind, values),) = plain.items() if len(plain) == 1 else (("", []),)
    if kind not in KINDS or kind == "choice":
        return kind == "choice" and bool(values)
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(numbers) == len(values) == 2 and numbers[0] < numbers[1] and (kind != "log_uniform" or numbers[0] > 0)


def _as_text(data: object) -> object:
    """The facts about a corpus with `?` in names of files for bytes that are no text in the locale."""
    return json.loads(json.dumps(data, ensure_ascii=False).encode("utf-8", "replace"))


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _check(kind: Any, plain: object) -> None:
    try:
        _adapter(kind).validate_json(json.dumps(plain), strict=True)
    except ValidationError:
        raise DamagedError(_OTHER) from None
