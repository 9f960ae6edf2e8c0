"""Text generation: continue token ids greedily or by sampling, context cropped to what the model can see."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.config.run import SampleConfig
from harness.core.rng import derive
from harness.data import Tokenizer
from harness.model.gpt import GPT


@torch.no_grad()
def generate(
    model: GPT,
    tokens: list[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> list[int]:
    """Continue `tokens` by `max_new_tokens` ids; the model is left in the mode it was in.

    Args:
        model: sees at most its last `context_length` ids at each step.
        tokens: ids to continue, at least one.
        max_new_tokens: how many ids are added.
        temperature: 0 takes the likeliest id (the first of equals); else logits are divided by it and sampled.
        top_k: sample among the k likeliest ids only.
        seed: of the sampling stream; nothing else draws from it.
        limit: ids from here on are never chosen (a vocabulary padded beyond the tokenizer's).

    Returns:
        All ids, the given ones first.
    """
    if not tokens:
        raise ValueError("found an empty prompt; allowed: at least one token to continue")
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(derive(seed, "sampling"))
    was_training = model.training
    model.eval()
    ids = list(tokens)
    for _ in range(max_new_tokens):
        context = torch.tensor([ids[-model.context_length :]], device=device)
        logits = model.out_head(model.hidden(context)[:, -1])[0, :limit].float().cpu()  # (V,): the last position only
        ids.append(_choose(logits, temperature, top_k, generator))
    model.train(was_training)
    return ids


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < len(logits):
        values, ids = logits.topk(top_k)
    else:
        values, ids = logits, torch.arange(len(logits))
    probabilities = torch.softmax(values.double() / temperature, dim=0)
    return int(ids[torch.multinomial(probabilities, 1, generator=generator)])


def continue_text(model: GPT, tokenizer: Tokenizer, sample: SampleConfig, seed: int = 0) -> str:
    """The prompt of `sample` and its continuation as text."""
    ids = generate(
        model,
        tokenizer.encode(sample.prompt),
        sample.max_new_tokens,
        sample.temperature,
        sample.top_k,
        seed,
        limit=tokenizer.n_vocab,
    )
    return tokenizer.decode(ids)
