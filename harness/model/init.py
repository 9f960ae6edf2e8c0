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

from harness.config.run import RunConfig
from harness.config.tokenizers import VOCABULARY
from harness.core.rng import stream
from harness.model.gpt import GPT
from harness.model.sources import Source
from harness.model.start import start_from

MAX_TRAINED_SHARE = 0.8  # of the embedding's rows: above this, untrained rows are not worth leaving out

INIT_STD = 0.02  # GPT-2's; divided by √(2·n_layers) in the output projections of the 2·n_layers residual branches


class skip_init(TorchFunctionMode):
    """Context in which modules skip `nn.init`: it takes seconds for large models, and the weights are overwritten."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Leave the tensor uninitialised if `func` is an initialiser; else call it."""
        if func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


def build_gpt(
    config: RunConfig,
    device: torch.device | str = "cpu",
    vocabulary: npt.NDArray[np.integer] | None = None,
    trained_ids: npt.NDArray[np.integer] | None = None,
    source: Source | None = None,
) -> GPT:
    """A GPT with the initial weights of `config.train.seed` or of a source, in training mode, on `device`.

    Args:
        config: of the run, resolved.
        device: where the weights are moved after they are drawn on the CPU.
        vocabulary: the tokenizer's id of each of the dataset's ids, if they differ. Each token then gets the initial
            weights that it has in a GPT with the tokenizer's full vocabulary.
        trained_ids: the ids that occur in the training split, ascending. If they are few, only their rows of an untied
            embedding become parameters, see `SparseEmbedding`. None: any id may occur.
        source: weights to start from; every one becomes a parameter, so that a state of the run holds them all.

    Raises:
        StartError: the source is not the one of the configuration.
    """
    with skip_init():
        model = GPT(config.model, config.vocab_size)
    if source is not None:
        start_from(model, config, source)
        return model.to(device)
    rows = None
    if vocabulary is not None:
        # Rows beyond the vocabulary take those after the whole tokenizer's; of one that is not built in, of its last id
        first = VOCABULARY.get(config.data.tokenizer, int(vocabulary[-1]) + 1)
        unused = first + np.arange(config.vocab_size - len(vocabulary))
        rows = np.concatenate([vocabulary, unused])
    initialise(model, config.train.seed, rows)
    tied = config.model.tie_embeddings  # then the head trains every row
    if trained_ids is not None and len(trained_ids) < MAX_TRAINED_SHARE * config.vocab_size and not tied:
        model.train_only_rows(torch.from_numpy(trained_ids.astype(np.int64)))
    return model.to(device)


def initialise(model: GPT, seed: int, rows: npt.NDArray[np.integer] | None = None) -> None:
    """Set every weight by GPT-2's scheme. Each tensor is drawn from its own random stream, named by the parameter.

    Two models with the same seed therefore have bit-equal weights in every tensor they share, also if one of them has
    attention biases, more layers or a longer context (the longer position table begins with the shorter one). Only the
    residual projections depend on the depth, by GPT-2's factor 1/√(2·n_layers).

    Args:
        model: any GPT.
        seed: of the run.
        rows: for each row of the embedding and of the head, the row of the full vocabulary's table that it takes; None:
            the first rows.
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
