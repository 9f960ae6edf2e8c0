"""A SentencePiece model gives the ids and the text of SentencePiece itself."""

from __future__ import annotations

import functools

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import examples
from harness.data.sentencepiece_model import read_sentencepiece
from harness.data.tokenizer import Tokenizer, TokenizerFile
from own_tokenizers import sentencepiece_model

TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from(" \n\t'aZ09é中ﷺ\u00a0\u3000\u2581"),
    max_size=60,
)
KINDS = [("unigram", True), ("unigram", False), ("bpe", True)]


@functools.cache
def ours(kind: str, byte_fallback: bool) -> Tokenizer:
    return read_sentencepiece("a.model", TokenizerFile("tokenizer.model", sentencepiece_model(kind, byte_fallback)))


@functools.cache
def theirs(kind: str, byte_fallback: bool) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(kind, byte_fallback))


@examples(80)
@given(text=TEXTS)
@pytest.mark.parametrize(("kind", "byte_fallback"), KINDS)
def test_ids_and_texts_are_those_of_the_library(kind: str, byte_fallback: bool, text: str) -> None:
    mine, other = ours(kind, byte_fallback), theirs(kind, byte_fallback)
    ids = mine.encode(text)
    assert ids == other.encode(text)
    assert mine.decode(ids) == other.decode(ids)
    assert mine.decode([*ids, 10**6, -1]) == other.decode(ids)  # a padded vocabulary can sample such ids


def test_special_tokens_are_named_and_plain_text_in_a_text() -> None:
    tokenizer = ours("unigram", True)
    assert tokenizer.special == {"<s>": 1, "</s>": 2}
    assert (tokenizer.end_of_text, tokenizer.unknown) == (2, 0)
    assert not {1, 2} & set(tokenizer.encode("a</s><s>"))


def test_the_piece_of_a_token_has_its_space_and_a_byte_is_one_byte() -> None:
    tokenizer = ours("unigram", True)
    text = "Fellow citizens of"
    assert b"".join(tokenizer.pieces[token] for token in tokenizer.encode(text)) == f" {text}".encode()
    accent = tokenizer.encode("aé")[-2:]
    assert b"".join(tokenizer.pieces[token] for token in accent) == "é".encode()
