"""Builds a GPT and draws its initial weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from harness.config.run import VOCABULARY, RunConfig
from harness.core.rng import stream
from harness.model.gpt import GPT

MOST_ROWS = 0.8  # of a token embedding: where more are trained, all are

INIT_STD = 0.02  # GPT-2's; the output projections of the 2·n_layers residual branches get it over √(2·n_layers)


class skip_init(TorchFunctionMode):
    """Inside, modules do not draw their weights: of large ones it takes seconds, and they are overwritten at once."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Leave a tensor as it is instead of drawing it; do everything else."""
        if func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


def build_gpt(
    config: RunConfig,
    device: torch.device | str = "cpu",
    vocabulary: npt.NDArray[np.integer] | None = None,
    trained: npt.NDArray[np.integer] | None = None,
) -> GPT:
    """A GPT with the initial weights that belong to `config.train.seed`, in training mode, on `device`.

    Args:
        config: of the run, resolved.
        device: where it is to be.
        vocabulary: the tokenizer's id of each of the dataset's ids, where they differ. A token then begins with the
            weights that it has in a GPT with the tokenizer's whole vocabulary.
        trained: the ids that occur in training, ascending. Where they are so few that it pays, the embedding's other
            rows are no parameters. None: whatever may occur.
    """
    with skip_init():
        model = GPT(config.model, config.vocab_size)
    rows = None
    if vocabulary is not None:
        unused = VOCABULARY[config.data.tokenizer] + np.arange(config.vocab_size - len(vocabulary))
        rows = np.concatenate([vocabulary, unused])
    initialise(model, config.train.seed, rows)
    tied = config.model.tie_embeddings  # then all rows are the head's, and trained
    if trained is not None and len(trained) < MOST_ROWS * config.vocab_size and not tied:
        model.train_rows(torch.from_numpy(trained.astype(np.int64)))
    return model.to(device)


def initialise(model: GPT, seed: int, rows: npt.NDArray[np.integer] | None = None) -> None:
    """Set every weight: GPT-2's scheme, each tensor from a stream of its own, named by the parameter.

    Two models with one seed therefore share every tensor they have in common bit for bit, whether or not the other
    has biases in its attention, more layers or a longer context (whose position table begins with the shorter
    one's rows). Only the residual projections differ between depths, by GPT-2's factor 1/√(2·n_layers).

    Args:
        model: any GPT.
        seed: of the run.
        rows: which rows of a table of all tokens the rows of the embedding and of the head are; None: its first ones.
    """
    residual_std = INIT_STD / math.sqrt(2 * len(model.trf_blocks))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
                continue
            std = residual_std if name.endswith(("att.out_proj.weight", "ff.contract.weight")) else INIT_STD
            shape = tuple(parameter.shape)
            if rows is not None and name in ("tok_emb.weight", "out_head.weight"):
                all_rows = stream(seed, "init", name).standard_normal((rows.max() + 1, shape[1]), dtype=np.float32)
                normal = all_rows[rows]
            else:
                normal = stream(seed, "init", name).standard_normal(shape, dtype=np.float32)
            parameter.copy_(torch.from_numpy(normal).mul_(std))
