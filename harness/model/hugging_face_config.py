"""The `config.json` of Hugging Face's GPT-2, and the fields of a model that follow from it.

The names and defaults are those of transformers' `GPT2Config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from harness.config.fields import format_value
from harness.config.run import RunConfig
from harness.core.text import listed, shown

# Setting → its default, and the values with which the model computes what ours does.
_SETTINGS: Final[Mapping[str, tuple[Any, tuple[Any, ...]]]] = {
    "activation_function": ("gelu_new", ("gelu_new", "gelu_pytorch_tanh")),  # two names of one formula
    "layer_norm_epsilon": (1e-5, (1e-5,)),
    "scale_attn_weights": (True, (True,)),
    "scale_attn_by_inverse_layer_idx": (False, (False,)),
    "reorder_and_upcast_attn": (False, (False,)),
    "add_cross_attention": (False, (False,)),
    "is_encoder_decoder": (False, (False,)),
    "pruned_heads": ({}, ({},)),
    "quantization_config": (None, (None,)),
}
# Size → its default, its other name, and our field.
_SIZES: Final[Mapping[str, tuple[int, str, str]]] = {
    "vocab_size": (50257, "vocab_size", "vocab_size"),
    "n_positions": (1024, "max_position_embeddings", "context_length"),
    "n_embd": (768, "hidden_size", "emb_dim"),
    "n_layer": (12, "num_hidden_layers", "n_layers"),
    "n_head": (12, "num_attention_heads", "n_heads"),
}
_RATES: Final = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
_RATE: Final = 0.1  # the default of all three
_OURS: Final = "qkv_bias"  # written by this harness: false for a model without these biases, which theirs has as zeros
_LARGEST: Final = 2**31


class OtherModelError(ValueError):
    """A configuration of another model than ours; the message fits behind the file's name."""


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
        **dict.fromkeys(_RATES, model.drop_rate),
        "tie_word_embeddings": model.tie_embeddings,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": "float32",
        _OURS: model.qkv_bias,
    }


def fields_from_hugging_face(config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The fields of our model, with `drop_rate` None if the three rates differ; and the rates in words.

    Args:
        config: the contents of `config.json`. A missing setting has the default of `GPT2Config`.

    Raises:
        OtherModelError: it is another model than GPT-2, or one that computes something else than ours.
    """
    kind = config.get("model_type")
    if kind != "gpt2":
        raise OtherModelError(f"found model_type {shown(kind)}; allowed: gpt2")
    for name, (default, allowed) in _SETTINGS.items():
        value = config.get(name, default)
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise OtherModelError(f"found {name} {shown(value)}; allowed: {' or '.join(map(format_value, allowed))}")
    fields: dict[str, Any] = {
        ours: _size(config, name, other, default) for name, (default, other, ours) in _SIZES.items()
    }
    if fields["emb_dim"] % fields["n_heads"]:
        raise OtherModelError(f"found n_embd {fields['emb_dim']}; allowed: a multiple of n_head, {fields['n_heads']}")
    inner, width = config.get("n_inner"), 4 * fields["emb_dim"]
    if inner not in (None, width):
        raise OtherModelError(f"found n_inner {shown(inner)}; allowed: null or {width}, four times n_embd")
    flags = {_OURS: True, "tie_word_embeddings": True}
    for name, default in flags.items():
        flags[name] = config.get(name, default)
        if not isinstance(flags[name], bool):
            raise OtherModelError(f"found {name} {shown(flags[name])}; allowed: true or false")
    rates = [config.get(name, _RATE) for name in _RATES]
    for name, rate in zip(_RATES, rates, strict=True):
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise OtherModelError(f"found {name} {shown(rate)}; allowed: a number from 0 to under 1")
    same = len(set(rates)) == 1
    fields |= {"qkv_bias": flags[_OURS], "tie_embeddings": flags["tie_word_embeddings"]}
    fields["drop_rate"] = float(rates[0]) if same else None
    return fields, str(rates[0]) if same else listed(f"{name} {r}" for name, r in zip(_RATES, rates, strict=True))


def _size(config: Mapping[str, Any], name: str, other: str, default: int) -> int:
    value = config.get(name, config.get(other, default))
    if type(value) is not int or not 0 < value < _LARGEST:
        raise OtherModelError(f"found {name} {shown(value)}; allowed: a whole number over 0")
    return value
