"""YAML text → plain values and the line of every key, with mistakes in the YAML itself.

YAML 1.2 by ruamel.yaml: `1e-3` is a number, `no` is a string. The text is parsed once into nodes, which know
their lines; duplicate keys are therefore reported with all other mistakes and not instead of them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from harness.core.errors import Problem, SpecError
from harness.core.text import shown

# A spec has some dozens of values. The bound stops nested aliases ("billion laughs") and endless recursion.
MAX_VALUES = 5000
MAX_DEPTH = 50
MAX_BYTES = 1_000_000

_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")
}


@dataclass(frozen=True)
class Document:
    """A parsed file: plain values, the line (from 1) of every dotted path, and the mistakes so far."""

    file: str
    values: dict[str, Any]
    lines: Mapping[str, int]
    problems: tuple[Problem, ...] = ()

    def line(self, path: str) -> int:
        """Line of a path, or of the nearest parent that is written in the file; 1 where nothing is."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path.rpartition(".")[0]
        return 1


@dataclass
class _Reader:
    file: str
    yaml: YAML
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    seen: int = 0

    def report(self, line: int, path: str, message: str) -> None:
        self.problems.append(Problem(self.file, line, path, message))

    def value(self, node: Node, path: str) -> Any:
        self.seen += 1
        line = node.start_mark.line + 1
        if self.seen > MAX_VALUES or path.count(".") > MAX_DEPTH:
            message = f"is nested beyond {MAX_DEPTH} levels or has more than {MAX_VALUES:,} values (aliases?)"
            raise SpecError([Problem(self.file, line, "", message)])
        if node.tag not in _PLAIN_TAGS:
            self.report(line, path, f"found a value tagged {node.tag}; allowed: plain values")
            if isinstance(node, ScalarNode):
                return str(node.value)
        if isinstance(node, MappingNode):
            return self.mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.value(item, f"{path}.{i}") for i, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        try:
            return self.yaml.constructor.construct_object(node)
        except (YAMLError, ValueError, LookupError, AttributeError, ArithmeticError):  # no date, no number
            kind = str(node.tag).rpartition(":")[2]
            self.report(
                line,
                path,
                f"found {shown(node.value)}, which is not a valid {kind}; allowed: a valid one, or a text in quotes",
            )
            return node.value

    def mapping(self, node: MappingNode, path: str) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value if isinstance(key_node, ScalarNode) else None
            here = f"{path}.{key}" if path else str(key)
            if key is None:
                self.report(line, path, "found a key that is not a plain word; allowed: field names")
            elif key in plain:
                first = self.lines[here]
                self.report(line, here, f"found twice (first on line {first}); allowed: once")
            else:
                self.lines[here] = line
                plain[key] = self.value(value_node, here)
        return plain


def read_yaml(path: Path) -> Document:
    """Read a YAML file whose top level is a mapping.

    Raises:
        SpecError: the file cannot be read, is not UTF-8, or is not a YAML mapping.
    """
    file = str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError([Problem(file, 0, "", f"cannot be read: {error.strerror or error}")]) from error
    if len(raw) > MAX_BYTES:
        raise SpecError([Problem(file, 0, "", f"is larger than {MAX_BYTES:,} bytes; a spec is a page of YAML")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SpecError([Problem(file, line, "", f"byte {error.start} is not UTF-8")]) from error
    return parse_yaml(text, file)


def parse_yaml(text: str, file: str) -> Document:
    """The same for text; `file` is what messages name."""
    for number, start in enumerate(re.split("\r\n|[\r\n\x85\u2028\u2029]", text), 1):  # in YAML 1.1, `no` means false
        if start.startswith("%YAML") and start.split()[1:2] != ["1.2"]:
            raise SpecError([Problem(file, number, "", f"found {shown(start.strip())}; allowed: YAML 1.2")])
    yaml = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # about an anchor that is defined again: the later definition counts
            node = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        raise SpecError([Problem(file, line, "", f"is not valid YAML: {error.problem or error.context}")]) from error
    except (YAMLError, ValueError) as error:
        raise SpecError([Problem(file, 0, "", f"is not valid YAML: {' '.join(str(error).split())}")]) from error
    except RecursionError:
        raise SpecError([Problem(file, 1, "", "is nested too deeply for a spec")]) from None
    if not isinstance(node, MappingNode):
        found = "nothing" if node is None else "a list" if isinstance(node, SequenceNode) else "a single value"
        raise SpecError([Problem(file, 1, "", f"found {found}; allowed: fields (name:, data:, train:, …)")])
    reader = _Reader(file, yaml)
    try:
        values = reader.mapping(node, "")
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 0
        raise SpecError([Problem(file, line, "", f"is not valid YAML: {getattr(error, 'problem', error)}")]) from error
    return Document(file, values, reader.lines, tuple(reader.problems))


def parse_value(text: str) -> Any:
    """One YAML value from the command line: `50_000`, `1e-3`, `[0.0, 0.1]`, `muon`.

    Raises:
        SpecError: the text is not a YAML value.
    """
    return parse_yaml("value: " + text, "--set").values.get("value")
