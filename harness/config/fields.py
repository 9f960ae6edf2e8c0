"""The fields of a run by dotted path, such as `train.budget.tokens`: list, set and name them.

`compare`, `tune`, `--set`, stored parameters and tables use these paths.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from harness.config.mixture import MIX, is_mix_field, plain_path
from harness.config.run import RunConfig
from harness.core.secrets import kept_in_memory
from harness.core.text import printable

# Fields that exclude each other: setting one, by an arm or from the command line, clears the others of its group.
EXCLUSIVE: Final[tuple[frozenset[str], ...]] = (
    frozenset({"data.corpus", "data.path", "data.url", "data.mix"}),
    frozenset({"train.batch_tokens", "train.batch_size"}),
    frozenset(f"train.budget.{kind}" for kind in ("tokens", "epochs", "steps", "flops", "seconds")),
    frozenset(f"train.eval_every.{kind}" for kind in ("tokens", "epochs", "steps")),
)


def override(written: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested mappings with `values` (dotted path → value) set and what they exclude cleared."""
    plain = {key: _copy(part) for key, part in written.items()}
    for path, value in values.items():
        for group in EXCLUSIVE:
            if path in group:
                for other in group - {path}:
                    _remove(plain, other)
        if plain_path(path) in ("data.corpus", "data.path") and path.startswith(MIX):
            for other in ("corpus", "path"):
                _remove(plain, f"{path.rpartition('.')[0]}.{other}")
        if path in ("data.corpus", "data.path"):
            _remove(plain, "data.sha256")
        if path == "model.init_from":
            _remove(plain, "model.init_sha256")
        *parents, leaf = path.split(".")
        here = plain
        for depth, name in enumerate(parents):
            if depth and not isinstance(here.get(name, {}), dict):  # `study.seeds.max=8` replaces `seeds: 4`
                here[name] = {}
            here = here.setdefault(name, {})
            if not isinstance(here, dict):  # `train: 3` is reported by validation, with its line
                break
        else:
            here[leaf] = value
    return plain


def _copy(value: Any) -> Any:
    return {key: _copy(part) for key, part in value.items()} if isinstance(value, Mapping) else value


def _remove(plain: dict[str, Any], path: str) -> None:
    *parents, leaf = path.split(".")
    here: Any = plain
    for name in parents:
        here = here.get(name) if isinstance(here, dict) else None
    if isinstance(here, dict):
        here.pop(leaf, None)


def without_secret_addresses(written: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a spec's sections with the addresses of `data.url` without passwords and signed queries.

    So are those that are compared or tuned: arms and runs are named after them.
    """
    plain = dict(written)
    for section, field in (("data", "url"), *((name, "data.url") for name in ("compare", "baseline", "tune"))):
        part = plain.get(section)
        if isinstance(part, dict) and field in part:
            plain[section] = {**part, field: _without_secrets(part[field])}
    return plain


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_secrets(part) for part in value]
    return kept_in_memory(value) if isinstance(value, str) else value


def field_paths(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Dotted paths of every field that can be compared, tuned or set: `model.drop_rate`, `train.budget.tokens`, …"""
    paths: list[str] = []
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            paths += field_paths(info.annotation, f"{prefix}{name}.")
        else:
            paths.append(f"{prefix}{name}")
    return paths if prefix else [*paths, "model.preset"]


def is_field(path: str) -> bool:
    """Whether a path is that of a field: one of `field_paths`, or of a source of a mixture."""
    return path in field_paths() or is_mix_field(path)


def short_name(path: str) -> str:
    """The last word of a path, or its last two where one is ambiguous (`budget.tokens`, `books.weight`)."""
    if is_mix_field(path):
        return path.removeprefix(MIX)
    leaf = path.rpartition(".")[2]
    twins = [other for other in field_paths() if other.rpartition(".")[2] == leaf]
    return leaf if len(twins) < 2 else ".".join(path.split(".")[-2:])


def format_value(value: Any) -> str:
    """A value as YAML writes it, without loss, on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, float) else str(value)
    return text if printable(text) == text else json.dumps(text)


def arm_name(values: Mapping[str, Any]) -> str:
    """`drop_rate=0.1, qkv_bias=true`; `all` for the only arm of a plain search."""
    return ", ".join(f"{short_name(path)}={format_value(value)}" for path, value in values.items()) or "all"


def value_key(value: Any) -> tuple[bool, Any]:
    """A key that is equal for equal values: 1 and 1.0 are equal, 1 and true are not."""
    return isinstance(value, bool), str(value) if isinstance(value, list) else value
