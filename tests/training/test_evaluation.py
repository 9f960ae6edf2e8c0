"""Evaluation: losses equal those from full logits one window at a time, and metrics mean what they should."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import harness.training.evaluation
from harness.core import metrics
from harness.data import get_tokenizer, open_dataset
from harness.data.batches import fixed_sample, take_windows
from harness.model.gpt import GPT
from harness.model.init import build_gpt
from harness.training.evaluation import (
    METRICS,
    NO_EFFECT_AT_STEP_0,
    Evaluator,
    Pass,
    Scores,
    bits_per_byte,
    loss,
    perplexity,
)
from helpers import MODEL_CHANGES, SAMPLED, WHOLE, byte_data, evaluator, lively_gpt, run, small_config


def plain_score(model: GPT, windows: list[tuple[Tensor, Tensor]]) -> float:
    """Mean loss in float64 from full logits, one window at a time."""
    nats = [F.cross_entropy(model(x)[0].double(), y[0], reduction="sum").item() for x, y in windows]
    return sum(nats) / sum(y.numel() for _, y in windows)


def test_losses_equal_the_plain_cross_entropy() -> None:
    config, data = small_config(train_eval_tokens=200), byte_data()
    model = lively_gpt(config)
    tokens = torch.from_numpy(data.val.astype(np.int64))
    whole = [(tokens[i : i + 16][None], tokens[i + 1 : i + 17][None]) for i in range(0, len(tokens) - 1, 16)]
    whole = [(x[:, : y.shape[1]], y) for x, y in whole]  # the last one has no target for its last input
    sample = [take_windows(data.train, [start], 16) for start in fixed_sample(data.train, 16, 200)]
    scores = evaluator(config, model).evaluate(0).metrics
    with torch.no_grad():
        assert scores[metrics.VAL_LOSS] == pytest.approx(plain_score(model, whole), abs=1e-6)
        assert scores[metrics.TRAIN_LOSS] == pytest.approx(plain_score(model, sample), abs=1e-6)
    assert len(sample) == 12
    assert scores[metrics.VAL_PERPLEXITY] == pytest.approx(math.exp(scores[metrics.VAL_LOSS]))


def test_losses_by_position_are_means_over_windows() -> None:
    config, data = small_config(), byte_data()
    model = lively_gpt(config)
    found = evaluator(config, model).evaluate(0)
    loss = found.metrics[metrics.VAL_LOSS]
    batches = [take_windows(data.val, [start], 16) for start in range(0, len(data.val) - 16, 16)]
    with torch.no_grad():
        rows = torch.stack([F.cross_entropy(model(x)[0].double(), y[0], reduction="none") for x, y in batches])
    rest = len(data.val) - 1 - 16 * len(rows)
    assert 0 < rest < 16
    assert found.by_position[rest:] == pytest.approx(rows.mean(0)[rest:].tolist(), abs=1e-6)
    weights = [len(rows) + (position < rest) for position in range(16)]
    assert np.average(found.by_position, weights=weights) == pytest.approx(loss, abs=1e-9)


@pytest.mark.parametrize("before", [16, 12, 1])
def test_the_common_context_loss_gives_each_target_enough_context(before: int) -> None:
    config, data = small_config(), byte_data()
    data = dataclasses.replace(data, val=data.val[:75])
    model = lively_gpt(config)
    losses = []
    text = torch.from_numpy(data.val.astype(np.int64))
    stride = 16 - before + 1
    for target in range(before, 75):
        start = min((target - before) // stride * stride, 75 - 1 - 16)  # of the window that scores this target
        with torch.no_grad():
            logits = model(text[start:target][None])[0, -1].double()
        losses.append(F.cross_entropy(logits, text[target]).item())
    found = evaluator(config, model, data).common_context_loss(before)
    assert found == pytest.approx(sum(losses) / len(losses), abs=1e-6)


# Meaning of the metrics


def test_a_uniform_model_needs_log2_of_the_vocabulary_bits_per_token() -> None:
    config = small_config(data={"corpus": "sotu-1820", "tokenizer": "gpt2"}, model={"emb_dim": 4})
    data = open_dataset(config.data)
    model = build_gpt(config)
    torch.nn.init.zeros_(model.out_head.weight)
    scores = evaluator(config, model, data).evaluate(0).metrics
    text = get_tokenizer("gpt2").decode(data.val[1:].tolist())
    assert scores[metrics.VAL_LOSS] == pytest.approx(math.log(50257), rel=1e-6)
    assert scores[metrics.VAL_PERPLEXITY] == pytest.approx(50257, rel=1e-5)
    bits = math.log2(50257) * (len(data.val) - 1) / len(text.encode())
    assert scores[metrics.VAL_BITS_PER_BYTE] == pytest.approx(bits, rel=1e-6)


@pytest.mark.parametrize("context_length", [16, 24])  # 24: the last window is shorter than the others
def test_the_validation_loss_does_not_depend_on_the_batch_size(
    context_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(model={"context_length": context_length})
    scorer = evaluator(config, lively_gpt(config))
    assert (len(scorer.data.val) - 1) % context_length
    found = []
    for rows in (1, 3, 8, 1000):
        monkeypatch.setattr(harness.training.evaluation, "EVAL_TOKENS", rows * context_length)
        found.append(scorer.evaluate(1).metrics)
    for scores in found[1:]:
        assert scores == pytest.approx(found[0], rel=1e-6)


def test_every_context_length_scores_the_same_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    data = byte_data()
    expected = np.bincount(data.val[1:], minlength=256)
    for context_length in (16, 32, 64):
        config = small_config(model={"context_length": context_length})
        model = build_gpt(config)
        scored: list[Tensor] = []
        plain = model.token_losses

        def spy(
            tokens: Tensor, targets: Tensor, first: int, plain: Any = plain, scored: list[Tensor] = scored
        ) -> Tensor:
            scored.append(targets[:, first:].flatten())
            return plain(tokens, targets, first)

        monkeypatch.setattr(model, "token_losses", spy)
        evaluator(config, model, data).score_split("val")
        assert torch.bincount(torch.cat(scored), minlength=256).tolist() == expected.tolist()


def test_a_model_that_looks_at_one_token_scores_the_same_at_every_context_length() -> None:
    # Without positions, and with blocks that add nothing, neither the context nor the windows may matter.
    data, found = byte_data(), []
    for context_length in (1, 16, 32, 64, 1000):
        config = small_config(model={"context_length": context_length})
        model = lively_gpt(config)
        with torch.no_grad():
            for parameter in (model.pos_emb.weight, *model.trf_blocks.parameters()):
                parameter.zero_()
            table = lively_gpt(small_config())  # `lively_gpt` draws these tensors differently for a longer context
            for name in ("tok_emb", "final_norm", "out_head"):
                getattr(model, name).load_state_dict(getattr(table, name).state_dict())
        found.append(evaluator(config, model, data).score_split("val").mean)
    with torch.no_grad():
        rows = F.log_softmax(model.out_head(model.final_norm(model.tok_emb.weight)).double(), dim=-1).numpy()
    by_hand = -rows[data.val[:-1].astype(int), data.val[1:].astype(int)].mean()
    assert found == pytest.approx([by_hand] * 5, abs=1e-6)


def test_dropout_is_off_when_a_model_is_scored() -> None:
    config = small_config(model={"drop_rate": 0.5})
    model = lively_gpt(config).train()
    with_rate = evaluator(config, model).evaluate(0).metrics
    assert model.training
    without = evaluator(config, lively_gpt(small_config())).evaluate(0).metrics
    assert with_rate == pytest.approx(without, rel=1e-6)


# The registry of metrics


def test_loss_perplexity_and_bits_per_byte_by_hand() -> None:
    # 5 tokens with probabilities 1/2, 1/4, 1/8, 1/8, 1/2: 10 bits, 2 per token, over 4 bytes
    nats = -torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8, 1 / 2], dtype=torch.float64).log()
    counted, uncounted = (Scores(nats, torch.ones(5, dtype=torch.int64), size) for size in (4, None))
    config = small_config()
    evaluation = Pass(evaluator(config, build_gpt(config)), step=1, last=False)
    evaluation.__dict__["scores"] = {"train": uncounted, "test": counted}  # a cached property
    found = {name: value for metric in (loss, perplexity, bits_per_byte) for name, value in metric(evaluation)}
    assert found == pytest.approx(
        {
            **{f"{split}/loss": 2 * math.log(2) for split in ("train", "test")},
            **{f"{split}/perplexity": 4.0 for split in ("train", "test")},
            "test/bits_per_byte": 2.5,
        },
        rel=1e-12,
    )


def test_a_metric_in_the_registry_reaches_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_position_loss(evaluation: Pass) -> Iterator[tuple[str, float]]:
        for split, scores in evaluation.scores.items():
            yield f"{split}/last_position_loss", scores.by_position[-1]

    monkeypatch.setattr(harness.training.evaluation, "METRICS", (*METRICS, last_position_loss))
    points = run(small_config(eval_every={"steps": 3}))
    evaluated = [point for point in points if point.evaluated]
    assert [point.step for point in evaluated] == [0, 3, 6]
    for point in points:
        added = {name for name in point.metrics if name.endswith("last_position_loss")}
        assert added == ({"train/last_position_loss", "val/last_position_loss"} if point.evaluated else set())
    assert points[-1].metrics["val/last_position_loss"] == points[-1].by_position[-1]


def test_every_metric_of_the_module_is_in_the_registry() -> None:
    module = harness.training.evaluation
    functions = [one for one in vars(module).values() if inspect.isfunction(one) and one.__module__ == module.__name__]
    found = {one.__name__ for one in functions if get_type_hints(one).get("return") == Iterator[tuple[str, float]]}
    assert found == {metric.__name__ for metric in METRICS}


@pytest.mark.parametrize("field", MODEL_CHANGES)
def test_every_field_of_the_model_changes_the_validation_loss(field: str) -> None:
    """After training at least, and at step 0 only if the key of step 0 contains the field."""
    first, *_, last = run(small_config())
    changed_first, *_, changed_last = run(small_config(model={field: MODEL_CHANGES[field]}))
    name = metrics.VAL_LOSS
    assert changed_last.metrics[name] != last.metrics[name], f"model.{field} has no effect"
    if f"model.{field}" in NO_EFFECT_AT_STEP_0:
        assert changed_first.metrics[name] == first.metrics[name], f"model.{field} has an effect at step 0"


def test_the_key_of_step_0_depends_on_every_field_but_the_listed_ones() -> None:
    config, data = small_config(), byte_data()
    plain = data.resolve(config).resolved()
    model = build_gpt(config)

    def key(values: dict[str, Any]) -> str:
        changed: Any = SimpleNamespace(resolved=lambda: copy.deepcopy(values))
        return Evaluator(changed, data, model, torch.device("cpu"), "fp32").step0_key()

    for section, fields in plain.items():
        for name in fields:
            changed = copy.deepcopy(plain)
            changed[section][name] = "another value"
            has_effect = f"{section}.{name}" not in NO_EFFECT_AT_STEP_0
            assert (key(changed) != key(plain)) == has_effect, f"{section}.{name}"


# A sample for the curves


@pytest.mark.parametrize("tokenizer", ["byte", "gpt2"])
def test_the_loss_of_a_sample_is_the_mean_of_its_targets(tokenizer: str) -> None:
    config = small_config(data={"corpus": "sotu-1820", "tokenizer": tokenizer}, eval_tokens=100)
    data = open_dataset(config.data)
    model = lively_gpt(config)
    scores = evaluator(config, model, data).evaluate(1).metrics
    assert set(scores) & WHOLE == set()
    windows = (len(data.val) - 1) // 16
    starts = [round(number * (windows - 1) / 5) * 16 for number in range(6)]  # 6 whole windows are 96 of 100 tokens
    ids = torch.from_numpy(data.val.astype(np.int64))
    losses, targets = [], []
    for start in starts:
        with torch.no_grad():
            logits = model(ids[start : start + 16][None])[0].double()
        targets += ids[start + 1 : start + 17].tolist()
        losses += F.cross_entropy(logits, ids[start + 1 : start + 17], reduction="none").tolist()
    assert len(losses) == 96
    size = sum(len(get_tokenizer(tokenizer).pieces[token]) for token in targets)
    assert scores[metrics.VAL_SAMPLE_LOSS] == pytest.approx(sum(losses) / 96, rel=1e-6)
    assert scores[metrics.VAL_SAMPLE_BITS_PER_BYTE] == pytest.approx(sum(losses) / math.log(2) / size, rel=1e-6)


def test_a_sample_as_large_as_the_split_is_replaced_by_the_split() -> None:
    targets = len(byte_data().val) - 1
    for wanted, sampled in ((targets - 1, True), (targets, False)):
        config = small_config(eval_tokens=wanted)
        assert config.samples_validation(targets + 1) is sampled
        scores = evaluator(config, build_gpt(config)).evaluate(1).metrics
        assert set(scores) & (WHOLE | SAMPLED) == (SAMPLED if sampled else WHOLE)
