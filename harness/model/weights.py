"""Checkpoints: the final weights of a run as safetensors, and a description with the run's configuration.

The description has a checksum of the weights and one of itself: a damaged file is an error, never another model.
Nothing is ever unpickled. Each file is written atomically and the description last, so a checkpoint is complete or
absent. The states that a run resumes from are separate files: see `harness.training.resume`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load

from harness.config.run import RunConfig
from harness.config.tokenizers import is_own
from harness.core.files import (
    DamagedError,
    json_with_checksum,
    read_json_with_checksum,
    safetensors_chunks,
    write_atomic,
)
from harness.core.links import read_bounded
from harness.core.paths import DESCRIPTION, WEIGHTS
from harness.data import Tokenizer
from harness.data.own_tokenizers import file_name, open_tokenizer
from harness.data.tokenizer import TokenizerFile
from harness.model.gpt import GPT
from harness.model.init import skip_init
from harness.model.tensor_shapes import NOTHING, TOKENIZER_FILE

TOKEN_IDS = "vocabulary"  # with data.vocab corpus: the tokenizer's id of each row of the embedding
_KEYS: Final = {"config", "step", "sha256"}  # of a description, beside its checksum
_DESCRIPTION_BYTES: Final = 10_000_000  # at most
_HEADER_BYTES: Final = 100_000_000  # of a weights file beside its tensors, at most: the limit of safetensors
_SECTIONS: Final = ("data.", "model.", "train.")

logger = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A folder holds no valid checkpoint."""


def save_checkpoint(
    folder: Path,
    model: GPT,
    config: RunConfig,
    step: int,
    vocabulary: npt.NDArray[np.integer] | None = None,
    tokenizer_file: TokenizerFile | None = None,
) -> None:
    """Write weights, configuration, step and checksum into `folder`, which is created if it is missing.

    Args:
        folder: for this checkpoint alone.
        model: the trained GPT.
        config: of the run, resolved.
        step: optimizer steps done.
        vocabulary: the dataset's, if its ids are not the tokenizer's own; stored with the weights, which mean nothing
            without it.
        tokenizer_file: what defines the dataset's tokenizer, if it is not built in; stored with the weights too, as the
            user's file may be lost or changed.

    Raises:
        OSError: a file cannot be written.
    """
    assert (tokenizer_file is not None) == is_own(config.data.tokenizer), config.data.tokenizer
    assert (vocabulary is None) == (config.data.vocab == "full"), config.data.vocab
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(model.state_dict())
    if vocabulary is not None:
        tensors[TOKEN_IDS] = torch.from_numpy(vocabulary.astype(np.int32))
    if tokenizer_file is not None:
        tensors[TOKENIZER_FILE] = torch.frombuffer(bytearray(tokenizer_file.content + NOTHING), dtype=torch.uint8)
    if config.model.tie_embeddings:
        del tensors["out_head.weight"]  # the same tensor as tok_emb.weight
    checksum = write_atomic(folder / WEIGHTS, safetensors_chunks(tensors))
    description = {"config": config.resolved(), "step": step, "sha256": checksum}
    write_atomic(folder / DESCRIPTION, [json_with_checksum(description).encode()])


