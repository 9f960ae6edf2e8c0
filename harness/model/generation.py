"""Text generation: continue token ids greedily or by sampling, with the context cropped to the model's length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from harness.config.run import SampleConfig
from harness.core.rng import derive
from harness.data import Tokenizer
from harness.model.gpt import GPT


class Choice(NamedTuple):
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the most likely id (the first of equal ones); else logits are divided by it and sampled.
        top_k: sample among the k most likely ids only; None: among all.
        seed: of the sampling stream, which nothing else uses.
    """

    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 0


GREEDY: Final = Choice()


def generate(
    model: GPT,
    tokens: list[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> list[int]:
    """Continue `tokens` by `max_new_tokens` ids; see `generate_each` and `Choice`."""
    return generate_each(model, tokens, max_new_tokens, [Choice(temperature, top_k, seed)], limit)[0]


@torch.no_grad()
def generate_each(
    model: GPT, tokens: list[int], max_new_tokens: int, choices: Sequence[Choice], limit: int | None = None
) -> list[list[int]]:
    """Continue `tokens` by `max_new_tokens` ids in several ways, as the rows of one batch.

    Afterwards the model is in the mode (train or eval) it had before.

    Args:
        model: sees the last `context_length` ids at each step.
        tokens: ids to continue, at least one.
        max_new_tokens: number of ids to add.
        choices: one for each continuation.
        limit: ids from here on are never chosen (for a vocabulary padded beyond the tokenizer's).

    Returns:
        All ids of each continuation, the given ones first.

    Raises:
        ValueError: `tokens` is empty, or a probability to sample by is not finite.
    """
    if not tokens:
        raise ValueError("found an empty prompt; allowed: at least one token to continue")
    device = next(model.parameters()).device
    generators = [torch.Generator().manual_seed(derive(choice.seed, "sampling")) for choice in choices]
    was_training = model.training
    model.eval()
    rows = [list(tokens) for _ in choices]
    for _ in range(max_new_tokens):
        context = torch.tensor([ids[-model.context_length :] for ids in rows], device=device)  # (B, T)
        logits = model.out_head(model.hidden(context)[:, -1])[:, :limit].float().cpu()  # (B, V)
        for ids, row, choice, generator in zip(rows, logits, choices, generators, strict=True):
            ids.append(_choose(row, choice.temperature, choice.top_k, generator))
    model.train(was_training)
    return rows


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < len(logits):
        values, ids = logits.topk(top_k)
    else:
        values, ids = logits, torch.arange(len(logits))
    probabilities = torch.softmax(values.double() / temperature, dim=0)
    if not probabilities.isfinite().all():
        raise ValueError(
            f"found probabilities that are not finite, with temperature {temperature:g}; allowed: a model with finite "
            "logits, or a larger temperature"
        )
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


def sampled_and_greedy(model: GPT, tokenizer: Tokenizer, sample: SampleConfig, seed: int = 0) -> tuple[str, str | None]:
    """The prompt of `sample`, continued with its temperature, and continued greedily.

    Returns:
        Both texts; with temperature 0 the first one is greedy and there is no second.
    """
    choices = [Choice(sample.temperature, sample.top_k, seed)]
    if sample.temperature > 0:
        choices.append(GREEDY)
    prompt = tokenizer.encode(sample.prompt)
    rows = generate_each(model, prompt, sample.max_new_tokens, choices, limit=tokenizer.n_vocab)
    text, *others = map(tokenizer.decode, rows)
    return text, others[0] if others else None
