"""Texts and tokens of a notebook: a text becomes a file of the cache, tokens become arrays with a name of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.config.tokenizers import is_own
from harness.core.text import shown
from harness.data.cache import cache_folder, unusable_cache, write_private
from harness.data.corpora import Corpus
from harness.data.encoding import id_type
from harness.data.errors import CorpusError, reason
from harness.data.tokenizer import Ids, Tokenizer, get_tokenizer

_TEXTS: Final = "texts"  # folder of the cache
_FEWEST: Final = 2  # tokens of a split: one and its target


def text_file(text: str, cache: Path | None = None) -> Path:
    """A file of the cache with this text, named after its SHA-256.

    Raises:
        CorpusError: it is no text, or the cache folder cannot be written.
    """
    if not isinstance(text, str) or not text.strip():
        raise CorpusError("text", f"text: found {shown(text)}; allowed: a text with at least one word")
    folder = cache_folder(cache) / _TEXTS
    raw = text.encode()
    file = folder / f"text-{hashlib.sha256(raw).hexdigest()[:16]}.txt"
    try:
        if not file.is_file() or file.read_bytes() != raw:
            write_private(file, [raw])
    except OSError as error:
        raise unusable_cache(folder, reason(error)) from None
    return file


def known_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of ids that are given, which has to be a built-in one.

    Raises:
        CorpusError: it is another one.
    """
    if is_own(name):
        raise CorpusError(
            "tokenizer", f"tokenizer: found {shown(name)}; allowed for tokens: gpt2, byte, or a name of tiktoken"
        )
    return get_tokenizer(name)


def checked_ids(name: str, tokens: Sequence[int] | npt.ArrayLike, n_vocab: int, fewest: int = _FEWEST) -> Ids:
    """Token ids as an array, shape (tokens,): uint16 for vocabularies of up to 65,536, else uint32.

    Args:
        name: of the split, for messages.
        tokens: a list, an array of NumPy, or a tensor on the CPU.
        n_vocab: size of the vocabulary.
        fewest: tokens that are needed.

    Raises:
        CorpusError: they are no ids of this vocabulary.
    """
    found: npt.NDArray[Any] = np.asarray(tokens)
    if not found.size:
        found = found.astype(np.int64)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise CorpusError(
            name, f"{name}: found {found.dtype} of shape {found.shape}; allowed: whole numbers of shape (tokens,)"
        )
    if found.size < fewest:
        raise CorpusError(name, f"{name}: found {found.size} tokens; allowed: at least {fewest}")
    if found.size and not 0 <= int(found.min()) <= int(found.max()) < n_vocab:
        wrong = found.min() if found.min() < 0 else found.max()
        raise CorpusError(name, f"{name}: found the id {wrong}; allowed: 0 to {n_vocab - 1}, the ids of the tokenizer")
    return found.astype(id_type(n_vocab))


def corpus_of_tokens(digest: str) -> Corpus:
    """The description of a text of which only tokens are known; `digest`: SHA-256 of these, in hex."""
    return Corpus(f"tokens-{digest[:12]}", "tokens given in memory", digest, 0, (), "data.path", {})
