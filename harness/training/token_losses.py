"""A passage of the validation text as a model sees it: the probability that it gives to each token."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Final

import torch

from harness.core.files import write_whole
from harness.data import Tokenizer
from harness.data.batches import Tokens, scoring_batches
from harness.model.gpt import GPT
from harness.training.devices import autocast

FILE: Final = "token_losses.json"  # in the folder of a checkpoint
LENGTH: Final = 200  # tokens


@torch.no_grad()
def save_passage(
    folder: Path, model: GPT, tokens: Tokens, tokenizer: Tokenizer, device: torch.device, precision: str
) -> None:
    """Write the text of the first targets of a split and the probability of each, as a list of JSON objects.

    They are scored in the windows of a full pass over the split, so their mean negative logarithm is the loss of its
    beginning. A model is left in the mode it was in.

    Args:
        folder: of the checkpoint.
        model: as it was saved.
        tokens: the split; its first token is no target.
        tokenizer: knows their text.
        device, precision: as in the evaluations.
    """
    was_training = model.training
    model.eval()
    scored = []
    for inputs, targets in scoring_batches(tokens[: LENGTH + 1], model.context_length, LENGTH):
        with autocast(device, precision):
            losses = model.token_losses(inputs.to(device), targets.to(device))
        for token, loss in zip(targets.flatten().tolist(), losses.flatten().tolist(), strict=True):
            scored.append({"text": tokenizer.decode([token]), "probability": float(f"{math.exp(-loss):.6g}")})
    model.train(was_training)
    write_whole(folder / FILE, [json.dumps(scored, ensure_ascii=False, indent=0).encode()])
