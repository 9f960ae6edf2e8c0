"""The trainer: equal to other implementations, reproducible, budgets, points, divergence."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import harness.data.windows
import harness.training.budget
import harness.training.run
from harness.config.run import DataConfig, RunConfig
from harness.core import metrics
from harness.core.metrics import Point
from harness.data import CorpusError, Dataset, get_tokenizer, load_corpus, open_dataset
from harness.data.batches import training_batches
from harness.model.gpt import GPT
from harness.model.init import build_gpt
from harness.model.weights import load_checkpoint
from harness.training.budget import Clock
from harness.training.errors import Diverged
from harness.training.evaluation import Evaluation, Evaluator
from harness.training.optimizers import OPTIMIZERS
from harness.training.trainer import train
from helpers import (
    SAMPLED,
    WHOLE,
    byte_data,
    check_that_it_resumes_bit_equal,
    counted_data,
    evaluator,
    numbers,
    run,
    small_config,
)
from references import Reference, book, hugging_face

CPU = torch.device("cpu")
EVALUATED = {
    metrics.TRAIN_LOSS,
    metrics.TRAIN_PERPLEXITY,
    metrics.VAL_LOSS,
    metrics.VAL_PERPLEXITY,
    metrics.VAL_BITS_PER_BYTE,
}
TESTED = {metrics.TEST_LOSS, metrics.TEST_PERPLEXITY, metrics.TEST_BITS_PER_BYTE}
LOGGED = {
    metrics.BATCH_LOSS,
    metrics.LEARNING_RATE,
    metrics.GRAD_NORM,
    metrics.TOKENS_PER_SECOND,
    metrics.EPOCHS,
}


def weights_of(config: RunConfig, folder: Path) -> dict[str, bytes]:
    """The bytes of the final weights of a run."""
    run(config, checkpoint=folder)
    model, _ = load_checkpoint(folder)
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


Capture = Callable[[RunConfig], list[tuple[Tensor, Tensor]]]


@pytest.fixture
def batches_of(monkeypatch: pytest.MonkeyPatch) -> Capture:
    """A function that trains and returns the batches it trained on."""
    seen: list[tuple[Tensor, Tensor]] = []

    def recording(*arguments: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in training_batches(*arguments):
            seen.append(batch)
            yield batch

    monkeypatch.setattr(harness.data.windows, "training_batches", recording)

    def capture(config: RunConfig) -> list[tuple[Tensor, Tensor]]:
        seen.clear()
        run(config)
        return list(seen)

    return capture


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[GPT]:
    """The models that runs have built so far; tests inspect or break them."""
    built: list[GPT] = []

    def building(*arguments: Any) -> GPT:
        built.append(build_gpt(*arguments))
        return built[-1]

    monkeypatch.setattr(harness.training.run, "build_gpt", building)
    return built


# Against other implementations


@pytest.mark.parametrize("reference_of", [book, hugging_face])
def test_twenty_steps_give_the_losses_of_another_implementation(
    reference_of: Callable[[RunConfig, GPT], Reference],
) -> None:
    """The same weights, batches and settings in a plain loop around the other model and torch's AdamW."""
    config = small_config(
        model={"n_layers": 2, "qkv_bias": True},
        budget={"steps": 20},
        learning_rate=1e-2,
        schedule="linear",
        warmup=0.1,
        final_fraction=0.1,
        weight_decay=0.1,
        grad_clip=0.5,
    )
    data = byte_data()
    ours = run(config, data)

    reference = reference_of(config, build_gpt(config))
    parameters = list(reference.module.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    losses, norms = [], []
    for step, (tokens, targets) in enumerate(itertools.islice(training_batches(data.train, 16, 4, seed=1), 20), 1):
        done = step / 20
        for group in optimizer.param_groups:  # warm-up over the first tenth, then decay to a tenth
            group["lr"] = 1e-2 * (done / 0.1 if done < 0.1 else 1.1 - done)
        loss = F.cross_entropy(reference.logits(tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum((p.grad.double() ** 2).sum().item() for p in parameters if p.grad is not None))
        for parameter in parameters:
            if parameter.grad is not None and norm > 0.5:
                parameter.grad *= 0.5 / norm
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm)

    assert losses[-1] < losses[0] - 1  # the weights have changed
    assert max(norms) > 0.5  # and gradients were clipped
    # Rounding differs in the last digits, and 20 steps of AdamW amplify it.
    assert [p.metrics[metrics.BATCH_LOSS] for p in ours[1:]] == pytest.approx(losses, abs=1e-4)
    assert [p.metrics[metrics.GRAD_NORM] for p in ours[1:]] == pytest.approx(norms, rel=1e-3)


def test_the_common_context_loss_and_positions_come_with_the_last_point_only() -> None:
    points = run(small_config(budget={"steps": 4}, eval_every={"steps": 2}), common_context=8)
    assert [metrics.VAL_COMMON_LOSS in point.metrics for point in points] == [False] * (len(points) - 1) + [True]
    assert [len(point.by_position) for point in points] == [0] * (len(points) - 1) + [16]
    assert not any(metrics.VAL_COMMON_LOSS in p.metrics for p in run(small_config(budget={"steps": 2})))


# Points before the first step


def test_an_untrained_model_scores_about_ln_of_the_vocabulary() -> None:
    # Its logits are about normal with σ = 0.02·√emb_dim, which adds σ²/2 to ln V on average: 0.0064 at width 32.
    # The mean over a text that is not uniform varies by a few hundredths of σ; 0.02 covers both.
    for seed in (1, 2, 3):
        first = next(iter(train(small_config(model={"emb_dim": 32, "n_layers": 2}, seed=seed))))
        assert (first.step, first.tokens, first.progress) == (0, 0, 0.0)
        assert first.metrics[metrics.VAL_LOSS] == pytest.approx(math.log(256) + 0.0064, abs=0.02)
        assert first.metrics[metrics.TRAIN_LOSS] == pytest.approx(math.log(256) + 0.0064, abs=0.03)


# Reproducibility


def test_two_runs_of_one_config_are_bit_equal_and_another_seed_is_not(tmp_path: Path) -> None:
    config = small_config(model={"drop_rate": 0.1})
    one, again = run(config, checkpoint=tmp_path / "one"), run(config, checkpoint=tmp_path / "again")
    assert numbers(one) == numbers(again)
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()
    other = run(small_config(model={"drop_rate": 0.1}, seed=2))
    for metric in (metrics.VAL_LOSS, metrics.TRAIN_LOSS, metrics.BATCH_LOSS):
        assert one[-1].metrics[metric] != other[-1].metrics[metric]


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({"learning_rate": 1e-2, "weight_decay": 0.0, "optimizer": "muon", "batch_size": 2, "warmup": 0.3}, True),
        ({"model": {"drop_rate": 0.3}}, True),
        ({"seed": 2}, False),
        ({"model": {"qkv_bias": True}}, False),
        ({"model": {"context_length": 8}}, False),
        ({"train_eval_tokens": 256}, False),
        ({"data": {"corpus": "sotu-1820", "tokenizer": "byte", "split": {"val": 0.2}}}, False),
        ({"sample": {"max_new_tokens": 3}}, False),
    ],
    ids=str,
)
def test_runs_with_the_same_initial_weights_are_evaluated_once_at_step_0(
    change: dict[str, Any], shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    evaluate = Evaluator._evaluate

    def counted(self: Evaluator, step: int, last: bool) -> Evaluation:
        passes.append(step)
        return evaluate(self, step, last)

    monkeypatch.setattr(Evaluator, "_evaluate", counted)
    alone = run(small_config(**change))
    assert passes == [0, 6]
    step0_cache: dict[str, Any] = {}
    run(small_config(), step0_cache=step0_cache)
    passes.clear()
    points = run(small_config(**change), step0_cache=step0_cache)
    assert passes == ([6] if shared else [0, 6])
    assert numbers(points) == numbers(alone)
    texts = [[(point.sample, point.greedy) for point in one] for one in (points, alone)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("sample", [{"max_new_tokens": 0}, {"max_new_tokens": 4}])
def test_evaluating_more_often_changes_nothing_else(sample: dict[str, float], tmp_path: Path) -> None:
    def weights(eval_steps: int, **fields: Any) -> dict[str, bytes]:
        config = small_config(
            model={"drop_rate": 0.1}, budget={"steps": 12}, eval_every={"steps": eval_steps}, **fields
        )
        return weights_of(config, tmp_path / str(eval_steps))

    never = weights(100)
    assert weights(6, sample=sample) == weights(3, sample=sample) == weights(1, sample=sample) == never


def test_a_callers_random_numbers_change_nothing() -> None:
    config = small_config(model={"drop_rate": 0.1})
    alone = run(config)
    disturbed = []
    for mine, _ in zip(train(config), train(small_config(seed=2, model={"drop_rate": 0.5})), strict=True):
        torch.rand(7)
        np.random.default_rng(0).random()
        disturbed.append(mine)
    assert numbers(disturbed) == numbers(alone)


def equal_batches(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("change", [{"drop_rate": 0.1}, {"n_layers": 2}, {"qkv_bias": True}, {"emb_dim": 32}], ids=str)
def test_arms_see_the_same_data_in_the_same_order(change: dict[str, Any], batches_of: Capture) -> None:
    base = batches_of(small_config(model={"drop_rate": 0.0}))
    assert len(base) == 6
    assert equal_batches(base, batches_of(small_config(model=change)))
    assert not equal_batches(base, batches_of(small_config(model=change, seed=2)))


def test_dropout_acts_in_training() -> None:
    base, dropped = run(small_config()), run(small_config(model={"drop_rate": 0.5}))
    assert base[0].metrics == dropped[0].metrics  # before the first step: the same weights, dropout off
    assert base[1].metrics[metrics.BATCH_LOSS] != dropped[1].metrics[metrics.BATCH_LOSS]
    other = run(small_config(model={"drop_rate": 0.5}, budget={"steps": 2}))
    assert dropped[1].metrics[metrics.BATCH_LOSS] == other[1].metrics[metrics.BATCH_LOSS]


def test_every_step_uses_another_dropout_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    plain = GPT.loss

    def spy(self: GPT, tokens: Tensor, targets: Tensor) -> Tensor:
        states.append(torch.get_rng_state().numpy().tobytes())
        return plain(self, tokens, targets)

    monkeypatch.setattr(GPT, "loss", spy)
    run(small_config(model={"drop_rate": 0.1}))
    run(small_config(model={"drop_rate": 0.1}, seed=2))
    assert len(states) == len(set(states)) == 12


# Budgets


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"steps": 7}, 7),
        ({"tokens": 480}, 6),  # 5 windows of 16 tokens: 80 a step
        ({"tokens": 1}, 1),
        ({"epochs": 2}, 10),  # 25 windows, 5 a step
        ({"epochs": 1.3}, 6),  # 32 windows: 6 steps, and 2 windows are left
        ({"flops": 8 * 80 * 47_232.0}, 8),  # see below
    ],
)
def test_a_budget_gives_the_right_number_of_steps(budget: dict[str, float], steps: int, tmp_path: Path) -> None:
    # FLOPs a token at width 16 and context 16: block 12·256 + 16 + 80 + 64 = 3232, final norm 32, head 4096; so
    # 6·7360 + 12·16·16 = 47,232.
    config = small_config(data=counted_data(tmp_path, 401), batch_size=5, budget=budget, eval_every={"steps": 4})
    data = open_dataset(config.data)
    assert len(data.train) == 401
    points = run(config, data)
    last = points[-1]
    assert (last.step, last.tokens, last.progress) == (steps, steps * 80, 1.0)
    assert last.evaluated and points[0].evaluated
    assert [point.step for point in points if point.evaluated] == sorted({0, *range(4, steps + 1, 4), steps})
    for point in points:
        assert point.progress == point.step / steps
        assert point.metrics[metrics.TOKENS] == point.tokens == 80 * point.step
        assert point.metrics.get(metrics.EPOCHS, 0) == pytest.approx(point.step / 5)


