"""Every tokenizer without a download."""

from __future__ import annotations

from typing import Any

import pytest
import tiktoken
from tiktoken_ext import openai_public  # type: ignore[import-untyped]

from harness.config.run import VOCABULARY
from harness.data import Tokenizer, get_tokenizer

OFFLINE = ("gpt2", "r50k_base", "byte")


def with_bytes_for_ranks(name: str, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    """A tokenizer whose ranks would be downloaded: its own pattern and special tokens, and single bytes for ranks."""
    if name in OFFLINE:
        return get_tokenizer(name)
    for loader in ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks"):
        monkeypatch.setattr(openai_public, loader, lambda *_, **__: {bytes([value]): value for value in range(256)})
    definition: dict[str, Any] = openai_public.ENCODING_CONSTRUCTORS[name]()
    definition.pop("explicit_n_vocab", None)
    special = {**definition.pop("special_tokens"), "<|last|>": VOCABULARY[name] - 1}
    encoding = tiktoken.Encoding(**definition, special_tokens=special)
    monkeypatch.setattr("harness.data.tokenizer._tiktoken_encoding", lambda _: encoding)
    tokenizer: Tokenizer = get_tokenizer.__wrapped__(name)
    return tokenizer
