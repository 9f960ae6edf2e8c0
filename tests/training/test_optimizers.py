"""Schedules and optimizer steps worked by hand, groups that cover the model, and the shape of Muon's update."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.config.run import TrainConfig
from harness.core import metrics
from harness.model.gpt import GPT
from harness.model.init import build_gpt
from harness.training.model_optimizer import ModelOptimizer, clip_gradients
from harness.training.optimizers import OPTIMIZERS, AdamW, Algorithm, without_compiler
from harness.training.schedule import learning_rate_factor
from harness.training.trainer import train
from helpers import lively_gpt, numbers, random_tokens, run, small_config, text_data
from source_code import modules

SCHEDULES = ("constant", "cosine", "linear", "wsd")


def schedule(name: str, **fields: Any) -> TrainConfig:
    return small_config(schedule=name, **fields).train


# Schedules


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        # warm-up over the first fifth to 1, down to 0.1 at the end; wsd falls over the last quarter
        ("constant", {0.1: 0.5, 0.2: 1.0, 0.6: 1.0, 0.8: 1.0, 1.0: 1.0}),
        ("linear", {0.1: 0.5, 0.2: 1.0, 0.6: 0.55, 0.8: 0.325, 1.0: 0.1}),
        # a quarter of the way down, the cosine stands at (1 + √½)/2
        ("cosine", {0.1: 0.5, 0.2: 1.0, 0.4: 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2, 0.6: 0.55, 1.0: 0.1}),
        ("wsd", {0.1: 0.5, 0.2: 1.0, 0.6: 1.0, 0.75: 1.0, 0.875: 0.55, 1.0: 0.1}),
    ],
)
def test_schedules_by_hand(name: str, factors: dict[float, float]) -> None:
    config = schedule(name, warmup=0.2, final_fraction=0.1, decay=0.25)
    found = {progress: learning_rate_factor(progress, config) for progress in factors}
    assert found == pytest.approx(factors, rel=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_warmup_the_first_step_is_near_the_peak(name: str) -> None:
    assert learning_rate_factor(1e-9, schedule(name, warmup=0.0)) == pytest.approx(1.0, abs=1e-8)


def test_wsd_does_not_decay_before_the_warmup_ends() -> None:
    config = schedule("wsd", warmup=0.6, decay=0.9, final_fraction=0.0)
    found = [learning_rate_factor(progress, config) for progress in (0.3, 0.6, 0.8, 1.0)]
    assert found == pytest.approx([0.5, 1.0, 0.5, 0.0], abs=1e-12)


shares = st.floats(0, 1)
configs = st.builds(
    schedule,
    st.sampled_from(SCHEDULES),
    warmup=st.floats(0, 0.999),
    final_fraction=shares,
    decay=st.floats(0.001, 1),
)


@given(configs, st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_a_schedule_rises_falls_and_ends_at_its_final_fraction(config: TrainConfig, one: float, two: float) -> None:
    earlier, later = sorted((one, two))
    early, late = learning_rate_factor(earlier, config), learning_rate_factor(later, config)
    assert 0 <= early <= 1 + 1e-12 and 0 <= late <= 1 + 1e-12
    if later < config.warmup:
        assert early <= late
    if earlier >= config.warmup:
        assert early >= late - 1e-12 and late >= min(1.0, config.final_fraction) - 1e-12
    end = 1.0 if config.schedule == "constant" else config.final_fraction
    assert learning_rate_factor(1.0, config) == pytest.approx(end, abs=1e-12)


# The registry


def test_a_spec_allows_exactly_the_registered_optimizers() -> None:
    assert set(get_args(TrainConfig.model_fields["optimizer"].annotation)) == set(OPTIMIZERS)


def test_only_the_registry_and_the_config_name_an_optimizer() -> None:
    naming = {
        name
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and node.value in OPTIMIZERS
    }
    assert naming == {"harness.config.sections", "harness.training.optimizers"}


# `train.optimizer` → the torch class for the matrices of the blocks, the one for all other parameters, and a learning
# rate at which a short text is learned in 60 steps.
EXPECTED = {
    "adamw": ("AdamW", "AdamW", 0.02),
    "muon": ("Muon", "AdamW", 0.02),
}


def test_the_tests_below_have_a_line_for_every_optimizer() -> None:
    assert set(EXPECTED) == set(OPTIMIZERS)


class Momentum(Algorithm):
    """Plain gradient descent with momentum, for the output head."""

    STATE: ClassVar = {"momentum_buffer": True}

    @staticmethod
    def takes(name: str, parameter: torch.Tensor) -> bool:
        return name == "out_head.weight"

    @staticmethod
    def create(parameters: Sequence[torch.Tensor], config: TrainConfig) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=config.learning_rate, momentum=config.beta1)


def test_an_optimizer_in_the_registry_trains_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run(small_config())
    monkeypatch.setitem(OPTIMIZERS, "adamw", (Momentum, AdamW))
    config = small_config(learning_rate=1e-2)
    full = run(config)
    assert full[-1].metrics[metrics.VAL_LOSS] != plain[-1].metrics[metrics.VAL_LOSS]
    points = train(config, state=tmp_path)
    parts = [next(points) for _ in range(3)]
    points.close()
    assert numbers([*parts, *train(config, state=tmp_path)]) == numbers(full)


# Groups


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_belongs_to_one_group_and_only_matrices_are_decayed(optimizer: str, tied: bool) -> None:
    config = small_config(
        model={"tie_embeddings": tied, "qkv_bias": True, "n_layers": 2}, optimizer=optimizer, weight_decay=0.3
    )
    model = build_gpt(config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    inner = ModelOptimizer(model, config.train).optimizers
    groups = [(type(one).__name__, group) for one in inner for group in one.param_groups]
    owners = {}
    for kind, group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.dim() == 2 else 0.0), names[id(parameter)]
            assert id(parameter) not in owners
            owners[id(parameter)] = kind
    assert owners.keys() == names.keys()
    for key, kind in owners.items():
        in_a_block = names[key].startswith("trf_blocks") and names[key].endswith("weight") and "norm" not in names[key]
        matrices, others, _ = EXPECTED[optimizer]
        assert kind == (matrices if in_a_block else others), names[key]


def test_the_learning_rate_reaches_every_group() -> None:
    config = small_config(optimizer="muon", learning_rate=0.02)
    optimizer = ModelOptimizer(build_gpt(config), config.train)
    assert optimizer.set_learning_rate(0.25) == pytest.approx(0.005)
    groups = [group for one in optimizer.optimizers for group in one.param_groups]
    assert [group["lr"] for group in groups] == pytest.approx([0.005] * 3)


def test_a_step_frees_the_gradients() -> None:
    config = small_config(optimizer="muon")
    model = build_gpt(config)
    optimizer = ModelOptimizer(model, config.train)
    model.loss(random_tokens(1, 8), random_tokens(1, 8)).backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in model.parameters())


# Steps by hand


def give_gradients(model: GPT, value: float) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_tensors_can_be_loaded_for_another_model(name: str, tied: bool) -> None:
    config = small_config(model={"tie_embeddings": tied, "qkv_bias": True}, optimizer=name)

    def step(model: GPT, optimizer: ModelOptimizer, seed: int) -> None:
        model.loss(random_tokens(2, 16, seed=seed), random_tokens(2, 16, seed=seed + 1)).backward()
        optimizer.step()

    model, other = lively_gpt(config), lively_gpt(config, seed=1)
    optimizer, another = ModelOptimizer(model, config.train), ModelOptimizer(other, config.train)
    assert optimizer.state_tensors() == {}
    for seed in range(3):
        step(model, optimizer, seed)
    remembered = optimizer.state_tensors()
    assert (
        {name: tuple(tensor.shape) for name, tensor in remembered.items()}
        == optimizer.state_shapes()
        == another.state_shapes()
    )
    paths: dict[torch.Tensor, str] = {parameter: path for path, parameter in model.named_parameters()}
    stored_by_torch = {
        f"{paths[parameter]}.{key}"
        for one in optimizer.optimizers
        for parameter, state in one.state.items()
        for key, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    assert remembered.keys() == stored_by_torch, "STATE must name every tensor that torch stores"

    another.load_state_tensors(remembered)
    other.load_state_dict(model.state_dict())
    for seed in (7, 8):  # the loaded state is a copy: the first model's steps do not change it
        step(model, optimizer, seed)
    for seed in (7, 8):
        step(other, another, seed)
    for (path, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), path
    assert all(torch.equal(tensor, another.state_tensors()[path]) for path, tensor in optimizer.state_tensors().items())


def test_two_adamw_steps_by_hand() -> None:
    # Loshchilov & Hutter 2019, algorithm 2, for one weight of a matrix (decayed) and one bias (not), with the
    # gradients 0.5 and then -0.2. float32 keeps 7 digits.
    config = small_config(learning_rate=0.1, weight_decay=0.3, beta1=0.8, beta2=0.9)
    model = build_gpt(config)
    with torch.no_grad():
        model.out_head.weight.fill_(2.0)
        model.final_norm.bias.fill_(2.0)
    optimizer = ModelOptimizer(model, config.train)
    matrix = vector = 2.0
    first = second = 0.0
    for step, gradient in enumerate((0.5, -0.2), start=1):
        rate = optimizer.set_learning_rate(1 / step)  # 0.1, then 0.05
        give_gradients(model, gradient)
        optimizer.step()
        first = 0.8 * first + 0.2 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        moved = rate * (first / (1 - 0.8**step)) / (math.sqrt(second / (1 - 0.9**step)) + 1e-8)
        vector -= moved
        matrix = matrix * (1 - rate * 0.3) - moved
        assert model.final_norm.bias[0].item() == pytest.approx(vector, abs=1e-6)
        assert model.out_head.weight[0, 0].item() == pytest.approx(matrix, abs=1e-6)
    # in numbers: first step 0.1·sign(g) = 0.1; second 0.05·(0.04/0.36)/√(0.0265/0.19) = 0.0148758
    assert vector == pytest.approx(2 - 0.1 - 0.05 * (0.04 / 0.36) / math.sqrt(0.0265 / 0.19), abs=1e-7)


def test_muon_moves_a_matrix_by_nearly_its_orthogonal_factor() -> None:
    # Five Newton–Schulz steps with Jordan's coefficients bring singular values into about 0.7 to 1.2 instead of to
    # 1, in bf16; 0.6 to 1.3 leaves room for its rounding. Scaled by 0.2·√(larger side) (Liu et al. 2025, eq. 4).
    config = small_config(model={"emb_dim": 32}, optimizer="muon", learning_rate=0.01, weight_decay=0.0)
    model = build_gpt(config)
    weight = model.get_parameter("trf_blocks.0.ff.contract.weight")  # (32, 128)
    before = weight.detach().clone()
    optimizer = ModelOptimizer(model, config.train)
    give_gradients(model, 1.0)
    weight.grad = (
        torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 7
    )  # the size of the gradient must not matter
    left, _, right = torch.linalg.svd(weight.grad, full_matrices=False)
    optimizer.step()
    direction = (before - weight.detach()) / (0.01 * 0.2 * math.sqrt(128))
    values = torch.linalg.svdvals(direction)
    assert values.min() > 0.6 and values.max() < 1.3
    inside = left.T @ direction @ right.T  # in the gradient's singular vectors: nearly diagonal
    assert (inside - inside.diag().diag()).abs().max() < 0.05
    assert inside.diag().min() > 0.6


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_zero_gradients_leave_only_the_decay_of_matrices(optimizer: str) -> None:
    # What is left is p ← p·(1 - rate·decay), which the untrained rows of a sparse embedding rely on. The directions of
    # Muon and AdamW are both 0/ε.
    # A decay that is added to the gradient passes the first step; momentum shows it at the second.
    config = small_config(optimizer=optimizer, learning_rate=0.1, weight_decay=0.5)
    model = lively_gpt(config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trained = ModelOptimizer(model, config.train)
    for _ in range(3):
        give_gradients(model, 0.0)
        trained.step()
    for name, parameter in model.named_parameters():
        factor = 0.95**3 if parameter.dim() == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_repeating_text_is_learned(optimizer: str, tmp_path: Any) -> None:
    # After "b" always "c": a model that has learned this has a loss near 0. Untrained it is ln 256 = 5.5 nats.
    data = text_data(tmp_path, "abcdefghijklmnopqrstuvwxyz" * 40)
    _, _, rate = EXPECTED[optimizer]
    config = small_config(data=data, budget={"steps": 60}, learning_rate=rate, optimizer=optimizer)
    points = run(config)
    assert points[0].metrics[metrics.VAL_LOSS] > 5
    assert points[-1].metrics[metrics.VAL_LOSS] < 0.05


# Clipping


def three_four() -> list[torch.Tensor]:
    """Two weights with gradients (3, 0) and (0, 4): together of length 5."""
    parameters = [torch.zeros(2, requires_grad=True) for _ in range(2)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    return parameters


@pytest.mark.parametrize(("limit", "factor"), [(1.0, 0.2), (2.5, 0.5), (5.5, 1.0), (None, 1.0)])
def test_clipping_by_hand(limit: float | None, factor: float) -> None:
    parameters = three_four()
    assert clip_gradients(parameters, limit).item() == pytest.approx(5.0)
    found = [parameter.grad.tolist() for parameter in parameters if parameter.grad is not None]
    assert found == [pytest.approx([3 * factor, 0], rel=1e-6), pytest.approx([0, 4 * factor], rel=1e-6)]


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
@pytest.mark.parametrize("limit", [4.9, 5.0, 5.0000005, 5.000001, 5.1])
def test_clipping_equals_torchs_bit_for_bit(limit: float, bad: float | None) -> None:
    ours, theirs = three_four(), three_four()
    if bad is not None:
        for parameters in (ours, theirs):
            assert parameters[0].grad is not None
            parameters[0].grad[1] = bad
    norm = torch.nn.utils.clip_grad_norm_(theirs, limit)
    assert torch.equal(clip_gradients(ours, limit).view(torch.int32), norm.view(torch.int32))
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("limit", [0.01, 1e6, None])
def test_fused_clipping_equals_clipping(limit: float | None) -> None:
    config = small_config()
    moved = []
    for itself in (False, True):
        model = build_gpt(config)
        optimizer = ModelOptimizer(model, config.train)
        assert not optimizer.fused_clipping  # on a CPU
        optimizer.fused_clipping = itself
        norms = []
        for value in (0.5, -0.25):
            give_gradients(model, value)
            norms.append(optimizer.clipped_step(limit).item())
        assert norms[0] == pytest.approx(0.5 * math.sqrt(config.parameters), rel=1e-5)
        moved.append([parameter.detach().clone() for parameter in model.parameters()])
    for one, other in zip(*moved, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["AdamW", "Muon"])
def test_an_optimizer_without_the_compiler_equals_torchs_bit_for_bit(name: str) -> None:
    torchs = getattr(torch.optim, name)
    own = without_compiler(torchs)
    options = {"lr": 0.1, "weight_decay": 0.1}
    ended = []
    for kind in (own, torchs):
        weight = random_tokens(6, 4).float().requires_grad_()
        optimizer = kind([weight], **options)
        for step in range(3):
            (weight**2 * (step + 1)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            assert weight.grad is None
        ended.append(weight)
    assert torch.equal(*ended)
    assert not torch.equal(ended[0], random_tokens(6, 4).float())
