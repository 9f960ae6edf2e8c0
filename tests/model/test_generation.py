"""Generation: equal to a plain loop, reproducible, and without effect on the model or the global generator."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch

from harness.config.run import SampleConfig
from harness.data import get_tokenizer
from harness.model.generation import GREEDY, Choice, continue_text, generate, generate_each, sampled_and_greedy
from harness.model.gpt import GPT
from helpers import lively_gpt, small_config

PROMPT = [72, 101, 108, 108, 111]


@pytest.fixture(scope="module")
def model() -> GPT:
    return lively_gpt(small_config(model={"n_layers": 2}))


@torch.no_grad()
def logits_after(model: GPT, tokens: list[int]) -> torch.Tensor:
    """The next token's logits, from a pass over all positions that the model can see."""
    return model(torch.tensor([tokens[-16:]]))[0, -1]


def test_greedy_is_the_argmax_of_each_step(model: GPT) -> None:
    expected = list(PROMPT)
    for _ in range(40):  # well beyond the context of 16
        expected.append(int(logits_after(model, expected).argmax()))
    assert generate(model, PROMPT, 40) == expected
    assert len(set(expected[5:])) > 3  # a model that repeats one token would pass too easily


def test_greedy_takes_the_first_of_equals() -> None:
    model = lively_gpt(small_config())
    torch.nn.init.zeros_(model.out_head.weight)
    assert generate(model, PROMPT, 2)[5:] == [0, 0]


def test_top_1_is_greedy(model: GPT) -> None:
    assert generate(model, PROMPT, 30, temperature=3.0, top_k=1, seed=5) == generate(model, PROMPT, 30)


def test_a_low_temperature_is_greedy(model: GPT) -> None:
    assert generate(model, PROMPT, 30, temperature=1e-4, seed=5) == generate(model, PROMPT, 30)


def test_sampling_is_repeatable_and_seeds_differ(model: GPT) -> None:
    one, again, other = (generate(model, PROMPT, 20, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert one == again != other


def test_a_shorter_continuation_begins_a_longer_one(model: GPT) -> None:
    assert generate(model, PROMPT, 20, temperature=1.0)[:15] == generate(model, PROMPT, 10, temperature=1.0)


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (2.0, 3), (1.0, 1000)])
def test_samples_have_the_models_probabilities(temperature: float, top_k: int | None) -> None:
    # Of eight ids: a share p of n draws has the standard error √(p(1-p)/n) ≤ 0.5/√n; five of them are allowed.
    draws, model = 1000, lively_gpt(small_config())
    logits = logits_after(model, PROMPT)[:8].double() / temperature
    if top_k == 3:
        logits[logits < logits.topk(3).values[-1]] = -torch.inf
    wanted = torch.softmax(logits, dim=0).tolist()
    found = Counter(
        generate(model, PROMPT, 1, temperature=temperature, top_k=top_k, seed=seed, limit=8)[-1]
        for seed in range(draws)
    )
    assert sum(found.values()) == draws and set(found) <= set(range(8))
    for token, share in enumerate(wanted):
        assert found[token] / draws == pytest.approx(share, abs=5 * 0.5 / draws**0.5)
        assert share > 0 or found[token] == 0
    assert max(wanted) < 0.95  # else the comparison would be too easy


def test_only_the_last_context_length_tokens_matter(model: GPT) -> None:
    prompt = [(7 * n + n * n) % 256 for n in range(45)]
    expected = generate(model, prompt, 10)
    assert expected[:45] == prompt
    assert generate(model, prompt[-16:], 10)[16:] == expected[45:]
    assert generate(model, [3] * 29 + prompt[-16:], 10)[45:] == expected[45:]
    # the first token inside the context does matter: some other token there changes the likeliest continuation
    others = ([*prompt[:29], token, *prompt[30:]] for token in range(256))
    changed = next(other for other in others if logits_after(model, other).argmax() != expected[45])
    assert generate(model, changed, 1)[45] != expected[45]


@pytest.mark.parametrize("training", [False, True])
def test_generation_changes_neither_the_models_mode_nor_the_global_generator(training: bool) -> None:
    model = lively_gpt(small_config(model={"drop_rate": 0.5})).train(training)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = generate(model, PROMPT, 10, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training == training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    without_dropout = lively_gpt(small_config(model={"drop_rate": 0.0}))
    assert one == generate(without_dropout, PROMPT, 10, temperature=1.0)  # dropout was off


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 5}], ids=str)
def test_ids_beyond_the_limit_are_never_chosen(options: dict[str, Any]) -> None:
    model = lively_gpt(small_config(model={"vocab_size": 300}))
    with torch.no_grad():
        model.out_head.weight[256:].mul_(20)  # large logits, so that these ids are likely
    free = generate(model, PROMPT, 30, **options)[5:]
    assert max(free) >= 256
    assert max(generate(model, PROMPT, 30, limit=256, **options)) < 256
    sample = SampleConfig(prompt="Hello", max_new_tokens=30, **{"temperature": 0.0, "top_k": None, **options})
    text = continue_text(model, get_tokenizer("byte"), sample)
    ids = generate(model, PROMPT, 30, limit=256, **options)
    assert text == bytes(ids).decode(errors="replace")


def test_an_empty_prompt_is_refused(model: GPT) -> None:
    with pytest.raises(ValueError, match="found an empty prompt; allowed: at least one token"):
        generate(model, [], 5)


def test_no_new_tokens_gives_the_prompt(model: GPT) -> None:
    prompt = list(PROMPT)
    assert generate(model, prompt, 0) == PROMPT
    generate(model, prompt, 3)
    assert prompt == PROMPT  # the caller's list is unchanged


def test_continue_text_uses_every_setting(model: GPT) -> None:
    base = SampleConfig(prompt="Hello", max_new_tokens=12, temperature=1.5, top_k=40)
    changes: list[dict[str, Any]] = [
        {},
        {"max_new_tokens": 11},
        {"temperature": 0.0},
        {"top_k": None},
        {"prompt": "hello"},
    ]
    texts = [continue_text(model, get_tokenizer("byte"), base.model_copy(update=change), seed=3) for change in changes]
    texts.append(continue_text(model, get_tokenizer("byte"), base, seed=4))
    assert all(text.startswith("Hello") for text in (*texts[:4], texts[5]))
    assert not any(one == other for one, other in itertools.combinations(texts, 2))


def test_continuations_of_one_batch_are_those_of_each_alone(model: GPT) -> None:
    choices = [Choice(1.5, 40, 3), GREEDY, Choice(1.0, None, 3)]
    alone = [generate(model, PROMPT, 30, *choice) for choice in choices]
    assert generate_each(model, PROMPT, 30, choices) == alone
    assert len({tuple(ids) for ids in alone}) == 3


def test_the_sampled_and_the_greedy_text_of_an_evaluation(model: GPT) -> None:
    tokenizer, sample = get_tokenizer("byte"), SampleConfig(prompt="Hello", max_new_tokens=30)
    assert (sample.temperature, sample.top_k) == (0.8, 40)
    greedy = sample.model_copy(update={"temperature": 0.0})
    both = continue_text(model, tokenizer, sample, 7), continue_text(model, tokenizer, greedy)
    assert sampled_and_greedy(model, tokenizer, sample, 7) == both
    assert sampled_and_greedy(model, tokenizer, greedy, 7) == (both[1], None)
