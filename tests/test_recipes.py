"""The recipes of CONTRIBUTING.md: what somebody adds in one place reaches every place that has to know it.

Recipes whose registry has tests of its own are held there: samplers by `tests/search/test_study.py`, warnings by
`tests/report/warnings/test_kinds.py`, places where runs train by `tests/workers/test_protocol.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch

from harness.config.fields import field_paths
from harness.config.run import ModelConfig, RunConfig, TrainConfig
from harness.cost.estimate import memory
from harness.data import open_dataset
from harness.model.init import build_gpt
from harness.training import evaluation
from harness.training.evaluation import Evaluator, Pass
from harness.training.model_optimizer import ModelOptimizer
from harness.training.optimizers import OPTIMIZERS
from helpers import run, small_config

# Every field of the model: another value of it for a small model, and what that value changes. A new field needs a line
# here, and so an answer to each question.
MODEL_FIELDS: dict[str, tuple[Any, set[str]]] = {
    "vocab_size": (300, {"parameters", "memory", "step 0"}),
    "context_length": (8, {"parameters", "memory", "step 0"}),
    "emb_dim": (32, {"parameters", "memory", "step 0"}),
    "n_heads": (4, {"step 0"}),
    "n_layers": (2, {"parameters", "memory", "step 0"}),
    "drop_rate": (0.5, {"memory"}),  # attention weights are kept; no dropout before the first step
    "qkv_bias": (True, {"parameters", "memory", "step 0"}),
    "tie_embeddings": (True, {"parameters", "memory", "step 0"}),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_table_above_has_every_field_of_the_model() -> None:
    assert set(MODEL_FIELDS) == set(ModelConfig.model_fields), "see the recipe 'a model field' in CONTRIBUTING.md"


def step0_key(config: RunConfig) -> str:
    """What tells apart evaluations of untrained models."""
    model, data = build_gpt(config), open_dataset(config.data)
    return Evaluator(config, data, model, torch.device("cpu"), "fp32").step0_key()


@pytest.mark.parametrize("name", MODEL_FIELDS)
def test_a_model_field_reaches_what_depends_on_it(name: str) -> None:
    value, changes = MODEL_FIELDS[name]
    before, after = small_config(), small_config(model={name: value})
    assert getattr(before.model, name) != value
    found = set()
    if after.parameters != before.parameters:
        found.add("parameters")
    if memory(after) != memory(before):
        found.add("memory")
    if step0_key(after) != step0_key(before):
        found.add("step 0")
    assert found == changes
    assert after.parameters == sum(parameter.numel() for parameter in build_gpt(after).parameters())
    assert after.digest() != before.digest()
    assert f"model.{name}" in field_paths()


def test_the_spec_allows_every_optimizer() -> None:
    assert set(get_args(TrainConfig.model_fields["optimizer"].annotation)) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_names_all_that_it_stores(name: str) -> None:
    """Otherwise a resumed run would start with a part of its state missing, and the memory plan would be too low."""
    config = small_config(optimizer=name)
    model = build_gpt(config)
    optimizer = ModelOptimizer(model, config.train)
    assert optimizer.state_tensors() == {}
    model.loss(*torch.randint(0, 256, (2, 2, 16))).backward()
    optimizer.set_learning_rate(1.0)
    optimizer.clipped_step(1.0)
    stored = {key for each in optimizer.optimizers for state in each.state.values() for key in state}
    assert {path.rpartition(".")[2] for path in optimizer.state_shapes()} == stored
    assert {path: tuple(tensor.shape) for path, tensor in optimizer.state_tensors().items()} == optimizer.state_shapes()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_gradients_an_optimizer_only_decays_matrices(name: str) -> None:
    """Embedding rows that are never trained are decayed by this rule alone."""
    config = small_config(optimizer=name, weight_decay=0.5, learning_rate=0.1)
    model = build_gpt(config)
    before = {path: parameter.detach().clone() for path, parameter in model.named_parameters()}
    optimizer = ModelOptimizer(model, config.train)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.set_learning_rate(1.0)
    optimizer.step()
    for path, parameter in model.named_parameters():
        expected = before[path] * (1 - 0.1 * 0.5) if parameter.dim() >= 2 else before[path]
        torch.testing.assert_close(parameter.detach(), expected)


def test_a_metric_in_the_registry_reaches_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    def accuracy(found: Pass) -> Iterator[tuple[str, float]]:
        """Made up."""
        for split in found.scores:
            yield f"{split}/accuracy", 0.25

    monkeypatch.setattr(evaluation, "METRICS", (*evaluation.METRICS, accuracy))
    points = run(small_config())
    assert [point.metrics["val/accuracy"] for point in points if point.evaluated] == [0.25, 0.25]
    assert all(math.isfinite(value) for point in points for value in point.metrics.values())
