"""Broken specs that hypothesis makes from valid ones.

Three kinds, each built on the one before: values (another type, range, name or structure), YAML text (duplicate keys,
anchors, tags, indentation, stray characters), bytes (another encoding, truncation, flipped bits).
"""

from __future__ import annotations

import copy
import functools
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st
from ruamel.yaml import YAML

from paths import EXPERIMENTS

# Text with a special meaning for terminals, HTML, file systems, YAML or regular expressions.
TEXTS = [
    *(
        "",
        " ",
        "no",
        "null",
        "~",
        "1e3",
        "0x1F",
        "2024-13-45",
        "*",
        "../../etc/passwd",
        "/",
        "~nobody/x",
        "a/b",
        "[x",
        "**",
    ),
    *("\x1b[31mred\x1b]0;title\x07", "a\r\nb", "\x00", "\x7f\x85\u2028\u202e", "\ud800", "\U0001f600", "名前"),
    *("<script>alert(1)</script>", "{{ 7 * 7 }}", "$(id)", "`id`", "%s%n", "[bold]x[/bold]", "x" * 300, "x" * 70_000),
]
NUMBERS: list[Any] = [
    *(0, 1, -1, 2, 3, 7, 256, 257, 1000, 2**31, 2**53, 2**63, 2**64, 10**20, 10**400, -(10**400)),
    *(0.0, -0.0, 0.1, 0.5, 1.0, 1.5, -0.5, 1e-320, 1e-12, 1e17, 1e300, 1.7e308),
    *(float("inf"), float("-inf"), float("nan"), True, False, None),
]
PATHS = [
    *(
        "model.drop_rate",
        "model.context_length",
        "model.emb_dim",
        "model.preset",
        "model.vocab_size",
        "train.optimizer",
    ),
    *(
        "train.learning_rate",
        "train.seed",
        "train.budget",
        "train.budget.tokens",
        "train.budget.flops",
        "train.compile",
    ),
    *(
        "train.batch_size",
        "train.batch_tokens",
        "train.sample.top_k",
        "train.eval_every.steps",
        "train.checkpoint_every",
    ),
    *(
        "data.tokenizer",
        "data.corpus",
        "data.path",
        "data.split.val",
        "study.seeds",
        "droprate",
        "model",
        "",
        ".",
        "a..b",
    ),
]
KINDS = ["uniform", "log_uniform", "int_uniform", "choice"]
NAMES = [
    *("name", "question", "data", "model", "train", "compare", "baseline", "tune", "study", "corpus", "path", "split"),
    *(
        "val",
        "test",
        "budget",
        "tokens",
        "epochs",
        "steps",
        "seconds",
        "sampler",
        "trials",
        "seeds",
        "min",
        "max",
        "seed",
    ),
    *("modle", "Name", "__class__", "__proto__", "model.emb_dim", "<<", "?", "-"),
]
TAGS = [
    *(
        "!!str",
        "!!int",
        "!!float",
        "!!bool",
        "!!null",
        "!!binary",
        "!!timestamp",
        "!!set",
        "!!omap",
        "!!pairs",
        "!!map",
    ),
    *("!!seq", "!!merge", "!!python/object/apply:os.system", "!local", "!<tag:example.org,2002:x>", "!", "!!"),
]

scalars = st.one_of(st.sampled_from(TEXTS), st.sampled_from(NUMBERS), st.sampled_from(PATHS), st.text(max_size=8))
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES + KINDS + PATHS), inner, max_size=4)
    ),
    max_leaves=6,
)
dimensions = st.dictionaries(
    st.sampled_from(KINDS), st.lists(st.sampled_from(NUMBERS) | scalars, max_size=3), max_size=2
)
varied = st.dictionaries(
    st.sampled_from(PATHS), st.lists(st.sampled_from(NUMBERS) | values, max_size=4) | dimensions, max_size=3
)


@functools.cache
def valid_specs() -> list[dict[str, Any]]:
    """The shipped experiments as plain values."""
    return [YAML(typ="safe", pure=True).load(path) for path in EXPERIMENTS]


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every nested value."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from _places(value, (*path, key))


def _change(draw: Callable[..., Any], spec: dict[str, Any]) -> None:
    """Change, remove or rename one value of `spec`."""
    places = list(_places(spec))
    if not places:
        return
    *parents, key = draw(st.sampled_from(places))
    here: Any = spec
    for name in parents:
        here = here[name]
    match draw(st.sampled_from(["value", "value", "value", "drop", "rename", "add", "wrap", "text", "vary", "swap"])):
        case "value":
            here[key] = draw(values)
        case "drop":
            del here[key]
        case "rename" if isinstance(here, dict):
            here[draw(st.sampled_from(NAMES + PATHS))] = here.pop(key)
        case "add" if isinstance(here, dict):
            here[draw(st.sampled_from(NAMES + PATHS))] = draw(values)
        case "wrap":
            here[key] = draw(st.sampled_from([lambda v: [v], lambda v: {"a": v}, lambda v: [v, v]]))(here[key])
        case "text":
            here[key] = str(here[key])
        case "vary":
            spec[draw(st.sampled_from(["compare", "tune", "baseline"]))] = draw(varied)
        case "swap":
            *others, other = draw(st.sampled_from(places))
            there: Any = spec
            for name in others:
                there = there[name]
            here[key], there[other] = copy.deepcopy(there[other]), copy.deepcopy(here[key])


