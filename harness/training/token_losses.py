"""The probability that a model gives to each of the first tokens of the validation split."""

from __future__ import annotations

import codecs
import math
from pathlib import Path
from typing import Final

import torch

from harness.core.files import json_list_with_checksum, write_atomic
from harness.core.paths import TOKEN_LOSSES
from harness.data import Tokenizer
from harness.data.batches import scoring_batches
from harness.data.stored_ids import Tokens
from harness.model.gpt import GPT
from harness.training.devices import autocast

LENGTH: Final = 200  # tokens
_UNKNOWN: Final = b"\xff"  # for a token without bytes; invalid in UTF-8, so it becomes U+FFFD


@torch.no_grad()
def save_token_losses(
    folder: Path, model: GPT, tokens: Tokens, tokenizer: Tokenizer, device: torch.device, precision: str
) -> None:
    """Write the text and the probability of the first `LENGTH` targets of a split, as JSON with a checksum.

    The targets are scored in the same windows as by a full pass over the split, so their mean negative log probability
    is the split's loss over its beginning. Afterwards the model is in the mode (train or eval) it had before.

    A character of several tokens, such as most Chinese ones in GPT-2's vocabulary, is the text of the last of them. The
    others have an empty text, so that all texts in a row are the passage.

    Args:
        folder: of the checkpoint.
        model: whose checkpoint it is.
        tokens: the split; its first token is no target.
        tokenizer: decodes the tokens.
        device, precision: as in evaluations.
    """
    was_training = model.training
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(b"".join(tokenizer.pieces[token] for token in tokens[:1].tolist()))
    model.eval()
    scored = []
    for inputs, targets in scoring_batches(tokens[: LENGTH + 1], model.context_length, LENGTH):
        with autocast(device, precision):
            losses = model.token_losses(inputs.to(device), targets.to(device))
        for token, loss in zip(targets.flatten().tolist(), losses.flatten().tolist(), strict=True):
            text = decoder.decode(tokenizer.pieces[token] or _UNKNOWN)
            scored.append({"text": text, "probability": float(f"{math.exp(-loss):.6g}")})
    model.train(was_training)
    write_atomic(folder / TOKEN_LOSSES, [json_list_with_checksum(scored).encode()])
