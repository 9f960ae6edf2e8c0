"""A tokenizer as the files that Hugging Face's transformers loads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from harness.config.tokenizers import CHAR, is_own
from harness.data.errors import CorpusError
from harness.data.tokenizer import END_OF_TEXT, Tokenizer, printable_bytes

_EXPORTED: Final = ("gpt2", "r50k_base", "byte")  # they split text by GPT-2's pattern, or not at all
_JSON: Final = "tokenizer.json"


def tokenizer_files(tokenizer: Tokenizer, context_length: int) -> dict[str, bytes]:
    """File name → content of a tokenizer with its whole vocabulary.

    `AutoTokenizer` gives the same ids for every text, with two exceptions. Special tokens in a text are taken as such,
    where the harness reads them as plain text. A `tokenizer.json` of the user's is written as it is, so its template
    adds special tokens unless `add_special_tokens=False` is given.

    Args:
        tokenizer: of a run.
        context_length: of its model.

    Raises:
        CorpusError: transformers cannot load the tokenizer.
    """
    check_exported(tokenizer.name)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    names = {token: text for text, token in tokenizer.special.items()}
    if tokenizer.end_of_text is not None:
        settings |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), names[tokenizer.end_of_text])
    file = tokenizer.file
    if file is None:
        return {_JSON: _json(tokenizer_json(tokenizer)), "tokenizer_config.json": _json(settings)}
    if tokenizer.unknown is not None:
        settings["unk_token"] = tokenizer.pieces[tokenizer.unknown].decode()
    if file.name == _JSON:
        return {_JSON: file.content, "tokenizer_config.json": _json(settings)}
    if tokenizer.name == CHAR:
        return {_JSON: _json(_characters_json(tokenizer)), "tokenizer_config.json": _json(settings)}
    if any(len(piece) == 1 and piece[0] > 127 for piece in tokenizer.pieces):
        raise CorpusError(
            "data.tokenizer",
            f"found {tokenizer.name}, a SentencePiece model with tokens for single bytes, which transformers would "
            "write as <0xE9> in texts; allowed for an export: one without byte_fallback, or a tokenizer.json",
        )
    # A class of transformers that hands every text to SentencePiece as it is.
    settings |= {"tokenizer_class": "BertGenerationTokenizer", "pad_token": None, "sep_token": None}
    return {"spiece.model": file.content, "tokenizer_config.json": _json(settings)}


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The contents of `tokenizer.json`: the same ids for every text, except that `<|endoftext|>` is the special token.

    Raises:
        CorpusError: the tokenizer is another one than `gpt2`, `r50k_base` or `byte` with the whole vocabulary.
    """
    whole = tokenizer.name == "byte"
    end = None if whole else tokenizer.n_vocab - 1
    pieces = [piece for number, piece in enumerate(tokenizer.pieces) if number != end]
    sign = printable_bytes()
    names = ["".join(sign[value] for value in piece) for piece in pieces]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not whole}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ranks = {piece: number for number, piece in enumerate(pieces)}
    halves = [] if whole else [merged_from(piece, ranks) for piece in pieces if len(piece) > 1]
    return _byte_pairs(
        {name: number for number, name in enumerate(names)},
        [["".join(sign[value] for value in half) for half in pair] for pair in halves],
        level,
        level,
        added=[] if end is None else [{"id": end, "content": END_OF_TEXT, **special}],
    )


def _characters_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """A text is split into characters. One that is in the vocabulary is its id, any other one is its bytes."""
    sign = printable_bytes()
    vocabulary = {"".join(sign[value] for value in piece): number for number, piece in enumerate(tokenizer.pieces)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    each = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    split = {"type": "Sequence", "pretokenizers": [each, level]}
    return _byte_pairs(vocabulary, [], split, level, ignore_merges=True)


def _byte_pairs(
    vocabulary: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    pre_tokenizer: Mapping[str, Any],
    decoder: Mapping[str, Any],
    added: Sequence[Mapping[str, Any]] = (),
    ignore_merges: bool = False,
) -> dict[str, Any]:
    """A `tokenizer.json` of a byte pair encoding; `ignore_merges`: a part that is in the vocabulary is not merged."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(added),
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def check_exported(name: str) -> None:
    """Raise CorpusError if a built-in tokenizer has no `tokenizer.json` here."""
    if name not in _EXPORTED and not is_own(name):
        others = "char, a trained BPE, a tokenizer.json or a SentencePiece model"
        raise CorpusError("data.tokenizer", f"found {name}; allowed for an export: {', '.join(_EXPORTED)}, {others}")


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