@st.composite
def changed_values(draw: Callable[..., Any]) -> str:
    """YAML text of a shipped experiment with one to three values, names or parts changed."""
    spec = copy.deepcopy(draw(st.sampled_from(valid_specs())))
    for _ in range(draw(st.integers(1, 3))):
        _change(draw, spec)
    if draw(st.booleans()):
        return json.dumps(spec, indent=1)
    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(spec, stream)
    return stream.getvalue()


def _change_text(draw: Callable[..., Any], text: str) -> str:
    """Make one mistake in a YAML text."""
    lines = text.splitlines(keepends=True) or [""]
    i = draw(st.integers(0, len(lines) - 1))
    line = lines[i]
    j = draw(st.integers(0, len(line)))
    match draw(
        st.sampled_from(
            ["duplicate", "delete", "indent", "anchor", "tag", "character", "comment", "document", "deep", "bomb"]
        )
    ):
        case "duplicate":
            lines.insert(i, line)
        case "delete":
            del lines[i]
        case "indent":
            lines[i] = draw(st.sampled_from([" ", "  ", "\t", "- ", "? ", "\u00a0"])) + line
        case "anchor":
            lines[i] = line.replace(": ", draw(st.sampled_from([": &a ", ": *a ", ": &a *a ", ": &a [*a] #"])), 1)
            lines.append(draw(st.sampled_from(["", "data: *a\n", "<<: *a\n", "compare: {<<: *a}\n"])))
        case "tag":
            lines[i] = line.replace(": ", f": {draw(st.sampled_from(TAGS))} ", 1)
        case "character":
            inserted = draw(
                st.sampled_from([*"{}[]:,#&*!|>'\"%@`?-\\\t\r\0\x07\x1b\x85\ufeff\u2028\U0001f600"]) | st.characters()
            )
            lines[i] = line[:j] + inserted + line[j + draw(st.integers(0, 1)) :]
        case "comment":
            lines[i] = line[:j] + " # " + line[j:]
        case "document":
            lines.insert(
                i,
                draw(st.sampled_from(["---\n", "...\n", "--- !x\n", "%YAML 1.1\n---\n", "%TAG ! x\n", "%YAML 9.9\n"])),
            )
        case "deep":
            opening = draw(st.sampled_from(["[", "{a: ", "- ", "? "]))
            lines[i] = line.rstrip("\n") + opening * draw(st.sampled_from([3, 60, 400])) + "\n"
        case "bomb":
            lines.append(
                "bomb0: &b0 [x, x, x]\n"
                + "".join(f"bomb{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 9))
            )
    return "".join(lines)


@st.composite
def changed_texts(draw: Callable[..., Any]) -> str:
    """The YAML text of a shipped experiment, perhaps with changed values, with one to three mistakes."""
    text = draw(st.sampled_from([path.read_text("utf-8") for path in EXPERIMENTS]) | changed_values())
    for _ in range(draw(st.integers(1, 3))):
        text = _change_text(draw, text)
    return text


@st.composite
def changed_bytes(draw: Callable[..., Any]) -> bytes:
    """The file of a valid or broken spec in another encoding, truncated, or with changed bytes."""
    text = draw(st.sampled_from([path.read_text("utf-8") for path in EXPERIMENTS]) | changed_texts())
    encoding = draw(
        st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp037", "utf-7"])
    )
    raw = text.encode(encoding, "surrogatepass" if encoding.startswith("utf-") and encoding != "utf-7" else "replace")
    match draw(st.sampled_from(["", "crlf", "cr", "cut", "flip", "insert", "nul"])):
        case "crlf":
            raw = raw.replace(b"\n", b"\r\n")
        case "cr":
            raw = raw.replace(b"\n", b"\r")
        case "cut":
            raw = raw[: draw(st.integers(0, len(raw)))]
        case "flip" if raw:
            i = draw(st.integers(0, len(raw) - 1))
            raw = raw[:i] + bytes([raw[i] ^ (1 << draw(st.integers(0, 7)))]) + raw[i + 1 :]
        case "insert":
            i = draw(st.integers(0, len(raw)))
            raw = raw[:i] + draw(st.binary(min_size=1, max_size=4)) + raw[i:]
        case "nul":
            raw += bytes(draw(st.integers(1, 9)))
    return raw
