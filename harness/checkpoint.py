"""A trained GPT on disk: weights as safetensors, and beside them the configuration and a checksum of the weights.

Nothing is ever unpickled. Each file is whole or not there, and the description is written last, so that holds for the
checkpoint too.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load

from harness.config import RunConfig
from harness.files import safetensors_chunks, write_whole
from harness.model import GPT

WEIGHTS = "model.safetensors"
DESCRIPTION = "checkpoint.json"


class CheckpointError(ValueError):
    """A folder holds no checkpoint that can be trusted."""


def save_checkpoint(folder: Path, model: GPT, config: RunConfig, step: int) -> None:
    """Write weights, configuration, step and checksum into `folder`, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(model.state_dict())
    if config.model.tie_embeddings:
        del tensors["out_head.weight"]  # the same tensor as tok_emb.weight
    checksum = write_whole(folder / WEIGHTS, safetensors_chunks(tensors))
    description = {"config": config.resolved(), "step": step, "sha256": checksum}
    write_whole(folder / DESCRIPTION, [json.dumps(description, indent=2).encode()])


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> tuple[GPT, RunConfig]:
    """The GPT of a checkpoint, in evaluation mode, and its configuration.

    Raises:
        CheckpointError: a file is missing, unreadable or damaged, or does not fit the other.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        weights = (folder / WEIGHTS).read_bytes()
        config = RunConfig.model_validate_json(json.dumps(description["config"]))
        wanted = str(description["sha256"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: found no {Path(error.filename).name}; a checkpoint has both files") from error
    except OSError as error:  # a file where the folder should be, no right to read
        raise CheckpointError(f"{error.filename}: cannot be read ({error.strerror})") from error
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder / DESCRIPTION}: cannot be read as a checkpoint's description") from error
    found = hashlib.sha256(weights).hexdigest()
    if found != wanted:
        raise CheckpointError(
            f"{folder / WEIGHTS}: found SHA-256 {found[:16]}…, allowed: {wanted[:16]}… (damaged file)"
        )
    try:
        tensors = load(weights)
        if sum(tensor.numel() for tensor in tensors.values()) != config.parameters:  # before a billion layers are built
            raise KeyError(WEIGHTS)
        with torch.device("meta"):
            model = GPT(config.model, config.vocab_size)
        if config.model.tie_embeddings:
            tensors["out_head.weight"] = tensors["tok_emb.weight"]
        model.load_state_dict(tensors, assign=True)
    except (SafetensorError, KeyError, RuntimeError) as error:  # RuntimeError: other names or shapes
        raise CheckpointError(f"{folder / WEIGHTS}: holds no weights that fit {DESCRIPTION}") from error
    if config.model.tie_embeddings:
        model.out_head.weight = model.tok_emb.weight
    return model.to(device).eval(), config
