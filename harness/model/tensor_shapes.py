"""The names and shapes of the weights of a GPT-2, in a checkpoint and in a file of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

HEAD: Final = "lm_head.weight"  # of Hugging Face's GPT-2; its name has no prefix
TOKENIZER_FILE: Final = "tokenizer_file"  # of a tokenizer that is not built in: the bytes of its file
NOTHING: Final = b"\n"  # after these bytes, which may be none: torch makes no tensor of no bytes

Shapes = Mapping[str, tuple[int, ...]]


def their_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors of Hugging Face's GPT-2, without prefix and head."""
    dim, inner = fields["emb_dim"], 4 * fields["emb_dim"]
    layer = {
        "attn.c_attn": (dim, 3 * dim),
        "attn.c_proj": (dim, dim),
        "mlp.c_fc": (dim, inner),
        "mlp.c_proj": (inner, dim),
    }
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (fields["vocab_size"], dim)}
    shapes["wpe.weight"] = (fields["context_length"], dim)
    for number in range(fields["n_layers"]):
        for part, (rows, columns) in layer.items():
            shapes |= {f"h.{number}.{part}.weight": (rows, columns), f"h.{number}.{part}.bias": (columns,)}
        shapes |= {f"h.{number}.{norm}.{kind}": (dim,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
    return shapes | {f"ln_f.{kind}": (dim,) for kind in ("weight", "bias")}


def our_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors of a checkpoint."""
    dim, inner = fields["emb_dim"], 4 * fields["emb_dim"]
    table = (fields["vocab_size"], dim)
    shapes: dict[str, tuple[int, ...]] = {"tok_emb.weight": table, "pos_emb.weight": (fields["context_length"], dim)}
    shapes |= {} if fields["tie_embeddings"] else {"out_head.weight": table}
    linear = {"att.out_proj": (dim, dim), "ff.expand": (inner, dim), "ff.contract": (dim, inner)}
    for block in (f"trf_blocks.{number}" for number in range(fields["n_layers"])):
        for part in ("W_query", "W_key", "W_value"):
            shapes[f"{block}.att.{part}.weight"] = (dim, dim)
            shapes |= {f"{block}.att.{part}.bias": (dim,)} if fields["qkv_bias"] else {}
        for part, shape in linear.items():
            shapes |= {f"{block}.{part}.weight": shape, f"{block}.{part}.bias": shape[:1]}
        shapes |= {f"{block}.{norm}.{kind}": (dim,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
    return shapes | {f"final_norm.{kind}": (dim,) for kind in ("weight", "bias")}
