"""The model of a stored run."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from harness.config.run import RunConfig
from harness.core.metrics import Point
from harness.data import Dataset, Tokenizer
from harness.model.gpt import GPT
from harness.model.weights import load_checkpoint, load_tokenizer
from harness.tracking import RunDetails, checkpoint_folder, load_run
from harness.training.trainer import train


class TrainedModel(NamedTuple):
    """A GPT in evaluation mode, and the tokenizer of its ids."""

    model: GPT
    tokenizer: Tokenizer


class TrainedRun(NamedTuple):
    """A GPT that was trained here, in evaluation mode, the tokenizer of its ids, and the points of its curves."""

    model: GPT
    tokenizer: Tokenizer
    points: tuple[Point, ...]


def train_model(config: RunConfig, data: Dataset | None = None, **options: Any) -> TrainedRun:
    """Train one run to its end, and return its model.

        model, tokenizer, points = train_model(config)
        plot_curves(points)

    Args:
        config: the whole run.
        data: its tokens, if they are open already, as of `Dataset.from_text`.
        options: of `train`, such as `read_test=True`.

    Raises:
        as `train`.
    """
    with TemporaryDirectory() as folder:
        checkpoint = Path(options.pop("checkpoint", None) or Path(folder, "checkpoint"))
        points = tuple(train(config, data, checkpoint=checkpoint, **options))
        model, _ = load_checkpoint(checkpoint)
        return TrainedRun(model, load_tokenizer(checkpoint), points)


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