@pytest.mark.parametrize(
    ("steps", "every", "evaluated"),
    [
        (10, 3, [0, 3, 6, 10]),  # step 9 is less than half an interval before the end
        (10, 4, [0, 4, 8, 10]),  # step 8 is exactly half an interval before the end
        (8, 4, [0, 4, 8]),
        (4, 3, [0, 4]),
        (2, 3, [0, 2]),
        (3, 1, [0, 1, 2, 3]),
    ],
)
def test_an_evaluation_shortly_before_the_last_is_left_out(steps: int, every: int, evaluated: list[int]) -> None:
    points = run(small_config(budget={"steps": steps}, eval_every={"steps": every}))
    assert [point.step for point in points if point.evaluated] == evaluated
    assert [point.step for point in points] == list(range(steps + 1))  # there is a point without evaluation


def test_every_window_is_seen_equally_often_over_whole_epochs(batches_of: Capture, tmp_path: Path) -> None:
    config = small_config(data=counted_data(tmp_path, 401), batch_size=5, budget={"epochs": 3})
    rows = Counter(row.numpy().tobytes() for inputs, _ in batches_of(config) for row in inputs)
    assert len(rows) == 25 and set(rows.values()) == {3}


def test_a_budget_in_seconds_ends_on_time() -> None:
    began = time.perf_counter()
    points = run(small_config(budget={"seconds": 0.3}))
    took = time.perf_counter() - began
    last = points[-1]
    assert last.evaluated and last.progress == 1.0 and last.step > 1
    assert [point.progress for point in points] == sorted(point.progress for point in points)
    # the rest is two evaluations and building the model: up to a second each on a busy machine
    assert 0.3 <= took < 3.3


