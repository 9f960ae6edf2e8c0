"""The model of a stored run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch

from harness.data.tokenizer import Tokenizer
from harness.model.gpt import GPT
from harness.model.weights import load_checkpoint, load_tokenizer
from harness.tracking import RunDetails, checkpoint_folder, load_run


class TrainedModel(NamedTuple):
    """A GPT in evaluation mode, and the tokenizer of its ids."""

    model: GPT
    tokenizer: Tokenizer


def load_model(run: str | Path, uri: str | None = None, device: torch.device | str = "cpu") -> TrainedModel:
    """The model of a confirm run, with its tokenizer.

        model, tokenizer = load_model("0a1b2c")
        logits = model(torch.tensor([tokenizer.encode("Every effort")]))  # (1, T, vocab_size)

    Args:
        run: a run's id, the first 4 or more characters of its id, its exact name, or a folder with a checkpoint.
        uri: MLflow's tracking address; by default the one that sweeps use.
        device: for the weights.

    Raises:
        TrackingError: no such store or run, several runs, or a run without a checkpoint.
        CheckpointError: a file of the checkpoint is missing or damaged.
        CorpusError: the tokenizer is not available.
    """
    folder, details = find_checkpoint(run, uri)
    model, _ = load_checkpoint(folder, device, details.params if details else None)
    return TrainedModel(model, load_tokenizer(folder))


def find_checkpoint(run: str | Path, uri: str | None = None) -> tuple[Path, RunDetails | None]:
    """The folder with a run's checkpoint, and the run; None if `run` is that folder itself.

    Raises:
        TrackingError: as `load_model`.
    """
    # Path.is_dir raises for a name that is longer than a file's can be
    if os.path.isdir(run):  # noqa: PTH112
        return Path(run), None
    return checkpoint_folder(str(run), uri), load_run(str(run), uri)
