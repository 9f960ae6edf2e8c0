"""Every tokenizer without a download."""

from __future__ import annotations

from typing import Any

import pytest
import tiktoken
from tiktoken_ext import openai_public  # type: ignore[import-untyped]

from harness.config.run import VOCABULARY
from harness.data import Tokenizer, get_tokenizer

OFFLINE = ("gpt2", "r50k_base", "byte")


def with_ranks_of_gpt2(name: str, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    """A tokenizer; one whose ranks would be downloaded has its own pattern and special tokens, and GPT-2's ranks."""
    if name in OFFLINE:
        return get_tokenizer(name)
    ranks = {piece: rank for rank, piece in enumerate(get_tokenizer("gpt2").pieces[:-1])}
    for loader in ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks"):
        monkeypatch.setattr(openai_public, loader, lambda *_, **__: ranks)
    definition: dict[str, Any] = openai_public.ENCODING_CONSTRUCTORS[name]()
    definition.pop("explicit_n_vocab", None)
    special = {**definition.pop("special_tokens"), "<|last|>": VOCABULARY[name] - 1}
    encoding = tiktoken.Encoding(**definition, special_tokens=special)
    monkeypatch.setattr("harness.data.tokenizer._tiktoken_encoding", lambda _: encoding)
    tokenizer: Tokenizer = get_tokenizer.__wrapped__(name)
    return tokenizer
