"""A `tokenizer.json` gives the ids of Hugging Face's tokenizers, and is cut only where that changes none."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from fuzzing import examples
from harness.data import CorpusError
from harness.data.encoding import blocks
from harness.data.tokenizer import Tokenizer, TokenizerFile
from harness.data.tokenizer_json import read_json_tokenizer
from own_tokenizers import byte_level_json, lower_case_json

TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from(" \n\r\t'sS.,!aZ09é中\u00a0\u3000\u0301"),
    max_size=60,
)
# As the files of these models have them (their `pre_tokenizer`).
PATTERNS = {
    "Llama 3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+",
    "Qwen 2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+",
}
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WORDS = {**LEVEL, "use_regex": True}
TOOL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


def split(pattern: str, behavior: str = "Isolated") -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def changed(**fields: Any) -> str:
    return json.dumps({**json.loads(byte_level_json()), **fields})


@functools.cache
def read(text: str) -> Tokenizer:
    return read_json_tokenizer("a.json", TokenizerFile("tokenizer.json", text.encode()))


@functools.cache
def theirs(text: str) -> Library:
    library = Library.from_str(text)
    library.encode_special_tokens = True  # special tokens in a text are plain text
    return library


def unicode_sequence(name: str) -> str:
    return changed(pre_tokenizer=sequence(split(PATTERNS[name]), LEVEL))


@examples(150)
@given(text=TEXTS)
@pytest.mark.parametrize("kind", ["GPT-2", *PATTERNS])
def test_a_text_is_cut_only_where_no_id_changes(kind: str, text: str) -> None:
    written = byte_level_json() if kind == "GPT-2" else unicode_sequence(kind)
    tokenizer = read(written)
    assert (tokenizer.lossless, tokenizer.cuts) == (True, "words")
    ids = tokenizer.encode(text)
    assert ids == theirs(written).encode(text, add_special_tokens=False).ids
    cut = tokenizer.last_cut(text)
    assert tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:]) == ids
    assert tokenizer.decode(ids) == text


@examples(60)
@given(text=TEXTS)
@pytest.mark.parametrize("normalizer", ["", "NFC", "NFKC", "NFD", "NFKD", "Lowercase", "StripAccents"])
def test_a_tokenizer_that_changes_the_text_gives_the_librarys_ids_and_text(normalizer: str, text: str) -> None:
    written = lower_case_json()
    if normalizer:
        other = {"normalizer": {"type": normalizer}, "pre_tokenizer": {"type": "Whitespace"}}
        written = json.dumps({**json.loads(written), **other})
    tokenizer, library = read(written), theirs(written)
    ids = tokenizer.encode(text)
    assert ids == library.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=False)
    assert tokenizer.cuts == "words"
    cut = tokenizer.last_cut(text)
    assert tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:]) == ids


@pytest.mark.parametrize(
    ("fields", "lossless", "cuts"),
    [
        ({}, True, "words"),
        ({"pre_tokenizer": LEVEL}, True, "nowhere"),  # merges reach over words
        ({"pre_tokenizer": sequence(split(r"\d"), WORDS)}, True, "nowhere"),  # a pattern that nobody has looked at
        ({"pre_tokenizer": sequence(split(PATTERNS["Qwen 2"], "MergedWithNext"), LEVEL)}, True, "nowhere"),
        ({"added_tokens": [{"id": 0, "content": "a b", **TOOL}]}, True, "nowhere"),  # it has a space inside
        ({"added_tokens": [{"id": 0, "content": "a b", **TOOL, "rstrip": True}]}, False, "nowhere"),
        ({"pre_tokenizer": sequence(split(r"\s", "Removed"), LEVEL)}, False, "nowhere"),
        ({"pre_tokenizer": {**WORDS, "add_prefix_space": True}}, False, "nowhere"),
        ({"normalizer": {"type": "NFC"}}, False, "nowhere"),
        ({"normalizer": {"type": "NFKC"}, "pre_tokenizer": {"type": "Whitespace"}}, False, "words"),
        ({"normalizer": {"type": "NFKC"}, "pre_tokenizer": {"type": "WhitespaceSplit"}}, False, "nowhere"),
        (
            {"normalizer": {"type": "Prepend", "prepend": "_"}, "pre_tokenizer": {"type": "Whitespace"}},
            False,
            "nowhere",
        ),
        ({"normalizer": {"type": "Lowercase"}}, False, "nowhere"),
    ],
)
def test_what_a_tokenizer_keeps_and_where_it_is_cut(fields: dict[str, Any], lossless: bool, cuts: str) -> None:
    tokenizer = read(changed(**fields))
    assert (tokenizer.lossless, tokenizer.cuts) == (lossless, cuts)
    text = "A b  c\n\nd, a b 12. "
    if cuts == "nowhere":
        assert list(blocks([text[:7], text[7:]], tokenizer)) == [text]
    if lossless:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_named_and_plain_text_in_a_text() -> None:
    tokenizer = read(byte_level_json("</s>"))
    assert tokenizer.special == {"</s>": 0} and tokenizer.end_of_text == 0
    ids = tokenizer.encode("one</s>two")
    assert 0 not in ids and tokenizer.decode(ids) == "one</s>two"
    assert read(byte_level_json("<mine>")).end_of_text is None  # no usual name


def test_an_added_token_that_is_not_special_is_found_in_a_text_as_the_library_does() -> None:
    written = changed(added_tokens=[{"id": 500, "content": "<tool>", **TOOL}])
    assert read(written).n_vocab == 501
    ids = read(written).encode("a <tool> b")
    assert 500 in ids and ids == theirs(written).encode("a <tool> b").ids


def test_an_id_that_no_model_has_room_for_is_refused() -> None:
    plain = json.loads(byte_level_json())
    plain["model"]["vocab"]["!!!"] = 4_000_000_000
    with pytest.raises(CorpusError, match=r"^found the id 4,000,000,000 in 'a.json'; allowed: at most 10,000,000$"):
        read(json.dumps(plain))


def test_limits_and_padding_of_the_file_are_left_out() -> None:
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    assert len(read(changed(truncation=truncation)).encode("one two three four five")) > 2


def test_the_piece_of_a_token_has_its_space() -> None:
    tokenizer = read(byte_level_json())
    text = "Fellow citizens of"
    assert b"".join(tokenizer.pieces[token] for token in tokenizer.encode(text)) == text.encode()
