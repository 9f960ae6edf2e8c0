"""A `tokenizer.json` of Hugging Face's tokenizers as a `Tokenizer`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.core.text import shown
from harness.data.errors import CorpusError
from harness.data.tokenizer import END_OF_TEXT, Cuts, Ids, Tokenizer, TokenizerFile, printable_bytes

if TYPE_CHECKING:
    import tokenizers

INSTALL: Final = 'pip install "gpt-experiment-harness[tokenizers]"'
# Names of the token that ends a text, the likeliest first: a tokenizer.json does not say which one it is.
_ENDS: Final = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<|im_end|>", "[SEP]")
_LARGEST_ID: Final = 10_000_000
_SPACE: Final = "\u2581"  # how SentencePiece, and tokenizers made from it, write a space
_CONTINUED: Final = "##"  # how WordPiece writes a token that goes on with a word
# Pre-tokenizers that part words at white space and at every mark of `Tokenizer.last_cut`, and normalizers that look at
# one character and its combining marks.
_PART_WORDS: Final = frozenset({"BertPreTokenizer", "Whitespace"})
_BY_CHARACTER: Final = frozenset({"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"})
# Patterns of `Split` whose matches never cross a place that `Tokenizer.last_cut` gives: of cl100k_base and of
# Llama 3, which differ in their numbers only, and of Qwen 2. The last part of each is that of GPT-2's pattern.
_SAFE_PATTERNS: Final = frozenset(
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in ("", "{1,3}")
)


def read_json_tokenizer(name: str, file: TokenizerFile) -> Tokenizer:
    """The tokenizer that a `tokenizer.json` describes. Its template of special tokens is left out.

    Special tokens in a text are plain text. Added tokens that are not special, such as `<tool_call>` in some files, are
    found in a text, as the library does.

    Args:
        name: as in `data.tokenizer`.
        file: the `tokenizer.json`.

    Raises:
        CorpusError: the library is not installed, or cannot read the file.
    """
    library = import_tokenizers()
    try:
        inner = library.Tokenizer.from_str(file.content.decode())
        plain = json.loads(file.content)
    except Exception as error:  # the library raises a bare Exception
        raise CorpusError(
            "data.tokenizer",
            f"found {name!r}, which is no tokenizer.json ({shown(str(error))[1:-1]}); allowed: a file that Hugging "
            "Face's tokenizers loads",
        ) from None
    inner.no_truncation()
    inner.no_padding()
    inner.encode_special_tokens = True
    added = inner.get_added_tokens_decoder()
    special = {token.content: number for number, token in sorted(added.items()) if token.special}
    vocabulary = inner.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise CorpusError("data.tokenizer", f"found {name!r}, which has no tokens; allowed: at least one")
    if (largest := max(vocabulary.values())) > _LARGEST_ID:  # there is a row of the embedding for every id up to it
        raise CorpusError("data.tokenizer", f"found the id {largest:,} in {name!r}; allowed: at most {_LARGEST_ID:,}")
    lossless = _is_lossless(plain, vocabulary)
    byte_level = lossless or _byte_level(plain) is not None
    pieces = [b""] * (largest + 1)
    for text, number in vocabulary.items():
        pieces[number] = text.encode() if number in added else _piece(text, byte_level)

    def encode_array(text: str) -> Ids:
        text.encode()  # raises UnicodeEncodeError for a lone surrogate, where the library raises a TypeError
        return np.array(inner.encode(text, add_special_tokens=False).ids, np.int64)

    unknown = plain["model"].get("unk_token") if plain["model"].get("type") != "Unigram" else None
    unknown_id = plain["model"].get("unk_id") if unknown is None else vocabulary.get(unknown)
    return Tokenizer(
        name,
        pieces,
        encode_array,
        lossless=lossless,
        cuts=_cuts(plain) if lossless else _cuts_of_losing(plain),
        special=special,
        end_of_text=next((special[text] for text in _ENDS if text in special), None),
        unknown=None if lossless else unknown_id,
        file=file,
        whole_decode=None if lossless else lambda ids: str(inner.decode(ids, skip_special_tokens=False)),
        token_starts=None if lossless else lambda text: _starts(inner, text),
    )


def import_tokenizers() -> Any:
    """The library; a CorpusError says how to install it."""
    try:
        import tokenizers  # not at the top: it is an extra, and takes time
    except ImportError:
        raise CorpusError(
            "data.tokenizer", f"needs the package tokenizers, which is not installed; allowed: `{INSTALL}`"
        ) from None
    return tokenizers


def _starts(inner: tokenizers.Tokenizer, text: str) -> Sequence[int]:
    return [start for start, _ in inner.encode(text, add_special_tokens=False).offsets]


def _piece(text: str, byte_level: bool) -> bytes:
    """The bytes of a token of the vocabulary; approximate for a tokenizer that is not byte-level."""
    if byte_level and all(character in _BYTE_OF for character in text):
        return bytes(_BYTE_OF[character] for character in text)
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):  # a byte that the vocabulary falls back to
        try:
            return bytes([int(text[3:5], 16)])
        except ValueError:
            return text.encode()
    return text.replace(_SPACE, " ").removeprefix(_CONTINUED).encode()


_BYTE_OF: Final = {character: value for value, character in printable_bytes().items()}


def _steps(part: Mapping[str, Any] | None, inside: str) -> list[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, those of a `Sequence` one by one."""
    if part is None:
        return []
    if part.get("type") != "Sequence":
        return [part]
    return [step for inner in part[inside] for step in _steps(inner, inside)]


