"""Compares cached tokens with their text: checksums that fit prove nothing about who wrote them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np

from harness.config.run import DataConfig
from harness.data.corpora import Corpus
from harness.data.documents import MARK
from harness.data.encoding import FIRST_BYTES, TOKEN_BYTES, VOCABULARY, blocks, encode_block, first_bytes, mark_id
from harness.data.splitting import SPLITS, Division
from harness.data.tokenizer import Ids, Tokenizer

ENCODED_AGAIN: Final = 2_000_000  # characters of a text, at random places; shorter texts are encoded as a whole
_BLOCK: Final = 1 << 14  # characters that are compared at a time


class AlteredError(ValueError):
    """Cached tokens are not what was written, or not those of the text; the message says where."""


def compare_tokens(
    arrays: Mapping[str, Ids], split_bytes: Mapping[str, int], corpus: Corpus, config: DataConfig, tokenizer: Tokenizer
) -> None:
    """Compare cached tokens with the text, or with the token files, that they were made of.

    A text of more than `ENCODED_AGAIN` characters is encoded again at random places only; elsewhere its tokens are
    decoded, unless the tokenizer is not lossless.

    Args:
        arrays: the cached arrays by name.
        split_bytes: split → UTF-8 bytes of its text, as cached.
        corpus: the text.
        config: the split.
        tokenizer: of the tokens.

    Raises:
        AlteredError: they are other tokens.
        CorpusError: the text cannot be read or has changed.
    """
    vocabulary = arrays.get(VOCABULARY)
    pieces = list(tokenizer.pieces)
    if (mark := mark_id(corpus, tokenizer)) is not None:
        pieces[mark] = b""
    if vocabulary is not None:
        if not (len(vocabulary) and vocabulary[0] >= 0 and (np.diff(vocabulary) > 0).all()):
            raise AlteredError(f"{VOCABULARY}.npy is no set of ids")
        pieces = [pieces[token] for token in vocabulary.tolist()]
    lengths = np.fromiter(map(len, pieces), np.int64, count=len(pieces))
    if not np.array_equal(lengths, arrays[TOKEN_BYTES]):
        raise AlteredError(f"{TOKEN_BYTES}.npy is of another tokenizer")
    division = Division(corpus, config.split)
    found = (
        _of_ids(arrays, division, vocabulary, lengths)
        if corpus.token_ids
        else _of_text(arrays, division, tokenizer, pieces, lengths)
    )
    sizes, counts = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    seen = np.zeros(len(pieces), bool)
    for split, ids, size, first in found:
        if not sizes[split] and FIRST_BYTES in arrays and arrays[FIRST_BYTES][SPLITS.index(split)] != first:
            raise AlteredError(f"{FIRST_BYTES}.npy has other sizes")
        seen[ids] = True
        counts[split] += len(ids)
        sizes[split] += size
    if sizes != split_bytes or any(len(arrays[split]) != count for split, count in counts.items()):
        raise AlteredError("the splits have other sizes than their text")
    if vocabulary is not None and not seen.all():
        raise AlteredError(f"{VOCABULARY}.npy has tokens that do not occur")


def _of_text(
    arrays: Mapping[str, Ids], division: Division, tokenizer: Tokenizer, pieces: list[bytes], lengths: Ids
) -> Iterator[tuple[str, Ids, int, int]]:
    """Yield (split, cached ids, bytes, bytes of the first token of the split) of each part of the text."""
    vocabulary, corpus = arrays.get(VOCABULARY), division.corpus
    share = 1.0 if tokenizer.name == "byte" or not tokenizer.lossless else ENCODED_AGAIN / max(1, corpus.characters)
    counts = dict.fromkeys(SPLITS, 0)
    for split, parts in groupby(division.pieces(), itemgetter(0)):
        for block in blocks(_cut(text for _, text in parts), tokenizer):
            raw = b"" if block == MARK else block.encode()
            ahead = arrays[split][counts[split] :]
            if block == MARK or random.SystemRandom().random() < share:
                again = encode_block(block, tokenizer)
                ids = ahead[: len(again)]
                same = np.array_equal(again, ids if vocabulary is None else vocabulary[ids])
            else:
                ahead = ahead[: len(raw)]
                ids = ahead[: np.searchsorted(np.cumsum(lengths[ahead]), len(raw)) + 1]
                same = bool(lengths[ids].all()) and b"".join([pieces[token] for token in ids.tolist()]) == raw
            if not same:
                raise AlteredError(f"{split}.npy has other tokens than the text")
            asked = not counts[split] and FIRST_BYTES in arrays
            counts[split] += len(ids)
            yield split, ids, len(raw), first_bytes(block, ids, tokenizer) if asked else 0


def _of_ids(
    arrays: Mapping[str, Ids], division: Division, vocabulary: Ids | None, lengths: Ids
) -> Iterator[tuple[str, Ids, int, int]]:
    """As `_of_text`, of token files."""
    counts = dict.fromkeys(SPLITS, 0)
    for split, wanted in division.ids():
        ids = arrays[split][counts[split] : counts[split] + len(wanted)]
        if not np.array_equal(wanted, ids if vocabulary is None else vocabulary[ids]):
            raise AlteredError(f"{split}.npy has other tokens than the file")
        counts[split] += len(ids)
        yield split, ids, int(lengths[ids].sum()), int(lengths[ids[0]])


def _cut(pieces: Iterable[str]) -> Iterator[str]:
    """The same text in pieces of at most `_BLOCK` characters."""
    for piece in pieces:
        yield from (piece[start : start + _BLOCK] for start in range(0, len(piece), _BLOCK))
