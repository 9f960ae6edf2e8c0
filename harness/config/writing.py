"""Configurations as plain values and as YAML text."""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from harness.config.base import Config
from harness.core.text import visible


def written_out(config: Config) -> dict[str, Any]:
    """Every field as a plain value; those that are None by default are left out."""
    plain: dict[str, Any] = {}
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Config):
            plain[name] = written_out(value)
        elif isinstance(value, dict):  # sources of a mixture
            plain[name] = {key: written_out(part) for key, part in value.items()}
        elif value is not None or info.default is not None:
            plain[name] = list(value) if isinstance(value, tuple) else value
    return plain


def as_yaml(plain: Any) -> str:
    """Plain values as YAML text, with control characters and marks of the writing direction escaped."""
    text = _dumped(plain)
    return text if visible(text) == text else visible(_dumped(_quoted(plain)))


def _dumped(plain: Any) -> str:
    yaml = YAML()
    yaml.width = 120
    stream = io.StringIO()
    yaml.dump(plain, stream)
    return stream.getvalue()


def _quoted(value: Any) -> Any:
    """The value with double quotes around every text that has characters which `visible` escapes."""
    if isinstance(value, dict):
        return {key: _quoted(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_quoted(part) for part in value]
    return DoubleQuotedScalarString(value) if isinstance(value, str) and visible(value) != value else value