def load_checkpoint(
    folder: Path, device: torch.device | str = "cpu", params: Mapping[str, Any] | None = None
) -> tuple[GPT, RunConfig]:
    """The GPT of a checkpoint, in evaluation mode, and its configuration.

    Args:
        folder: with the checkpoint's files.
        device: for the weights.
        params: dotted name → value, as the run's parameters in MLflow store them, if they are known. The description
            of an older version has no checksum; it is compared with them instead, or else a warning is logged.

    Raises:
        CheckpointError: a file is missing, unreadable or damaged, or the two do not match.
    """
    weights, config, verified = _read(folder)
    if not verified:
        _compare(folder / DESCRIPTION, config, params)
    try:
        tensors = load(weights)
        for name in (TOKEN_IDS, TOKENIZER_FILE):
            tensors.pop(name, None)
        if sum(tensor.numel() for tensor in tensors.values()) != config.parameters:  # before the model is built
            raise KeyError(WEIGHTS)
        with torch.device("meta"), skip_init():
            model = GPT(config.model, config.vocab_size)
        if config.model.tie_embeddings:
            tensors["out_head.weight"] = tensors["tok_emb.weight"]
        model.load_state_dict(tensors, assign=True)
        infinite = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    except (SafetensorError, KeyError, RuntimeError) as error:  # RuntimeError: names or shapes differ
        raise CheckpointError(f"{folder / WEIGHTS}: holds no weights that fit {DESCRIPTION}") from error
    if infinite:
        raise CheckpointError(
            f"{folder / WEIGHTS}: found weights that are NaN or infinite, in {infinite[0]}; allowed: finite weights"
        )
    if config.model.tie_embeddings:
        model.out_head.weight = model.tok_emb.weight
    return model.to(device).eval(), config


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer whose ids a checkpoint's GPT reads.

    Raises:
        CheckpointError: as `load_checkpoint`.
        CorpusError: the tokenizer is not available, or its library is not installed.
    """
    weights, config, _ = _read(folder)
    tensors = _stored(weights, folder)
    tokenizer = open_tokenizer(config.data.tokenizer, _tokenizer_file(tensors, config, folder))
    if config.data.vocab == "full":
        return tokenizer
    if TOKEN_IDS not in tensors:
        raise CheckpointError(f"{folder / WEIGHTS}: holds no {TOKEN_IDS}, which data.vocab corpus needs")
    vocabulary = tensors[TOKEN_IDS].numpy()
    ascending = vocabulary.ndim == 1 and len(vocabulary) and (np.diff(vocabulary) > 0).all()
    valid = ascending and vocabulary[0] >= 0 and vocabulary[-1] < tokenizer.n_vocab
    if not valid or len(vocabulary) > config.vocab_size:
        raise CheckpointError(f"{folder / WEIGHTS}: holds a {TOKEN_IDS} that is not a set of {tokenizer.name} ids")
    return tokenizer.restricted_to(vocabulary)


def stored_tokenizer_file(folder: Path) -> TokenizerFile | None:
    """What defines the tokenizer of a checkpoint; None for a built-in one.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    weights, config, _ = _read(folder)
    return _tokenizer_file(_stored(weights, folder), config, folder)


def _stored(weights: bytes, folder: Path) -> dict[str, torch.Tensor]:
    try:
        return load(weights)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: holds no weights that fit {DESCRIPTION}") from error


def _tokenizer_file(tensors: Mapping[str, torch.Tensor], config: RunConfig, folder: Path) -> TokenizerFile | None:
    name = config.data.tokenizer
    if not is_own(name):
        return None
    if TOKENIZER_FILE not in tensors or tensors[TOKENIZER_FILE].dtype != torch.uint8:
        raise CheckpointError(f"{folder / WEIGHTS}: holds no {TOKENIZER_FILE}, which data.tokenizer {name} needs")
    return TokenizerFile(file_name(name), tensors[TOKENIZER_FILE].numpy().tobytes().removesuffix(NOTHING))


def _read(folder: Path) -> tuple[bytes, RunConfig, bool]:
    """The verified bytes of the weights file, the configuration, and whether that is verified too."""
    try:
        description, verified = read_json_with_checksum(read_bounded(folder / DESCRIPTION, _DESCRIPTION_BYTES))
        if description.keys() != _KEYS:
            raise DamagedError("cannot be read as a checkpoint's description")
        config = RunConfig.model_validate_json(json.dumps(description["config"]))
        values = config.parameters + config.vocab_size  # with the ids of the vocabulary, of four bytes each
        weights = read_bounded(folder / WEIGHTS, 4 * values + _HEADER_BYTES)
        wanted = str(description["sha256"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: found no {Path(error.filename).name}; a checkpoint has both files") from error
    except OSError as error:  # a file where the folder should be, no right to read
        raise CheckpointError(f"{error.filename}: cannot be read ({error.strerror})") from error
    except MemoryError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: is larger than the memory") from error
    except DamagedError as error:
        raise CheckpointError(f"{folder / DESCRIPTION}: {error} (damaged file)") from error
    except (ValidationError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder / DESCRIPTION}: cannot be read as a checkpoint's description") from error
    found = hashlib.sha256(weights).hexdigest()
    if found != wanted:
        raise CheckpointError(
            f"{folder / WEIGHTS}: found SHA-256 {found[:16]}…, allowed: {wanted[:16]}… (damaged file)"
        )
    return weights, config, verified


def _compare(file: Path, config: RunConfig, params: Mapping[str, Any] | None) -> None:
    """Compare the configuration of a description without checksum with the run's parameters in MLflow."""
    if not params:
        logger.warning(f"{file}: an older version wrote it without a checksum, so damage would not be noticed")
        return
    found = config.flat()
    for name, value in params.items():
        cut = isinstance(value, str) and value.endswith("…")  # MLflow keeps the beginning of a long text
        if not name.startswith(_SECTIONS) or cut or json.dumps(found.get(name)) == json.dumps(value):
            continue
        raise CheckpointError(
            f"{file}: found {name} {found.get(name)!r}, which its run in MLflow has as {value!r} (damaged file)"
        )
