"""The values of `data.tokenizer`: names, recipes and files. Nothing is loaded here: a spec is checked first.

A recipe is written `{train: bpe, vocab_size: 1000}` and stored in its short form `bpe-1000`, which is allowed too. So
arms, parameters and tables have one plain value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.core.text import shown, unknown

# Vocabulary sizes of tiktoken's encodings (`Encoding.n_vocab`) and of plain bytes. A test compares the table with
# tiktoken's own definitions.
VOCABULARY: Final[Mapping[str, int]] = {
    "byte": 256,
    "gpt2": 50257,
    "r50k_base": 50257,
    "p50k_base": 50281,
    "p50k_edit": 50284,
    "cl100k_base": 100277,
    "o200k_base": 200019,
    "o200k_harmony": 201088,
}

CHAR: Final = "char"
JSON: Final = ".json"  # of Hugging Face's tokenizers
SENTENCEPIECE: Final = ".model"
SMALLEST: Final = 257  # of a trained vocabulary: every byte, and the end of a text
LARGEST: Final = 1_000_000

_FIELD: Final = "data.tokenizer"
_TRAINED: Final = re.compile(r"bpe-([1-9][0-9]{0,9})")
_RECIPE: Final = "{train: bpe, vocab_size: 4096}"
_OTHERS: Final = f"{CHAR}, {_RECIPE}, or a path that ends in {JSON} or {SENTENCEPIECE}"


@dataclass(frozen=True)
class AllowedTokenizers:
    """What `data.tokenizer` may hold, in words, for messages and the reference."""

    allowed: str = f"{', '.join(VOCABULARY)}, {_OTHERS}"


def short_form(value: object) -> object:
    """`bpe-1000` for `{train: bpe, vocab_size: 1000}`; a text as it is.

    Raises:
        ValueError: neither a text nor such a recipe.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"found {shown(value)}; allowed: {AllowedTokenizers.allowed}")
    if set(value) != {"train", "vocab_size"} or value["train"] != "bpe":
        raise ValueError(f"found {shown(dict(value))}; allowed: train and vocab_size, such as {_RECIPE}")
    size = value["vocab_size"]
    if isinstance(size, float) and size.is_integer():
        size = int(size)  # YAML reads 1e3 as a float
    if type(size) is not int:
        raise ValueError(f"found vocab_size {shown(size)}; allowed: a whole number from {SMALLEST} to {LARGEST:,}")
    return f"bpe-{size}" if size >= 0 else f"bpe {size}"


def check_name(name: str) -> str:
    """The value itself.

    Raises:
        ValueError: no tokenizer can have this name.
    """
    if name in VOCABULARY or name == CHAR or is_file(name):
        return name
    if found := re.fullmatch(r"bpe[- ](.*)", name):
        if (size := trained_size(name)) is None or not SMALLEST <= size <= LARGEST:
            raise ValueError(
                f"found vocab_size {shown(found[1])[1:-1]}; allowed: a whole number from {SMALLEST} (every byte and "
                f"the end of a text) to {LARGEST:,}"
            )
        return name
    if "/" in name or "\\" in name:
        raise ValueError(f"found {shown(name)}; allowed: a path that ends in {JSON} or {SENTENCEPIECE}, or a name")
    raise ValueError(f"{unknown(name, VOCABULARY, 'tokenizer')}, {_OTHERS}")


def trained_size(name: str) -> int | None:
    """The vocabulary size that a recipe asks for; None for other tokenizers."""
    found = _TRAINED.fullmatch(name)
    return int(found[1]) if found else None


def is_file(name: str) -> bool:
    """Whether it is the path of a `tokenizer.json` or of a SentencePiece model."""
    return name.endswith((JSON, SENTENCEPIECE))


def is_own(name: str) -> bool:
    """Whether the vocabulary is known only once a file is read or a text is seen."""
    return name not in VOCABULARY


def most_ids(name: str) -> int | None:
    """The size of the vocabulary, or a bound of it; None if it is unknown."""
    return VOCABULARY.get(name, trained_size(name))


def with_short_forms(values: Mapping[str, Any]) -> dict[str, Any]:
    """A spec's sections with the short form of every recipe; what is no recipe stays for the checks that follow."""
    plain = dict(values)
    for section, field in (("data", "tokenizer"), *((name, _FIELD) for name in ("compare", "baseline", "tune"))):
        part = plain.get(section)
        if not isinstance(part, dict) or field not in part:
            continue
        written = part[field]
        if section == "tune":
            if isinstance(written, dict) and isinstance(written.get("choice"), list):
                plain[section] = {**part, field: {**written, "choice": _shortened(written["choice"])}}
        else:
            plain[section] = {**part, field: _shortened(written)}
    return plain


def _shortened(value: Any) -> Any:
    if isinstance(value, list):
        return [_shortened(part) for part in value]
    try:
        return short_form(value) if isinstance(value, Mapping) else value
    except ValueError:
        return value


def wrong_recipe(values: object) -> str:
    """The mistake in the first recipe of a list that has one; else an empty text."""
    for value in values if isinstance(values, Sequence) and not isinstance(values, str) else ():
        try:
            if isinstance(value, Mapping):
                short_form(value)
        except ValueError as error:
            return str(error)
    return ""
