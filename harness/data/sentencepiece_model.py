"""A SentencePiece model as a `Tokenizer`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from harness.data.errors import CorpusError
from harness.data.tokenizer import Ids, Tokenizer, TokenizerFile
from harness.data.tokenizer_json import INSTALL

_SPACE: Final = "\u2581"
_BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")


def read_sentencepiece(name: str, file: TokenizerFile) -> Tokenizer:
    """The tokenizer of a SentencePiece model; no token is added at the begin or the end of a text.

    Control symbols in a text, such as `</s>`, are plain text. User-defined symbols are found in a text, as the library
    does. Most models change white space and Unicode's normal form, so they are not lossless, and a text is encoded as a
    whole.

    Args:
        name: as in `data.tokenizer`.
        file: the `.model` file.

    Raises:
        CorpusError: the library is not installed, or cannot read the file.
    """
    inner = _load(name, file.content)
    size = inner.get_piece_size()
    special = {inner.id_to_piece(token): token for token in range(size) if inner.is_control(token)}
    unknown, end = inner.unk_id(), inner.eos_id()

    def encode_array(text: str) -> Ids:
        text.encode()  # raises UnicodeEncodeError for a lone surrogate
        return np.array(inner.encode(text, return_type="numpy"), np.int64)

    def starts(text: str) -> Sequence[int]:
        return [piece.begin for piece in inner.encode(text, return_type="proto").pieces]

    return Tokenizer(
        name,
        [_piece(inner.id_to_piece(token)) for token in range(size)],
        encode_array,
        lossless=False,
        cuts="nowhere",
        special=special,
        end_of_text=end if end >= 0 else None,
        unknown=unknown if unknown >= 0 else None,
        file=file,
        whole_decode=lambda ids: str(inner.decode(ids)),
        token_starts=starts,
    )


def _piece(text: str) -> bytes:
    byte = _BYTE.fullmatch(text)
    return bytes([int(byte[1], 16)]) if byte else text.replace(_SPACE, " ").encode()


def _load(name: str, content: bytes) -> Any:
    try:
        import sentencepiece  # not at the top: it is an extra
    except ImportError:
        raise CorpusError(
            "data.tokenizer",
            f"found {name!r}, which needs the package sentencepiece, and that is not installed; allowed: `{INSTALL}`",
        ) from None
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except RuntimeError:
        raise CorpusError(
            "data.tokenizer",
            f"found {name!r}, which SentencePiece cannot read; allowed: a .model file that it has trained",
        ) from None