def test_a_budget_in_seconds_by_a_fake_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every reading of the clock advances it by an eighth of a second, so a step takes exactly that: 8 steps a second.
    ticks = itertools.count()
    monkeypatch.setattr(harness.training.budget, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 8))
    points = run(small_config(budget={"seconds": 1}, schedule="linear", warmup=0.25, final_fraction=0.0))
    by_step = {point.step: point for point in points}
    assert points[-1].step == 8 and by_step[8].progress == 1.0
    assert by_step[8].metrics[metrics.TOKENS_PER_SECOND] == 64 * 8  # 4 windows of 16 tokens in an eighth of a second
    assert by_step[8].metrics[metrics.LEARNING_RATE] == 0.0  # the schedule runs over the seconds


def test_progress_in_seconds_includes_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(harness.training.budget, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 8))
    clock = Clock(small_config(budget={"seconds": 1}), train_windows=1000)
    found = []
    for step in range(8):
        assert not clock.done(step)
        found.append(clock.progress_after(step))
        clock.start_step()
        clock.end_step()
    assert clock.done(8)
    assert found == pytest.approx([0.0, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0], abs=1e-8)


def test_learning_rates_follow_the_schedule() -> None:
    points = run(
        small_config(budget={"steps": 5}, schedule="linear", warmup=0.4, final_fraction=0.1, learning_rate=1e-2)
    )
    found = [point.metrics[metrics.LEARNING_RATE] for point in points[1:]]
    assert found == pytest.approx([0.5e-2, 1e-2, 0.7e-2, 0.4e-2, 0.1e-2])


