"""The cost of a sweep before it trains: runs, parameters, tokens, FLOPs, memory, time."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.config.run import RunConfig
from harness.config.spec import SweepSpec
from harness.core.hardware import count_gpus
from harness.cost.calibration import Calibration, ModelSpeed, Workload
from harness.cost.overheads import OverheadHistory, Overheads
from harness.training.optimizers import OPTIMIZERS

# Share of a matrix product's FLOP/s that training reached in the shipped experiments (4 layers, width 64 to 128,
# GPT-2's vocabulary, one thread per worker). The rest goes to the optimizer, the loss over the vocabulary and memory
# traffic.
TRAINING_EFFICIENCY = 0.4
GPU_FLOPS = 2e13  # FLOP/s of training assumed for a GPU before any measurement

CALIBRATED_SECONDS = 1.0  # of training steps per measured model
LONGEST_STEP = 1.0  # seconds; a model with a longer expected step is not measured
MAX_MODELS = 3  # distinct models that are measured; the others are assumed to reach the same FLOP/s
EVAL_TOKENS = 512  # tokens of the validation split and of the training sample scored in a measurement
EVALUATION_SHARE = 0.4  # time per evaluated token over time per trained token, where no evaluation was measured


@dataclass(frozen=True)
class RunCost:
    """The cost of one run. `tokens` and `flops` are None for a budget in seconds."""

    parameters: int
    tokens: int | None
    flops: float | None
    seconds: float | None  # of the budget, if it is in seconds
    memory: float  # approximate bytes of each process


@dataclass(frozen=True)
class ArmPlan:
    """One arm: its runs in each phase, and the cost of a run with the tuned values as written."""

    name: str
    trials: int
    seeds: int
    cost: RunCost

    @property
    def runs(self) -> int:
        """Runs of both phases."""
        return self.trials + self.seeds


def plan_arms(spec: SweepSpec, train_tokens: Mapping[str, int], ranks: int = 1) -> list[ArmPlan]:
    """The plan of every arm.

    Args:
        spec: the sweep.
        train_tokens: arm name → tokens of its training split.
        ranks: processes that train each run together.
    """
    costs = {arm.name: run_cost(spec.run_config(arm.values), train_tokens[arm.name], ranks) for arm in spec.arms()}
    return [ArmPlan(name, spec.trials, len(spec.seeds), cost) for name, cost in costs.items()]


def work_by_arm(spec: SweepSpec, train_tokens: Mapping[str, int]) -> dict[str, float]:
    """Arm name → FLOPs of one run (seconds, for budgets in seconds), from which the remaining time is estimated."""
    costs = {arm.name: arm.cost for arm in plan_arms(spec, train_tokens)}
    return {name: cost.flops or cost.seconds or 1.0 for name, cost in costs.items()}


def run_cost(config: RunConfig, train_tokens: int, ranks: int = 1) -> RunCost:
    """The cost of one run of `config` on a training split of `train_tokens` tokens."""
    _, tokens = config.rhythm(train_tokens)
    flops = None if tokens is None else tokens * config.flops_per_token
    return RunCost(config.parameters, tokens, flops, config.train.budget.seconds, memory(config, ranks))


def memory(config: RunConfig, ranks: int = 1) -> float:
    """Approximate bytes of a training process, of which `ranks` share each batch.

    Weights, gradients and optimizer state in float32 (of the algorithm that stores most per weight), the activations
    that the backward pass needs, the logits held at once, and 0.5 GB for Python and torch.
    """
    model, rows = config.model, -(-config.sequences_per_step // ranks) * config.model.context_length
    attention = (
        3 * model.n_heads * model.context_length if model.drop_rate > 0 else 0
    )  # attention weights kept for dropout
    activations = 4 * rows * model.n_layers * (34 * model.emb_dim // 2 + attention)
    logits = 2 * 4 * min(rows, 1024) * config.vocab_size
    state = max(algorithm.state_floats() for algorithm in OPTIMIZERS[config.train.optimizer])
    return 4.0 * (2 + state) * config.parameters + activations + logits + 5e8


def measure_flops(seconds: float = 0.3) -> float:
    """FLOP/s of one core of this machine in float32 matrix products.

    The best of as many products as fit into `seconds`, in CPU time, so that other processes do not count.
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
    """FLOP/s of training assumed before any measurement, for a worker with `threads` CPU threads or for a GPU."""
    return GPU_FLOPS if count_gpus() else measure_flops() * TRAINING_EFFICIENCY * threads


@dataclass(frozen=True)
class TimeEstimate:
    """The estimated time of a sweep.

    Attributes:
        seconds: with the most seeds that it may use.
        least: seconds with the fewest seeds.
        measured: arm name → speed of its model; arms whose model was not measured are left out.
        flops_per_second: of one worker's training, for models that were not measured.
    """

    seconds: float
    least: float
    measured: Mapping[str, ModelSpeed]
    flops_per_second: float


def estimate_time(
    spec: SweepSpec, splits: Mapping[str, Mapping[str, int]], workers: int, threads: int, ranks: int = 1
) -> TimeEstimate:
    """Estimate the time of a sweep from short measurements of its models, and from FLOPs for models too large for that.

    Args:
        spec: the sweep.
        splits: arm name → tokens of each split.
        workers: number that train at once.
        threads: CPU threads of each, or of each of its ranks.
        ranks: processes that train each run together. They are assumed to divide its work without loss.
    """
    configs = {arm.name: spec.run_config(arm.values) for arm in spec.arms()}
    rate = expected_rate(threads)
    calibration = Calibration(workers, threads)
    workloads: list[Workload] = []
    for config in configs.values():
        step = _step_flops(config) / rate
        if step <= LONGEST_STEP and calibration.speed(config) is None and not calibration.covered(config, workloads):
            workloads.append(Workload(config, int(CALIBRATED_SECONDS / step), EVAL_TOKENS))
    calibration.measure(workloads[:MAX_MODELS])
    rate *= ranks
    speeds = {name: calibration.speed(config) for name, config in configs.items()}
    measured = {name: speed.on(ranks) for name, speed in speeds.items() if speed is not None}
    if measured:  # models that were not measured are assumed to reach the same FLOP/s
        rate = sum(_step_flops(configs[name]) / it.step_seconds for name, it in measured.items()) / len(measured)
    overheads = OverheadHistory().typical()
    least, most = (
        sweep_seconds(spec, splits, workers, measured, rate, overheads, spec.looks[look], threads * ranks)
        for look in (0, -1)
    )
    return TimeEstimate(most, least, measured, rate)


def sweep_seconds(
    spec: SweepSpec,
    splits: Mapping[str, Mapping[str, int]],
    workers: int,
    measured: Mapping[str, ModelSpeed],
    rate: float,
    overheads: Overheads,
    seeds: int | None = None,
    threads: int = 1,
) -> float:
    """Approximate wall time of a sweep in which nothing is pruned.

    Workers train at the same time, and one thread of the sweep's process records their runs one after the other. On
    CPUs they share the cores, so the sweep takes as long as the slowest of three: a worker's share of the training,
    the recording of all runs, and all of this work divided by the cores.

    Args:
        spec, splits, workers: as for `estimate_time`.
        measured: arm name → speed of its model.
        rate: FLOP/s of one worker's training, for the other arms.
        overheads: of sweeps on this machine.
        seeds: seeds per arm; None for the most that the sweep may use.
        threads: CPU threads of a worker, with all of its ranks.
    """
    seeds, training, recording, arms = len(spec.seeds) if seeds is None else seeds, 0.0, 0.0, spec.arms()
    for arm in arms:
        config, sizes, known = spec.run_config(arm.values), splits[arm.name], measured.get(arm.name)
        runs = spec.trials + seeds
        training += runs * (run_seconds(config, sizes, known, rate) + overheads.turnaround)
        training += seeds * _test_seconds(config, sizes["test"], known, rate)
        recording += runs * recording_seconds(config, sizes, known, rate, overheads)
    total = len(arms) * (spec.trials + seeds)
    busy = max(training / max(1, min(workers, total)), recording)
    if not count_gpus():
        busy = max(busy, (training * threads + recording) / (os.cpu_count() or 1))
    return overheads.start + busy + overheads.at_end(len(arms), total)


def _step_flops(config: RunConfig) -> float:
    return config.tokens_per_step * config.flops_per_token


def run_seconds(config: RunConfig, splits: Mapping[str, int], measured: ModelSpeed | None, rate: float) -> float:
    """Seconds of one run, without its pass over the test split.

    Args:
        config: of the run.
        splits: tokens of each split.
        measured: speed of this model, if it was measured.
        rate: FLOP/s of training, if it was not.
    """
    training, evaluating = train_and_eval_seconds(config, splits, measured, rate)
    return training + evaluating


def train_and_eval_seconds(
    config: RunConfig, splits: Mapping[str, int], measured: ModelSpeed | None, rate: float
) -> tuple[float, float]:
    """Seconds that one run spends in training steps and in evaluations; see `run_seconds`."""
    windows = (splits["train"] - 1) // config.model.context_length
    step, _ = _seconds(config, 0, measured, rate)
    steps, training = config.total_steps(windows), config.train.budget.seconds or 0.0
    if steps is None:
        steps = max(1, int(training / step))
    else:
        training = steps * step
    between = max(0, round(steps / config.eval_steps(windows)) - 1)  # evaluations besides those at both ends
    whole = max(0, splits["val"] - 1)
    sample = (config.train.eval_tokens or 0) if config.samples_validation(splits["val"]) else 0
    _, at_ends = _seconds(config, whole + sample + config.train.train_eval_tokens, measured, rate)
    _, in_between = _seconds(config, (sample or whole) + config.train.train_eval_tokens, measured, rate)
    return training, 2 * at_ends + between * in_between


def recording_seconds(
    config: RunConfig, splits: Mapping[str, int], measured: ModelSpeed | None, rate: float, overheads: Overheads
) -> float:
    """Seconds to record one run in MLflow; see `run_seconds`."""
    training, _ = train_and_eval_seconds(config, splits, measured, rate)
    step, _ = _seconds(config, 0, measured, rate)
    points, _ = points_of(config, splits["train"], training / step)
    return overheads.recording(points)


def mean_recording(spec: SweepSpec, splits: Mapping[str, Mapping[str, int]], overheads: Overheads) -> float:
    """Seconds to record one run in MLflow, the mean over arms."""
    arms = spec.arms()
    each = (recording_seconds(spec.run_config(arm.values), splits[arm.name], None, 1.0, overheads) for arm in arms)
    return sum(each) / len(arms)


def points_of(config: RunConfig, train_tokens: int, steps: float) -> tuple[int, int]:
    """About how many points a run yields, and how many of them are evaluated."""
    windows = (train_tokens - 1) // config.model.context_length
    evaluations = 1 + max(1, round(steps / config.eval_steps(windows)))
    return int(steps / config.log_steps(windows)) + evaluations, evaluations


def _seconds(config: RunConfig, scored: int, measured: ModelSpeed | None, rate: float) -> tuple[float, float]:
    """Seconds of a training step, and of an evaluation of `scored` tokens."""
    if measured is not None:
        return measured.step_seconds, measured.evaluation(scored)
    step = _step_flops(config) / rate
    return step, scored * step / config.tokens_per_step * EVALUATION_SHARE


def _test_seconds(config: RunConfig, tokens: int, measured: ModelSpeed | None, rate: float) -> float:
    """Seconds of the pass over the test split, without a generated text."""
    step, _ = _seconds(config, tokens, measured, rate)
    return tokens * step / config.tokens_per_step * EVALUATION_SHARE
