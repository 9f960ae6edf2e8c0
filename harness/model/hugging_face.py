"""A model as Hugging Face's GPT-2: the names and shapes of its weights, and its configuration.

After transformers' `GPT2LMHeadModel`: its `Conv1D` keeps weights as (in, out), one layer makes queries, keys and values
together, and that layer always has a bias.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from harness.config.run import RunConfig

_NAMES: Final = {"tok_emb": "wte", "pos_emb": "wpe", "final_norm": "ln_f"}
_PARTS: Final = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "att.out_proj": "attn.c_proj",
    "ff.expand": "mlp.c_fc",
    "ff.contract": "mlp.c_proj",
}
_QKV: Final = ("W_query", "W_key", "W_value")
_LAYER: Final = re.compile(r"trf_blocks\.(\d+)\.(.+)")


def weights_for_hugging_face(ours: Mapping[str, Tensor], config: RunConfig) -> dict[str, Tensor]:
    """The weights of a GPT under Hugging Face's names, contiguous, in float32.

    Args:
        ours: the model's `state_dict()`.
        config: of its run.
    """
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        stem, kind = name.rsplit(".", 1)
        if stem in _NAMES:
            theirs[f"transformer.{_NAMES[stem]}.{kind}"] = tensor
        elif (found := _LAYER.fullmatch(stem)) and found[2] in _PARTS:
            theirs[f"transformer.h.{found[1]}.{_PARTS[found[2]]}.{kind}"] = tensor.T if tensor.dim() == 2 else tensor
    dim = config.model.emb_dim
    for layer in range(config.model.n_layers):
        att, attn = f"trf_blocks.{layer}.att", f"transformer.h.{layer}.attn.c_attn"
        theirs[f"{attn}.weight"] = torch.cat([ours[f"{att}.{part}.weight"] for part in _QKV]).T  # (C, 3·C)
        theirs[f"{attn}.bias"] = torch.cat([ours.get(f"{att}.{part}.bias", torch.zeros(dim)) for part in _QKV])
    if not config.model.tie_embeddings:
        theirs["lm_head.weight"] = ours["out_head.weight"]
    return {name: tensor.detach().float().contiguous().clone() for name, tensor in theirs.items()}


def config_for_hugging_face(config: RunConfig, end_of_text: int | None) -> dict[str, Any]:
    """The contents of `config.json`.

    Args:
        config: of the run.
        end_of_text: the id of the token that ends a text; None if the tokenizer has none.
    """
    model = config.model
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": model.context_length,
        "n_embd": model.emb_dim,
        "n_layer": model.n_layers,
        "n_head": model.n_heads,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), model.drop_rate),
        "tie_word_embeddings": model.tie_embeddings,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": "float32",
    }
