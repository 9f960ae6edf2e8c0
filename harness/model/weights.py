"""Checkpoints: the final weights of a run as safetensors, with the run's configuration and a checksum of the weights.

Nothing is ever unpickled. Each file is written atomically and the description last, so a checkpoint is complete or
absent. The states that a run resumes from are separate files: see `harness.training.resume`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load

from harness.config.run import VOCABULARY, RunConfig
from harness.core.files import safetensors_chunks, write_atomic
from harness.data import Tokenizer, get_tokenizer
from harness.model.gpt import GPT
from harness.model.init import skip_init

WEIGHTS = "model.safetensors"
DESCRIPTION = "checkpoint.json"
TOKEN_IDS = "vocabulary"  # with data.vocab corpus: the tokenizer's id of each row of the embedding


class CheckpointError(ValueError):
    """A folder holds no valid checkpoint."""


def save_checkpoint(
    folder: Path, model: GPT, config: RunConfig, step: int, vocabulary: npt.NDArray[np.integer] | None = None
) -> None:
    """Write weights, configuration, step and checksum into `folder`, which is created if it is missing.

    Args:
        folder: for this checkpoint alone.
        model: the trained GPT.
        config: of the run, resolved.
        step: optimizer steps done.
        vocabulary: the dataset's, if its ids are not the tokenizer's own; stored with the weights, which mean nothing
            without it.

    Raises:
        OSError: a file cannot be written.
    """
    assert (vocabulary is None) == (config.data.vocab == "full"), config.data.vocab
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(model.state_dict())
    if vocabulary is not None:
        tensors[TOKEN_IDS] = torch.from_numpy(vocabulary.astype(np.int32))
    if config.model.tie_embeddings:
        del tensors["out_head.weight"]  # the same tensor as tok_emb.weight
    checksum = write_atomic(folder / WEIGHTS, safetensors_chunks(tensors))
    description = {"config": config.resolved(), "step": step, "sha256": checksum}
    write_atomic(folder / DESCRIPTION, [json.dumps(description, indent=2).encode()])


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> tuple[GPT, RunConfig]:
    """The GPT of a checkpoint, in evaluation mode, and its configuration.

    Raises:
        CheckpointError: a file is missing, unreadable or damaged, or the two do not match.
    """
    weights, config = _read(folder)
    try:
        tensors = load(weights)
        tensors.pop(TOKEN_IDS, None)
        if sum(tensor.numel() for tensor in tensors.values()) != config.parameters:  # before the model is built
            raise KeyError(WEIGHTS)
        with torch.device("meta"), skip_init():
            model = GPT(config.model, config.vocab_size)
        if config.model.tie_embeddings:
            tensors["out_head.weight"] = tensors["tok_emb.weight"]
        model.load_state_dict(tensors, assign=True)
    except (SafetensorError, KeyError, RuntimeError) as error:  # RuntimeError: names or shapes differ
        raise CheckpointError(f"{folder / WEIGHTS}: holds no weights that fit {DESCRIPTION}") from error
    if config.model.tie_embeddings:
        model.out_head.weight = model.tok_emb.weight
    return model.to(device).eval(), config


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer whose ids a checkpoint's GPT reads.

    Raises:
        CheckpointError: as `load_checkpoint`.
        CorpusError: the tokenizer is not available.
    """
    weights, config = _read(folder)
    tokenizer = get_tokenizer(config.data.tokenizer)
    if config.data.vocab == "full":
        return tokenizer
    try:
        vocabulary = load(weights)[TOKEN_IDS].numpy()
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: holds no {TOKEN_IDS}, which data.vocab corpus needs") from error
    ascending = vocabulary.ndim == 1 and len(vocabulary) and (np.diff(vocabulary) > 0).all()
    valid = ascending and vocabulary[0] >= 0 and vocabulary[-1] < VOCABULARY[tokenizer.name]
    if not valid or len(vocabulary) > config.vocab_size:
        raise CheckpointError(f"{folder / WEIGHTS}: holds a {TOKEN_IDS} that is not a set of {tokenizer.name} ids")
    return tokenizer.restricted_to(vocabulary)


def _read(folder: Path) -> tuple[bytes, RunConfig]:
    """The bytes of the weights file, verified against its checksum, and the configuration."""
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
    return weights, config