# Points


def test_points_have_the_right_metrics() -> None:
    points = run(small_config(budget={"steps": 4}, eval_every={"steps": 2}))
    assert set(points[0].metrics) == EVALUATED | {metrics.TOKENS}
    for point in points[1:]:
        assert set(point.metrics) == LOGGED | {metrics.TOKENS} | (EVALUATED if point.step % 2 == 0 else set())
        assert point.metrics[metrics.TOKENS_PER_SECOND] > 0
    assert [point.seconds for point in points] == sorted(point.seconds for point in points)
    assert points[0].seconds > 0


@pytest.mark.slow
def test_a_long_run_has_points_at_every_hundredth(monkeypatch: pytest.MonkeyPatch) -> None:
    every = [point.step for point in run(small_config(budget={"steps": 350}))]
    assert every == [*range(0, 350, 3), 350]  # a hundredth of the run, rounded down
    monkeypatch.setattr(harness.config.run, "MAX_LOG_STEPS", 2)
    often = [point.step for point in run(small_config(budget={"steps": 301}))]
    assert often == [*range(0, 301, 2), 301]


@pytest.mark.parametrize("read_test", [False, True])
def test_the_test_split_is_read_once_and_only_when_asked(read_test: bool) -> None:
    points = run(small_config(eval_every={"steps": 2}), read_test=read_test)
    assert not any(TESTED & set(point.metrics) for point in points[:-1])
    assert TESTED & set(points[-1].metrics) == (TESTED if read_test else set())


def test_every_target_of_the_test_split_is_scored(tmp_path: Path) -> None:
    last = run(small_config(), read_test=True, checkpoint=tmp_path)[-1]
    model, config = load_checkpoint(tmp_path)
    data = byte_data()
    swapped = dataclasses.replace(data, val=data.test, bytes={**data.bytes, "val": data.bytes["test"]})
    scores = evaluator(config, model, swapped).evaluate(0).metrics
    assert last.metrics[metrics.TEST_LOSS] == pytest.approx(scores[metrics.VAL_LOSS], rel=1e-6)
    assert last.metrics[metrics.TEST_BITS_PER_BYTE] == pytest.approx(scores[metrics.VAL_BITS_PER_BYTE], rel=1e-6)


