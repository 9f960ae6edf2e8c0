"""What a sweep will cost, before anything trains: runs, parameters, tokens, FLOPs, memory, time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.config import RunConfig
from harness.spec import SweepSpec

# Share of a matrix product's speed that training reached in the shipped experiments (4 layers, width 64 to 128, GPT-2's
# vocabulary, one thread a worker). What is missing goes to the optimizer, the loss over the vocabulary and memory.
TRAINING_EFFICIENCY = 0.4


@dataclass(frozen=True)
class RunCost:
    """What one run costs. `tokens` and `flops` are None for a budget in seconds."""

    parameters: int
    tokens: int | None
    flops: float | None
    seconds: float | None  # the budget's own, where it is in seconds
    memory: float  # bytes, about


@dataclass(frozen=True)
class ArmPlan:
    """One arm: how many runs of each phase, and what a run costs with the tuned values as written."""

    name: str
    trials: int
    seeds: int
    cost: RunCost

    @property
    def runs(self) -> int:
        """Runs of both phases."""
        return self.trials + self.seeds


def plan_arms(spec: SweepSpec, train_tokens: Mapping[str, int]) -> list[ArmPlan]:
    """One `ArmPlan` per arm.

    Args:
        spec: the sweep.
        train_tokens: arm name → tokens of its training split.
    """
    return [
        ArmPlan(arm.name, spec.trials, len(spec.seeds), run_cost(spec.run_config(arm.values), train_tokens[arm.name]))
        for arm in spec.arms()
    ]


def work_per_run(spec: SweepSpec, train_tokens: Mapping[str, int]) -> dict[str, float]:
    """Arm name → FLOPs of one run (seconds, for budgets in seconds): what the time left is estimated from."""
    costs = {arm.name: arm.cost for arm in plan_arms(spec, train_tokens)}
    return {name: cost.flops or cost.seconds or 1.0 for name, cost in costs.items()}


def run_cost(config: RunConfig, train_tokens: int) -> RunCost:
    """What one run of `config` costs on a training split of `train_tokens` tokens."""
    _, tokens = config.rhythm(train_tokens)
    flops = None if tokens is None else tokens * config.flops_per_token
    return RunCost(config.parameters, tokens, flops, config.train.budget.seconds, memory(config))


def memory(config: RunConfig) -> float:
    """Bytes of a training process, about: weights, gradients and AdamW's two moments (16 bytes a parameter), the
    activations that the backward pass needs, the logits held at once, and 0.5 GB for Python and torch."""
    model, rows = config.model, config.tokens_per_step
    attention = 3 * model.n_heads * model.context_length if model.drop_rate > 0 else 0  # weights kept for dropout
    activations = 4 * rows * model.n_layers * (34 * model.emb_dim // 2 + attention)
    logits = 2 * 4 * min(rows, 1024) * config.vocab_size
    return 16.0 * config.parameters + activations + logits + 5e8


def measure_flops(seconds: float = 0.3) -> float:
    """FLOP/s of one core of this machine in float32 matrix products.

    The best of as many products as fit into `seconds`, by CPU time, so that other work on the machine does not count.
    """
    size = 768
    a = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    best, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < seconds or not best:
        start = time.process_time()
        for _ in range(4):
            a @ a
        best = max(best, 4 * 2 * size**3 / max(time.process_time() - start, 1e-9))
    return best


def estimated_seconds(arms: list[ArmPlan], workers: int, flops_per_second: float) -> float:
    """Wall time of the sweep, about.

    Args:
        arms: what is to be trained.
        workers: how many train at once, each on one core.
        flops_per_second: of one core.
    """
    at_once = max(1, min(workers, sum(arm.runs for arm in arms)))
    clock = sum((arm.cost.seconds or 0.0) * arm.runs for arm in arms)
    work = sum((arm.cost.flops or 0.0) * arm.runs for arm in arms)
    return (clock + work / (flops_per_second * TRAINING_EFFICIENCY)) / at_once
