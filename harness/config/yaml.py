"""YAML text → plain values and the line of every key, with mistakes in the YAML itself.

YAML 1.2 by ruamel.yaml: `1e-3` is a number, `no` is a string. The text is parsed once into nodes, which know
their lines; duplicate keys are therefore reported with all other mistakes and not instead of them.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.scanner import Scanner

from harness.core.errors import Problem, SpecError
from harness.core.links import open_regular
from harness.core.text import printable, shown

# A spec has some dozens of values. The bound stops nested aliases ("billion laughs") and endless recursion.
MAX_VALUES = 5000
MAX_DEPTH = 50
MAX_BYTES = 1_000_000

_MERGE_TAG = "tag:yaml.org,2002:merge"  # of the key `<<`
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

    def check_size(self, line: int, depth: int) -> None:
        self.seen += 1
        if self.seen > MAX_VALUES or depth > MAX_DEPTH:
            message = f"is nested beyond {MAX_DEPTH} levels or has more than {MAX_VALUES:,} values (aliases?)"
            raise SpecError([Problem(self.file, line, "", message)])

    def value(self, node: Node, path: str) -> Any:
        line = node.start_mark.line + 1
        self.check_size(line, path.count("."))
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
        self.add_fields(node, path, plain, 0)
        return plain

    def add_fields(self, node: MappingNode, path: str, plain: dict[str, Any], merges: int) -> None:
        """Add the fields of a mapping, and then those that it merges by `<<: *anchor` and does not have itself.

        Args:
            node: the mapping.
            path: of the mapping that gets the fields.
            plain: the fields so far; they are not overwritten.
            merges: how many merges lead from that mapping to `node`.
        """
        merged: list[MappingNode] = []
        here: dict[str, int] = {}  # key → line, in this node
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            self.check_size(line, merges)
            key = key_node.value if isinstance(key_node, ScalarNode) else None
            full = f"{path}.{key}" if path else str(key)
            if key is None:
                self.report(line, path, "found a key that is not a plain word; allowed: field names")
            elif key in here:
                self.report(line, full, f"found twice (first on line {here[key]}); allowed: once")
            elif key_node.tag == _MERGE_TAG:
                here[key] = line
                merged += self.merged_mappings(value_node, line, full)
            else:
                here[key] = line
                if key not in plain:
                    self.lines[full] = line
                    plain[key] = self.value(value_node, full)
        for other in merged:
            self.add_fields(other, path, plain, merges + 1)

    def merged_mappings(self, node: Node, line: int, path: str) -> list[MappingNode]:
        """The mappings under `<<`: one, or a list. Of a key that several have, the first one counts."""
        nodes = node.value if isinstance(node, SequenceNode) else [node]
        wrong = [one for one in nodes if not isinstance(one, MappingNode)]
        if wrong:
            found = "a list" if isinstance(wrong[0], SequenceNode) else shown(wrong[0].value)
            self.report(line, path, f"found {found}; allowed: an alias of a mapping, or a list of them")
        return [one for one in nodes if isinstance(one, MappingNode)]


class _ValueScanner(Scanner):
    """Scans one value. `*.txt` and `&c` are texts, as there is nothing that an alias could name.

    Comments and the marks of documents are refused or read as text: all that a user wrote is part of the value.
    """

    fetch_alias = Scanner.fetch_plain
    fetch_anchor = Scanner.fetch_plain

    def check_directive(self) -> Any:
        """There are none."""

    def check_document_start(self) -> Any:
        """There is no mark."""

    def check_document_end(self) -> Any:
        """There is no mark."""

    def scan_to_next_token(self) -> Any:
        """Skip white space. Raises SpecError at a comment."""
        start = self.reader.pointer
        super().scan_to_next_token()
        skipped = self.reader.buffer[start : self.reader.pointer].strip(" \t\r\n\ufeff")
        if skipped:
            message = f"found {shown(skipped)}, which YAML reads as a comment; allowed: a text with # in quotes"
            raise SpecError([Problem("--set", 0, "", message)])


def read_yaml(path: Path) -> Document:
    """Read a YAML file whose top level is a mapping.

    Raises:
        SpecError: the file cannot be read, is not UTF-8, or is not a YAML mapping.
    """
    file = str(path)
    try:
        with open_regular(path) as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        near = _similar_file(path) if isinstance(error, FileNotFoundError) else ""
        hint = f"; did you mean {near}?" if near else ""
        raise SpecError([Problem(file, 0, "", f"cannot be read: {error.strerror or error}{hint}")]) from error
    if len(raw) > MAX_BYTES:
        raise SpecError([Problem(file, 0, "", f"is larger than {MAX_BYTES:,} bytes; a spec is a page of YAML")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SpecError([Problem(file, line, "", f"byte {error.start} is not UTF-8")]) from error
    return parse_yaml(text, file)


def _similar_file(path: Path) -> str:
    """A YAML file with a similar name, in the folder that is named or in `experiments`; empty if there is none."""
    try:
        files = [file for folder in (path.parent, Path("experiments")) for file in sorted(folder.glob("*.yaml"))]
    except OSError:
        return ""
    by_stem = {file.stem: file for file in reversed(files)}
    near = difflib.get_close_matches(path.stem, by_stem, n=1, cutoff=0.6)
    return printable(str(by_stem[near[0]])) if near else ""


def parse_yaml(text: str, file: str) -> Document:
    """The same for text; `file` is what messages name."""
    for number, start in enumerate(re.split("\r\n|[\r\n\x85\u2028\u2029]", text), 1):  # in YAML 1.1, `no` means false
        if start.startswith("%YAML") and start.split()[1:2] != ["1.2"]:
            raise SpecError([Problem(file, number, "", f"found {shown(start.strip())}; allowed: YAML 1.2")])
    yaml = YAML(typ="safe", pure=True)
    node = _compose(yaml, text, file)
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
    """One YAML value from the command line: `50_000`, `1e-3`, `[0.0, 0.1]`, `muon`, `books/*.txt`.

    Raises:
        SpecError: the text is not a YAML value, or a part of it would be ignored.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Scanner = _ValueScanner
    node = _compose(yaml, text if "\n" in text else text.strip(), "--set")
    if node is None:
        return None
    reader = _Reader("--set", yaml)
    value = reader.value(node, "")
    if reader.problems:
        raise SpecError(reader.problems)
    return value


def _compose(yaml: YAML, text: str, file: str) -> Node | None:
    """The root of a document; None if it is empty. Raises SpecError if it is not YAML."""
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # about an anchor that is defined again: the later definition counts
            node: Node | None = yaml.compose(text)
    except SpecError:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        problem = error.problem or error.context or ""
        if "alias" in f"{problem} {error.context}":
            problem += "; a text that begins with * needs quotes"
        raise SpecError([Problem(file, line, "", f"is not valid YAML: {problem}")]) from error
    except (YAMLError, ValueError) as error:
        raise SpecError([Problem(file, 0, "", f"is not valid YAML: {' '.join(str(error).split())}")]) from error
    except RecursionError:
        raise SpecError([Problem(file, 1, "", "is nested too deeply for a spec")]) from None
    return node
