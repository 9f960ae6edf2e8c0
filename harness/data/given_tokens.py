"""A corpus of token files: its ids, checked against its hash and its tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from harness.data.corpora import Corpus
from harness.data.errors import CorpusError
from harness.data.token_files import read_ids
from harness.data.tokenizer import Ids, Tokenizer


def ids_of(corpus: Corpus) -> Iterator[Ids]:
    """Yield the ids of a corpus of token files in pieces.

    Raises:
        CorpusError: they are no longer those of its `sha256`, or cannot be read.
    """
    digest = hashlib.sha256()
    for _, ids in read_ids(file.source for file in corpus.files):
        digest.update(ids.tobytes())
        yield ids
    if digest.hexdigest() != corpus.sha256:
        raise CorpusError(
            corpus.field,
            f"found other tokens in {corpus.source} while they were read; allowed: files that do not change",
        )


def check_ids(corpus: Corpus, tokenizer: Tokenizer) -> None:
    """Raise CorpusError if token files have ids that a tokenizer does not have, or whose bytes it does not tell."""
    if not tokenizer.lossless:
        raise CorpusError(
            "data.tokenizer",
            f"found {tokenizer.name} with token files, whose text has an unknown number of bytes; allowed: a tokenizer "
            "that keeps the whole text",
        )
    for part in corpus.parts:
        place = 0
        for ids in ids_of(part):
            if (wrong := np.flatnonzero(ids >= tokenizer.n_vocab)).size:
                raise CorpusError(
                    "data.tokenizer",
                    f"found {tokenizer.name}, which has {tokenizer.n_vocab:,} tokens, and the id {ids[wrong[0]]:,} as "
                    f"token {place + int(wrong[0]):,} of {part.name}; allowed: the tokenizer that wrote the file",
                )
            place += len(ids)