def test_without_a_test_split_there_is_nothing_to_read() -> None:
    data = {"corpus": "sotu-1820", "tokenizer": "byte", "split": {"val": 0.1, "test": 0.0}}
    assert not TESTED & set(run(small_config(data=data), read_test=True)[-1].metrics)


def test_samples_come_with_evaluations_and_begin_with_the_prompt() -> None:
    sample = {"prompt": "The sea ", "max_new_tokens": 5}
    points = run(small_config(eval_every={"steps": 3}, sample=sample))
    for point in points:
        assert (point.sample is not None) == point.evaluated
        for text in filter(None, (point.sample, point.greedy)):
            assert text.startswith("The sea ") and len(text) > 8
    assert all(point.sample is point.greedy is None for point in run(small_config()))


def test_texts_of_a_step_do_not_depend_on_how_often_a_run_is_evaluated() -> None:
    often, rarely = (
        {point.step: (point.sample, point.greedy) for point in run(config) if point.evaluated}
        for config in (
            small_config(eval_every={"steps": every}, sample={"max_new_tokens": 12}, learning_rate=3e-2)
            for every in (1, 3)
        )
    )
    assert rarely == {step: often[step] for step in (0, 3, 6)}
    assert all(sample and greedy and sample != greedy for sample, greedy in often.values())


def test_with_temperature_0_the_only_text_is_greedy() -> None:
    def texts(**sample: float) -> list[tuple[str | None, str | None]]:
        return [(it.sample, it.greedy) for it in run(small_config(sample={"max_new_tokens": 12, **sample}))]

    assert texts(temperature=0) == [(greedy, None) for _, greedy in texts()]


def test_the_checkpoint_holds_the_model_of_the_last_point(tmp_path: Path) -> None:
    points = train(small_config(), checkpoint=tmp_path)
    for point in points:
        assert (tmp_path / "checkpoint.json").exists() == (point.progress == 1.0)
    model, config = load_checkpoint(tmp_path)
    assert config.digest() == small_config().digest()
    assert evaluator(config, model).evaluate(0).metrics[metrics.VAL_LOSS] == point.metrics[metrics.VAL_LOSS]


def test_closing_the_generator_ends_the_training(tmp_path: Path) -> None:
    points = train(small_config(budget={"steps": 10**9}), checkpoint=tmp_path)
    assert [next(points).step for _ in range(3)] == [0, 50, 100]
    points.close()  # type: ignore[attr-defined]
    assert list(points) == [] and not list(tmp_path.iterdir())


def test_bf16_trains_to_about_the_same_loss() -> None:
    # bf16 keeps 8 bits: losses near 5 agree to about 0.01
    fields: dict[str, Any] = {"budget": {"steps": 30}, "learning_rate": 1e-2}
    exact, rough = run(small_config(**fields))[-1], run(small_config(precision="bf16", **fields))[-1]
    assert exact.metrics[metrics.VAL_LOSS] < 5
    assert rough.metrics[metrics.VAL_LOSS] == pytest.approx(exact.metrics[metrics.VAL_LOSS], abs=0.02)
    assert rough.metrics[metrics.VAL_LOSS] != exact.metrics[metrics.VAL_LOSS]


def test_a_context_longer_than_the_training_split_is_refused(tmp_path: Path) -> None:
    config = small_config(data=counted_data(tmp_path, 40), model={"context_length": 40})
    with pytest.raises(CorpusError, match="found a context of 40 tokens; allowed: under 40, the tokens of the train"):
        run(config)
    assert run(small_config(data=counted_data(tmp_path, 41), model={"context_length": 40}))[-1].step == 6


# Divergence


def until_diverged(points: Iterator[Point]) -> tuple[list[Point], str]:
    """The points before the divergence, all finite, and the message."""
    seen = []
    with pytest.raises(Diverged) as caught:
        for point in points:
            assert all(map(math.isfinite, point.metrics.values()))
            seen.append(point)
    return seen, str(caught.value)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_divergence_is_detected_at_the_next_step(optimizer: str) -> None:
    config = small_config(learning_rate=1e30, schedule="constant", warmup=0.0, optimizer=optimizer)
    points, message = until_diverged(train(config))
    assert [point.step for point in points] == [0, 1]  # the first step's loss is that of the initial weights
    assert message in ("loss is nan at step 2", "loss is inf at step 2")


