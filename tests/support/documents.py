"""The project's documents, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from paths import ROOT

LIMITS = {
    "README.md": 150,
    "experiments/README.md": 200,
    "experiments/bring_your_own/README.md": 200,
    "experiments/cluster/README.md": 200,
    "reports/README.md": 200,
    "mlruns/README.md": 200,
    "harness/README.md": 200,
    "tests/README.md": 200,
    "CONTRIBUTING.md": 200,
    "CHANGELOG.md": 200,
}

TEXTS = {name: (ROOT / name).read_text("utf-8") for name in (*LIMITS, "tests/bench/RECORDS.md")}

COMMANDS = ("sweep", "report", "compare", "generate", "replay", "export", "bench", "data")

# Placeholders of commands, and a value that each may have.
PLACEHOLDERS = {
    "SPEC": "experiments/dropout.yaml",
    "[SPEC]": "experiments/dropout.yaml",
    "NAME": "dropout",
    "RUN": "0a1b2c",
    "DIR": "exported",
    "RUN_A": "0a1b2c",
    "RUN_B": "3d4e5f",
    "CORPUS": "sotu-1820",
    "N": "4",
    "PATH=VALUE": "train.seed=2",
    "http://HOST:5000": "http://127.0.0.1:5000",
}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

INLINE = re.compile(r"`([^`\n]+)`")


def blocks(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks of a language."""
    return [body for found, body in FENCE.findall(text) if found == language]


def prose(text: str) -> str:
    """A document without its fenced blocks."""
    return FENCE.sub("", text)


def split_commands(script: str) -> Iterator[list[str]]:
    """The words of each command of a shell script, comments left out."""
    joined = re.sub(r"(?:\\|&&)\n", lambda found: found[0].replace("\n", " ").replace("\\", ""), script)
    for line in joined.splitlines():
        for command in re.split(r"\s&&\s", re.sub(r" > \S+$", "", line)):
            if words := shlex.split(command, comments=True):
                yield words


def commands_of(text: str) -> list[list[str]]:
    """Every command of a document: of its `sh` blocks, and those that stand in backticks."""
    found = [words for body in blocks(text, "sh") for words in split_commands(body)]
    inline = [code for code in INLINE.findall(prose(text)) if re.match(r"(python -m|python tests|pytest) ", code)]
    return found + [words for code in inline for words in split_commands(code)]


ALL = sorted({(name, shlex.join(words)) for name, text in TEXTS.items() for words in commands_of(text)})