def _byte_level(plain: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The step that writes every byte as a character; None if there is none."""
    steps = _steps(plain.get("pre_tokenizer"), "pretokenizers")
    return next((step for step in steps if step.get("type") == "ByteLevel"), None)


def _is_lossless(plain: Mapping[str, Any], vocabulary: Mapping[str, int]) -> bool:
    """Whether the tokens of any text join to its bytes: a byte-level BPE that changes and drops nothing before."""
    model = plain["model"]
    steps = _steps(plain.get("pre_tokenizer"), "pretokenizers")
    level = _byte_level(plain)
    return (
        level is not None
        and steps[-1] is level
        and not level.get("add_prefix_space", True)
        and plain.get("normalizer") is None
        and model.get("type", "BPE") == "BPE"
        and not (model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("dropout"))
        and all(step.get("behavior", "Isolated") != "Removed" for step in steps)
        and all(step["type"] in ("Split", "Digits", "Punctuation", "ByteLevel") for step in steps)
        and all(character in vocabulary for character in _BYTE_OF)
        and not any((token["lstrip"] or token["rstrip"]) for token in _plain_added(plain))
    )


def _plain_added(plain: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Added tokens that the library finds in a text: those that are not special."""
    return [token for token in plain.get("added_tokens") or () if not token["special"]]


def _cuts_of_losing(plain: Mapping[str, Any]) -> Cuts:
    """Where a text may be cut, for a tokenizer that is not lossless: as BERT's, it looks at each word by itself.

    White space parts words and is dropped, a punctuation mark parts them too, and the normalizer changes no character
    by another one across such a place.
    """
    normalizers = _steps(plain.get("normalizer"), "normalizers")
    steps = _steps(plain.get("pre_tokenizer"), "pretokenizers")
    by_word = bool(steps) and steps[0]["type"] in _PART_WORDS
    alone = all(step["type"] in _BY_CHARACTER for step in normalizers)
    return "words" if by_word and alone and not _plain_added(plain) else "nowhere"


def _cuts(plain: Mapping[str, Any]) -> Cuts:
    """Where a text may be cut, for a lossless tokenizer: only where its pattern is one that is known."""
    steps = _steps(plain.get("pre_tokenizer"), "pretokenizers")
    if _plain_added(plain):  # one may reach across a cut
        return "nowhere"
    if len(steps) == 1:  # the pattern is GPT-2's
        return "words" if steps[0].get("use_regex", True) else "nowhere"
    safe = len(steps) == 2 and steps[0]["type"] == "Split" and not steps[0].get("invert")
    pattern = steps[0].get("pattern", {}).get("Regex") if safe else None
    known = pattern in _SAFE_PATTERNS and steps[0].get("behavior") == "Isolated"
    return "words" if known and not steps[1].get("use_regex", True) else "nowhere"