def test_divergence_at_the_last_step_is_detected_by_its_evaluation(tmp_path: Path) -> None:
    config = small_config(learning_rate=1e30, schedule="constant", warmup=0.0, budget={"steps": 1})
    points, message = until_diverged(train(config, checkpoint=tmp_path))
    assert [point.step for point in points] == [0]
    assert message in ("train/loss is nan at step 1", "train/loss is inf at step 1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["trf_blocks.0.norm1.bias", "out_head.weight"])
def test_a_nan_weight_is_detected_at_the_next_step(name: str, models: list[GPT]) -> None:
    points = train(small_config())
    assert [next(points).step for _ in range(3)] == [0, 1, 2]
    with torch.no_grad():
        models[0].get_parameter(name).view(-1)[0] = math.nan
    seen, message = until_diverged(points)
    assert seen == [] and message == "loss is nan at step 3"


def test_an_infinite_gradient_is_detected_although_the_loss_is_finite(models: list[GPT]) -> None:
    points = train(small_config())
    next(points)
    models[0].out_head.weight.register_hook(lambda gradient: gradient * math.inf)
    seen, message = until_diverged(points)
    assert seen == [] and message in ("gradient is nan at step 1", "gradient is inf at step 1")


def test_a_perplexity_too_large_for_a_float_is_left_out(models: list[GPT]) -> None:
    points = train(small_config(learning_rate=1e-9))
    next(points)
    with torch.no_grad():
        models[0].out_head.weight.mul_(1e6)
    last = list(points)[-1]
    assert 710 < last.metrics[metrics.VAL_LOSS] < math.inf  # e^710 is beyond a float
    too_large = {metrics.VAL_PERPLEXITY, metrics.TRAIN_PERPLEXITY}
    assert set(last.metrics) == (EVALUATED | LOGGED | {metrics.TOKENS}) - too_large
    assert all(map(math.isfinite, last.metrics.values()))


def test_an_open_dataset_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    data = byte_data()
    by_itself = numbers(run(small_config()))

    def refuse(config: DataConfig) -> Dataset:
        raise AssertionError("opened again")

    monkeypatch.setattr(harness.training.run, "open_dataset", refuse)
    assert numbers(run(small_config(), data)) == by_itself


# The corpus's own vocabulary


def test_bits_per_byte_do_not_depend_on_how_ids_are_numbered(tmp_path: Path) -> None:
    """A GPT trained on the tokens that occur, against its copy in a full vocabulary that cannot choose the others."""
    source: dict[str, Any] = {"corpus": "sotu-1820", "tokenizer": "gpt2"}
    config = small_config(data={**source, "vocab": "corpus"}, learning_rate=1e-2)
    own = open_dataset(config.data)
    last = run(config, read_test=True, checkpoint=tmp_path)[-1].metrics
    model, stored = load_checkpoint(tmp_path)
    assert stored == own.resolve(config)
    assert own.vocabulary is not None
    vocabulary = torch.from_numpy(own.vocabulary.astype(np.int64))
    full = open_dataset(DataConfig(**source))
    for split in ("val", "test"):
        ids = torch.from_numpy(full.tokens(split).astype(np.int64))
        numbers = torch.full((50257,), -1)
        numbers[vocabulary] = torch.arange(len(vocabulary))
        nats = 0.0
        for start in range(0, len(ids) - 1, 16):
            tokens, targets = ids[start : start + 16][: len(ids) - 1 - start], ids[start + 1 : start + 17]
            logits = torch.full((len(targets), 50257), -torch.inf)
            with torch.no_grad():
                logits[:, vocabulary] = model(numbers[tokens][None])[0]
            nats += F.cross_entropy(logits, targets, reduction="sum").double().item()
        text = get_tokenizer("gpt2").decode(ids[1:].tolist())
        assert last[f"{split}/loss"] == pytest.approx(nats / (len(ids) - 1), rel=1e-6)
        assert last[f"{split}/bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-6)


def test_samples_and_parameters_are_those_of_the_corpus_vocabulary() -> None:
    data = {"corpus": "sotu-1820", "tokenizer": "gpt2", "vocab": "corpus"}
    prompt = " the publication"
    points = run(small_config(data=data, sample={"prompt": prompt, "max_new_tokens": 5}))
    used = set(load_corpus(DataConfig(corpus="sotu-1820")).text)
    for point in (points[0], points[-1]):
        assert point.sample is not None and point.sample.startswith(prompt)
        assert set(point.sample[len(prompt) :]) <= used
    with pytest.raises(CorpusError, match="found '\N{SNOWMAN}', which cannot be encoded with the tokens of the corpus"):
        run(small_config(data=data, sample={"prompt": "\N{SNOWMAN}", "max_new_tokens": 5}))


@pytest.mark.parametrize("name", ["full", "corpus"])
def test_runs_with_a_corpus_vocabulary_can_be_resumed(name: str, tmp_path: Path) -> None:
    data = {"corpus": "sotu-1820", "tokenizer": "byte", "vocab": name}
    config = small_config(data=data, model={"drop_rate": 0.1}, sample={"max_new_tokens": 3})
    check_that_it_resumes_bit_equal(config, tmp_path, after=2)


# A sample for the curves


def test_with_eval_tokens_only_the_first_and_last_evaluation_score_the_whole_split(tmp_path: Path) -> None:
    every = {"eval_every": {"steps": 2}}
    whole = run(small_config(**every), checkpoint=tmp_path / "whole", read_test=True)
    points = run(small_config(**every, eval_tokens=100), checkpoint=tmp_path / "sampled", read_test=True)
    evaluated = [point for point in points if point.evaluated]
    assert [point.step for point in evaluated] == [0, 2, 4, 6]
    assert [set(point.metrics) & (SAMPLED | WHOLE) for point in evaluated] == [
        SAMPLED | WHOLE,
        SAMPLED,
        SAMPLED,
        SAMPLED | WHOLE,
    ]
    # All other metrics are equal, and the training is bit-equal.
    for mine, its in zip(numbers(points), numbers(whole), strict=True):
        same = mine.keys() - SAMPLED
        assert {name: mine[name] for name in same} == {name: its[name] for name in same}
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "sampled")]
    assert weights[0] == weights[1]
    assert points[-1].by_position == whole[-1].by_position
    assert [point.curve_loss for point in evaluated] == [point.metrics[metrics.VAL_SAMPLE_LOSS] for point in evaluated]
    assert [p.curve_loss for p in whole if p.evaluated] == [p.metrics[metrics.VAL_LOSS] for p in whole if p.evaluated]


