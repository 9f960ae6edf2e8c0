"""A warning about a tokenizer that does not keep the whole text."""

from __future__ import annotations

from typing import Final

import numpy as np

from harness.core.text import shown
from harness.data.corpora import Corpus
from harness.data.tokenizer import Ids, Tokenizer

_LOOK: Final = 100_000  # characters of the beginning of the text
_AROUND: Final = 12  # characters before and after the first difference


def lost_text(corpus: Corpus, whole: Tokenizer, codec: Tokenizer, val: Ids) -> str:
    """A sentence if decoding the tokens of the text does not give it back; empty if it does.

    What is lost costs no bits, so the model looks better than one whose tokenizer keeps the text.

    Args:
        corpus: the text.
        whole: the tokenizer, with all of its ids.
        codec: the same with the ids of the data set.
        val: tokens of the validation text.

    Raises:
        CorpusError: the text cannot be read.
    """
    if whole.lossless:
        return ""
    text = next(corpus.pieces())[:_LOOK]
    decoded = whole.decode(whole.encode(text))
    token = codec.unknown  # None with data.vocab: corpus where it does not occur
    unknown = 0.0 if token is None else float(np.mean(val == token))
    if decoded == text and not unknown:
        return ""
    found = [f"{unknown:.2%} of the validation tokens are its id for the unknown"] if unknown else []
    if decoded != text:
        ends = zip(text, decoded, strict=False)
        place = next((at for at, (one, other) in enumerate(ends) if one != other), min(len(text), len(decoded)))
        part = slice(max(0, place - _AROUND), place + _AROUND)
        found.insert(0, f"{shown(text[part])} comes back as {shown(decoded[part])}")
    return (
        f"the tokenizer {whole.name} does not keep the whole text ({', and '.join(found)}); what is lost costs no "
        "bits, so do not compare its bits per byte with those of a tokenizer that keeps the text"
    )
