"""The weights of a model as Hugging Face's GPT-2 names and shapes them.

After transformers' `GPT2LMHeadModel`: its `Conv1D` keeps weights as (in, out), one layer makes queries, keys and values
together, and that layer always has a bias.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from harness.config.run import RunConfig
from harness.model.tensor_shapes import HEAD

NAMES: Final = {"tok_emb": "wte", "pos_emb": "wpe", "final_norm": "ln_f"}
PARTS: Final = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "att.out_proj": "attn.c_proj",
    "ff.expand": "mlp.c_fc",
    "ff.contract": "mlp.c_proj",
}
QKV: Final = ("W_query", "W_key", "W_value")
LAYER: Final = re.compile(r"trf_blocks\.(\d+)\.(.+)")


def weights_for_hugging_face(ours: Mapping[str, Tensor], config: RunConfig) -> dict[str, Tensor]:
    """The weights of a GPT under Hugging Face's names, contiguous, in float32.

    Args:
        ours: the model's `state_dict()`.
        config: of its run.
    """
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        stem, kind = name.rsplit(".", 1)
        if stem in NAMES:
            theirs[f"transformer.{NAMES[stem]}.{kind}"] = tensor
        elif (found := LAYER.fullmatch(stem)) and found[2] in PARTS:
            theirs[f"transformer.h.{found[1]}.{PARTS[found[2]]}.{kind}"] = tensor.T if tensor.dim() == 2 else tensor
    dim = config.model.emb_dim
    for layer in range(config.model.n_layers):
        att, attn = f"trf_blocks.{layer}.att", f"transformer.h.{layer}.attn.c_attn"
        theirs[f"{attn}.weight"] = torch.cat([ours[f"{att}.{part}.weight"] for part in QKV]).T  # (C, 3·C)
        theirs[f"{attn}.bias"] = torch.cat([ours.get(f"{att}.{part}.bias", torch.zeros(dim)) for part in QKV])
    if not config.model.tie_embeddings:
        theirs[HEAD] = ours["out_head.weight"]
    return {name: tensor.detach().float().contiguous().clone() for name, tensor in theirs.items()}


def weight_from_hugging_face(read: Callable[[str], Any], name: str, size: int) -> Tensor:
    """One weight of ours from Hugging Face's: the inverse of `weights_for_hugging_face`.

    Args:
        read: gives a tensor by its name without `transformer.`, or what reads the indexed part of it from a file.
        name: of ours.
        size: rows of ours; of the table of positions the first ones are taken.
    """
    stem, kind = name.rsplit(".", 1)
    if name == "out_head.weight":
        return read(HEAD)[:]
    if stem in NAMES:
        return read(f"{NAMES[stem]}.{kind}")[:size]
    found = LAYER.fullmatch(stem)
    assert found is not None, name
    layer, part = f"h.{found[1]}", found[2]
    if part in PARTS:
        tensor = read(f"{layer}.{PARTS[part]}.{kind}")[:]
        return tensor.T if tensor.dim() == 2 else tensor
    first = QKV.index(part.removeprefix("att.")) * size
    joint = read(f"{layer}.attn.c_attn.{kind}")  # (C, 3·C) or (3·C,)
    return joint[first : first + size] if kind == "bias" else joint[:, first : first + size].T
