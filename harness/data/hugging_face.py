"""A tokenizer as the `tokenizer.json` of Hugging Face's tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from harness.data.errors import CorpusError
from harness.data.tokenizer import END_OF_TEXT, Tokenizer, printable_bytes

_EXPORTED: Final = ("gpt2", "r50k_base", "byte")  # they split text by GPT-2's pattern, or not at all


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The contents of `tokenizer.json`: the same ids for every text, except that `<|endoftext|>` is the special token.

    Raises:
        CorpusError: the tokenizer is another one than `gpt2`, `r50k_base` or `byte` with the whole vocabulary.
    """
    check_exported(tokenizer.name)
    whole = tokenizer.name == "byte"
    end = None if whole else tokenizer.n_vocab - 1
    pieces = [piece for number, piece in enumerate(tokenizer.pieces) if number != end]
    sign = printable_bytes()
    names = ["".join(sign[value] for value in piece) for piece in pieces]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not whole}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ranks = {piece: number for number, piece in enumerate(pieces)}
    halves = [] if whole else [merged_from(piece, ranks) for piece in pieces if len(piece) > 1]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [] if end is None else [{"id": end, "content": END_OF_TEXT, **special}],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: number for number, name in enumerate(names)},
            "merges": [["".join(sign[value] for value in half) for half in pair] for pair in halves],
        },
    }


def end_of_text(tokenizer: Tokenizer) -> int | None:
    """The id of `<|endoftext|>`; None if the tokenizer has none."""
    return None if tokenizer.name == "byte" else tokenizer.n_vocab - 1


def check_exported(name: str) -> None:
    """Raise CorpusError if a tokenizer has no `tokenizer.json` here."""
    if name not in _EXPORTED:
        raise CorpusError("data.tokenizer", f"found {name}; allowed for an export: {', '.join(_EXPORTED)}")


def merged_from(piece: bytes, ranks: Mapping[bytes, int]) -> Sequence[bytes]:
    """The two pieces that byte pair encoding joins into a longer one: what is left before its own, last merge.

    Args:
        piece: two bytes or more.
        ranks: piece → its rank, the order in which merges were learned (Sennrich et al. 2016).
    """
    parts = [bytes([value]) for value in piece]
    while len(parts) > 2:
        pairs = [ranks.get(parts[place] + parts[place + 1], len(ranks)) for place in range(len(parts) - 1)]
        place = pairs.index(min(pairs))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts
