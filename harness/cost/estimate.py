"""What a sweep will cost, before anything trains: runs, parameters, tokens, FLOPs, memory, time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.config.run import RunConfig
from harness.config.spec import SweepSpec
from harness.core.hardware import count_gpus
from harness.cost.calibration import Calibration, Measured, Trial

# Share of a matrix product's speed that training reached in the shipped experiments (4 layers, width 64 to 128, GPT-2's
# vocabulary, one thread a worker). What is missing goes to the optimizer, the loss over the vocabulary and memory.
TRAINING_EFFICIENCY = 0.4
GPU_FLOPS = 2e13  # FLOP/s of training that a GPU is expected to reach, before it is tried

START_SECONDS = 10.0  # of a sweep: imports, MLflow's and torch's first of all, and the report at its end
CALIBRATED_SECONDS = 1.0  # of training steps, for each model
LONGEST_STEP = 1.0  # seconds: a model that is expected to take longer for a step is not tried
MOST_MODELS = 3  # distinct ones that are tried; the others are taken to be as fast, by their FLOPs
EVAL_TOKENS = 512  # of the validation split and of the training sample, scored while calibrating
EVALUATION_SHARE = 0.4  # of a training step's time, a token; used where no evaluation was measured


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


def expected_rate(threads: int) -> float:
    """FLOP/s of training that a worker with so many CPU threads, or a GPU, is expected to reach before it is tried."""
    return GPU_FLOPS if count_gpus() else measure_flops() * TRAINING_EFFICIENCY * threads


@dataclass(frozen=True)
class Timing:
    """How long a sweep is expected to take.

    Attributes:
        seconds: of the whole sweep, with all seeds that it may use.
        least: with the fewest.
        measured: arm name → what was measured of its model; arms whose model was not tried are left out.
        flops_per_second: of one worker's training, for models that were not tried.
    """

    seconds: float
    least: float
    measured: Mapping[str, Measured]
    flops_per_second: float


def timing(spec: SweepSpec, splits: Mapping[str, Mapping[str, int]], workers: int, threads: int) -> Timing:
    """Time a sweep by a short calibration of its models; those that are too large are judged by their FLOPs.

    Args:
        spec: the sweep.
        splits: arm name → tokens of each split.
        workers: that train at once.
        threads: CPU threads of each.
    """
    configs = {arm.name: spec.run_config(arm.values) for arm in spec.arms()}
    rate = expected_rate(threads)
    calibration = Calibration(workers, threads)
    trials: list[Trial] = []
    for config in configs.values():
        step = _step_flops(config) / rate
        if step <= LONGEST_STEP and calibration.known(config) is None and not calibration.listed(config, trials):
            trials.append(Trial(config, int(CALIBRATED_SECONDS / step), EVAL_TOKENS))
    calibration.learn(trials[:MOST_MODELS])
    measured = {name: found for name, config in configs.items() if (found := calibration.known(config)) is not None}
    if measured:  # what was not tried is taken to be as fast
        rate = sum(_step_flops(configs[name]) / it.step_seconds for name, it in measured.items()) / len(measured)
    least, most = (sweep_seconds(spec, splits, workers, measured, rate, spec.looks[look]) for look in (0, -1))
    return Timing(most, least, measured, rate)


def sweep_seconds(
    spec: SweepSpec,
    splits: Mapping[str, Mapping[str, int]],
    workers: int,
    measured: Mapping[str, Measured],
    rate: float,
    seeds: int | None = None,
) -> float:
    """Wall time of a sweep, about; nothing is pruned.

    Args:
        spec, splits, workers: as for `timing`.
        measured: arm name → what is known of its model.
        rate: FLOP/s of one worker's training, for the other arms.
        seeds: of each arm; None for all that it may use.
    """
    seeds, seconds = len(spec.seeds) if seeds is None else seeds, 0.0
    for arm in spec.arms():
        config, sizes, known = spec.run_config(arm.values), splits[arm.name], measured.get(arm.name)
        seconds += (spec.trials + seeds) * run_seconds(config, sizes, known, rate)
        seconds += seeds * _test_seconds(config, sizes["test"], known, rate)
    runs = len(spec.arms()) * (spec.trials + seeds)
    return START_SECONDS + seconds / max(1, min(workers, runs))


def _step_flops(config: RunConfig) -> float:
    return config.tokens_per_step * config.flops_per_token


def run_seconds(config: RunConfig, splits: Mapping[str, int], measured: Measured | None, rate: float) -> float:
    """Seconds of one run, its test pass left out.

    Args:
        config: of the run.
        splits: tokens of each split.
        measured: of this model, where it was tried.
        rate: FLOP/s of training, where it was not.
    """
    training, evaluating = run_parts(config, splits, measured, rate)
    return training + evaluating


def run_parts(
    config: RunConfig, splits: Mapping[str, int], measured: Measured | None, rate: float
) -> tuple[float, float]:
    """Seconds of one run in training steps and in evaluations; see `run_seconds`."""
    windows = (splits["train"] - 1) // config.model.context_length
    step, _ = _seconds(config, 0, measured, rate)
    steps, training = config.total_steps(windows), config.train.budget.seconds or 0.0
    if steps is None:
        steps = max(1, int(training / step))
    else:
        training = steps * step
    between = max(0, round(steps / config.eval_steps(windows)) - 1)  # beside those at both ends
    whole = max(0, splits["val"] - 1)
    sample = (config.train.eval_tokens or 0) if config.samples(splits["val"]) else 0
    _, at_ends = _seconds(config, whole + sample + config.train.train_eval_tokens, measured, rate)
    _, on_the_way = _seconds(config, (sample or whole) + config.train.train_eval_tokens, measured, rate)
    return training, 2 * at_ends + between * on_the_way


def _seconds(config: RunConfig, scored: int, measured: Measured | None, rate: float) -> tuple[float, float]:
    """Of a step, and of an evaluation of so many tokens."""
    if measured is not None:
        return measured.step_seconds, measured.evaluation(scored)
    step = _step_flops(config) / rate
    return step, scored * step / config.tokens_per_step * EVALUATION_SHARE


def _test_seconds(config: RunConfig, tokens: int, measured: Measured | None, rate: float) -> float:
    """Of the one pass over the test split, without a sample."""
    step, _ = _seconds(config, tokens, measured, rate)
    return tokens * step / config.tokens_per_step * EVALUATION_SHARE
