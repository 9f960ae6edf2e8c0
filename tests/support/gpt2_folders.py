"""Small GPT-2 folders as transformers writes them, with random weights large enough to tell one tensor from another."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

SIZES: dict[str, Any] = {"vocab_size": 256, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}


def write_gpt2(folder: Path, shard: str = "1GB", seed: int = 0, **config: Any) -> Any:
    """Save a model with `save_pretrained`, in files of at most `shard`; returns it in evaluation mode."""
    from transformers import GPT2Config, GPT2LMHeadModel

    rates = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    model: Any = GPT2LMHeadModel(GPT2Config(**{**SIZES, **rates, "bos_token_id": 0, "eos_token_id": 0, **config}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder, max_shard_size=shard)
    model.eval()
    return model


def change_config(folder: Path, **values: Any) -> None:
    """Set values in the `config.json` of a folder."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")
