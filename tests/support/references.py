"""Two independent implementations of GPT-2, with the weights of our model."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.config.run import RunConfig
from harness.model.gpt import GPT


@dataclass
class Reference:
    """Another implementation with the same weights.

    Attributes:
        module: the other model.
        logits: token ids (B, T) → logits (B, T, V).
        gradients: of the other model's weights, under our names and in our shapes; those without one left out.
    """

    module: nn.Module
    logits: Callable[[Tensor], Tensor]
    gradients: Callable[[], dict[str, Tensor]]


def book(config: RunConfig, ours: GPT) -> Reference:
    """The GPT of Raschka, "Build a Large Language Model (From Scratch)", chapter 4."""
    chapter = pytest.importorskip(
        "llms_from_scratch.ch04", reason="the book's code (llms-from-scratch) is not installed"
    )
    fields = ("context_length", "emb_dim", "n_heads", "n_layers", "drop_rate", "qkv_bias")
    settings = {name: getattr(config.model, name) for name in fields}
    theirs = chapter.GPTModel({"vocab_size": config.vocab_size, **settings})
    missing, unexpected = theirs.load_state_dict(
        {_book_name(name): tensor for name, tensor in ours.state_dict().items()}, strict=False
    )
    assert not unexpected and all(name.endswith("att.mask") for name in missing)  # the mask is not a weight
    own = {_book_name(name): name for name, _ in ours.named_parameters()}
    return Reference(theirs, theirs, lambda: {own[name]: p.grad for name, p in theirs.named_parameters()})


def _book_name(name: str) -> str:
    name = name.replace("ff.expand", "ff.layers.0").replace("ff.contract", "ff.layers.2")
    if "norm" in name:
        name = name.replace(".weight", ".scale").replace(".bias", ".shift")
    return name


def hugging_face(config: RunConfig, ours: GPT) -> Reference:
    """transformers' GPT2LMHeadModel, built from a configuration, without a download."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model, rate = config.model, config.model.drop_rate
    settings = transformers.GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=model.context_length,
        n_embd=model.emb_dim,
        n_layer=model.n_layers,
        n_head=model.n_heads,
        embd_pdrop=rate,
        attn_pdrop=rate,
        resid_pdrop=rate,
        tie_word_embeddings=model.tie_embeddings,
        attn_implementation="eager",
    )
    theirs: Any = transformers.GPT2LMHeadModel(settings)
    state = {name: tensor.detach().clone() for name, tensor in ours.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(_to_hugging_face(state, model.n_layers, model.emb_dim), strict=False)
    assert not unexpected and all(name.endswith(("attn.bias", "attn.masked_bias")) for name in missing)  # masks

    def gradients() -> dict[str, Tensor]:
        found = {name: p.grad for name, p in theirs.named_parameters()}
        return _from_hugging_face(found, model.qkv_bias)

    return Reference(theirs, lambda tokens: theirs(tokens).logits, gradients)


_HF_NAMES = {"tok_emb": "wte", "pos_emb": "wpe", "final_norm": "ln_f"}
_HF_PARTS = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "att.out_proj": "attn.c_proj",
    "ff.expand": "mlp.c_fc",
    "ff.contract": "mlp.c_proj",
}
_QKV = ("W_query", "W_key", "W_value")


def _to_hugging_face(ours: dict[str, Tensor], layers: int, dim: int) -> dict[str, Tensor]:
    theirs = {"lm_head.weight": ours["out_head.weight"]}
    for name, tensor in ours.items():
        stem, kind = name.rsplit(".", 1)
        if stem in _HF_NAMES:
            theirs[f"transformer.{_HF_NAMES[stem]}.{kind}"] = tensor
        elif (match := re.fullmatch(r"trf_blocks\.(\d+)\.(.+)", stem)) and match[2] in _HF_PARTS:
            turned = tensor.T if tensor.dim() == 2 else tensor  # their Conv1D keeps (in, out)
            theirs[f"transformer.h.{match[1]}.{_HF_PARTS[match[2]]}.{kind}"] = turned
    for layer in range(layers):
        att, attn = f"trf_blocks.{layer}.att", f"transformer.h.{layer}.attn.c_attn"
        theirs[f"{attn}.weight"] = torch.cat([ours[f"{att}.{part}.weight"] for part in _QKV]).T
        biases = [ours.get(f"{att}.{part}.bias", torch.zeros(dim)) for part in _QKV]  # they always have one
        theirs[f"{attn}.bias"] = torch.cat(biases)
    return theirs


def _from_hugging_face(theirs: dict[str, Tensor], qkv_bias: bool) -> dict[str, Tensor]:
    names = {theirs_name: name for name, theirs_name in (_HF_NAMES | _HF_PARTS).items()}
    ours = {}
    for name, tensor in theirs.items():
        stem, kind = name.removeprefix("transformer.").rsplit(".", 1)
        layer, part = match.groups() if (match := re.fullmatch(r"h\.(\d+)\.(.+)", stem)) else (None, stem)
        if part == "lm_head":
            ours["out_head.weight"] = tensor
        elif part == "attn.c_attn":
            for own, piece in zip(_QKV, tensor.T.chunk(3) if kind == "weight" else tensor.chunk(3), strict=True):
                if kind == "weight" or qkv_bias:
                    ours[f"trf_blocks.{layer}.att.{own}.{kind}"] = piece
        elif layer is None:
            ours[f"{names[part]}.{kind}"] = tensor
        else:
            ours[f"trf_blocks.{layer}.{names[part]}.{kind}"] = tensor.T if tensor.dim() == 2 else tensor
    return ours