@pytest.mark.slow
def test_a_compiled_step_trains_like_an_uncompiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is traced with its gradients and run eagerly, since Inductor takes a minute to compile for a CPU."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    budget = {"steps": 6}
    plain, compiled = (run(small_config(budget=budget, compile=way, model={"drop_rate": 0.0})) for way in (False, True))
    assert [point.step for point in plain] == [point.step for point in compiled]
    for one, other in zip(plain, compiled, strict=True):
        assert one.metrics.keys() == other.metrics.keys()
        for name in one.metrics.keys() & {"train/batch_loss", "train/loss", "val/loss", "optim/grad_norm"}:
            assert one.metrics[name] == pytest.approx(other.metrics[name], rel=1e-5), (one.step, name)
    assert plain[0].metrics["val/loss"] != plain[-1].metrics["val/loss"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_sparse_embedding_trains_as_a_full_one(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, except the untrained rows: their decay is applied once instead of at every step."""
    data = byte_data()
    config = small_config(
        optimizer=optimizer, learning_rate=0.1, grad_clip=None, sample={"max_new_tokens": 20, "temperature": 2.0}
    )
    saved, points = [], []
    for share in (0.8, 0.0):
        monkeypatch.setattr("harness.model.init.MAX_TRAINED_SHARE", share)
        points.append(run(config, data, checkpoint=tmp_path / str(share)))
        model, _ = load_checkpoint(tmp_path / str(share))
        saved.append(model.state_dict())
    assert numbers(points[0]) == numbers(points[1])
    few, whole = (state.pop("tok_emb.weight") for state in saved)
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])
    trained = np.isin(np.arange(256), data.train)
    assert 50 < trained.sum() < 150
    assert torch.equal(few[trained], whole[trained])
    assert torch.allclose(few[~trained], whole[~trained], rtol=1e-6, atol=0)
    initial = build_gpt(config).tok_emb.weight
    assert (few[~trained].abs() < 0.99 * initial[~trained].abs()).all()  # at most six steps of 1 % decay
