"""Pydantic's errors as messages for the author of a spec: what was found, what is allowed."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from harness.config.fields import field_paths, format_value, value_key
from harness.config.mixture import MixSource
from harness.config.other_names import did_you_mean
from harness.config.run import RunConfig
from harness.config.study import StudyConfig
from harness.core.text import shown, unknown

_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_BOUNDS = {"ge": "at least", "gt": "over", "le": "at most", "lt": "under"}


def explain(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Yield (dotted path, message) for each mistake in a validation of `model`."""
    for detail in error.errors():
        path = [str(part) for part in detail["loc"]]
        kind = detail["type"]
        if kind == "extra_forbidden":
            yield ".".join(path), _unknown_field(path, model)
        elif kind == "value_error":
            yield _own_message(path, str(detail["ctx"]["error"]))
        elif kind == "missing":
            yield ".".join(path), f"found nothing; allowed: {_allowed(path, model)}"
        else:
            yield ".".join(path), f"found {shown(detail['input'])}; allowed: {_allowed(path, model)}"


def first_mistake(error: ValueError) -> str:
    """The first mistake of a run's configuration, in one sentence."""
    if not isinstance(error, ValidationError):
        return str(error)
    path, message = next(explain(error, RunConfig))
    return f"{path}: {message}" if path else message


def fitting_kinds(path: str) -> tuple[str, ...]:
    """Kinds of dimension with which a field, by its dotted path, can be tuned."""
    *parents, leaf = path.split(".")
    info = _model_at(parents, RunConfig).model_fields.get(leaf)
    kinds, _ = _kinds(info.annotation) if info is not None else ([], False)
    if kinds == [_WORDS[int]]:
        return ("int_uniform", "choice")
    return ("uniform", "log_uniform", "choice") if kinds == [_WORDS[float]] else ("choice",)


def wrong_values(kind: str, values: object) -> str:
    """What a tuned dimension of a kind may have, if `values` is wrong; else an empty text."""
    if not isinstance(values, list):
        return "a list"
    if kind == "choice":
        if not values or any(isinstance(value, (dict, list)) for value in values):
            return "at least one plain value"
        return "" if len({value_key(v) for v in values}) == len(values) else "different values"
    numbers = [v for v in values if type(v) is int or (isinstance(v, float) and math.isfinite(v))]
    if len(values) != 2 or len(numbers) != 2:
        return "[low, high], two numbers"
    low, high = numbers
    if low >= high:
        return "low < high"
    if kind == "log_uniform" and low <= 0:
        return "low > 0, a logarithm has no value at 0"
    if kind == "int_uniform" and any(value != int(value) for value in numbers):
        return "two whole numbers"
    return ""


def spec_paths() -> list[str]:
    """The dotted paths of all fields of a run and of the study."""
    return [*field_paths(), *(f"study.{name}" for name in StudyConfig.model_fields)]


def _own_message(path: list[str], message: str) -> tuple[str, str]:
    """Move the field that a validator's message may begin with (`emb_dim: found …`) into the path."""
    head, colon, rest = message.partition(": ")
    if colon and " " not in head:
        return ".".join([*path, head]), rest
    return ".".join(path), message


def _unknown_field(path: list[str], model: type[BaseModel]) -> str:
    owner = _model_at(path[:-1], model)
    names = [*owner.model_fields, "preset"] if owner.__name__ == "ModelConfig" else list(owner.model_fields)
    return did_you_mean(path[-1], spec_paths()) or unknown(path[-1], names)


def _model_at(path: list[str], model: type[BaseModel]) -> type[BaseModel]:
    names = iter(path)
    for name in names:
        inner = inner_model(model.model_fields.get(name))
        if inner is None:
            break
        model = inner
        if inner is MixSource:
            next(names, None)  # the name of the source
    return model


def inner_model(info: FieldInfo | None) -> type[BaseModel] | None:
    """The class of the fields inside of a field, or of each source of a mixture; None if there are none."""
    kinds = (info.annotation, *get_args(info.annotation)) if info is not None else ()
    if any(get_origin(kind) is dict for kind in kinds):
        return MixSource
    kind = info.annotation if info is not None else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _allowed(path: list[str], model: type[BaseModel]) -> str:
    names = iter(path)
    for name in names:
        info = model.model_fields.get(name)
        if info is None:
            break
        inner = inner_model(info)
        if inner is None or (inner is MixSource and path[-1] == name):
            return allowed_values(info)
        model = inner
        if inner is MixSource:
            next(names, None)  # the name of the source
    return "the fields " + ", ".join(model.model_fields)


def allowed_values(info: FieldInfo) -> str:
    """What a field may hold, in words: `a whole number at least 1, or null`."""
    if words := next((found for part in info.metadata if (found := getattr(part, "allowed", ""))), ""):
        return str(words)
    kinds, optional = _kinds(info.annotation)
    bounds = " and ".join(
        f"{word} {getattr(constraint, name)}"
        for constraint in info.metadata
        for name, word in _BOUNDS.items()
        if getattr(constraint, name, None) is not None
    )
    pattern = next((f" matching {found}" for c in info.metadata if (found := getattr(c, "pattern", None))), "")
    text = " | ".join(kinds) + (f" {bounds}" if bounds else "") + pattern
    return f"{text}, or null" if optional else text


def _kinds(annotation: Any) -> tuple[list[str], bool]:
    """Words for a type, and whether null is allowed."""
    origin = get_origin(annotation)
    if origin is Literal:
        return [format_value(option) for option in get_args(annotation)], False
    if origin in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return [word for part in parts for word in _kinds(part)[0]], type(None) in get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [f"{{{': …, '.join(annotation.model_fields)}: …}}"], False
    if hasattr(annotation, "__metadata__"):
        return _kinds(annotation.__origin__)
    return [_WORDS.get(annotation, "a text or a list of texts")], False
