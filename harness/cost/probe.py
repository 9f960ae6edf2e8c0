"""Measures how fast this process trains a configuration: real training steps, timed by the points that they yield.

`harness.cost.calibration` runs `python -m harness.cost.probe` in a separate process with a worker's environment. The
request comes as JSON on standard input, the answer is a list of `ProbeResult` as JSON.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.config.run import RunConfig
from harness.data import Dataset, open_dataset
from harness.model.generation import sampled_and_greedy
from harness.model.init import build_gpt
from harness.training.devices import describe, resolve_compile, resolve_device, resolve_precision, synchronize
from harness.training.environment import Environment
from harness.training.errors import Stopped
from harness.training.model_optimizer import ModelOptimizer
from harness.training.resume import State, States, state_tensors
from harness.training.trainer import train

WARM_UP = 2  # steps that are not counted: the first ones allocate memory and choose kernels
CPU_STEPS, GPU_STEPS = (3, 150), (40, 2000)  # minimum and maximum; under 200 steps, every step has a point
SAMPLED_TOKENS = 10  # tokens of the generated texts that are timed


@dataclass(frozen=True)
class ProbeResult:
    """Result of one measurement.

    Attributes:
        device: its name.
        threads: CPU threads.
        step_seconds: of one training step, with all that the trainer does for it.
        eval_seconds: of one evaluation of `eval_tokens` tokens, without its generated texts; 0 if there was
            not enough time.
        eval_tokens: scored tokens of the training sample and of the validation split.
        sample_seconds: to generate the texts of an evaluation.
        memory: peak bytes so far, of the GPU if there is one, else of the process.
        state_seconds: to save a state; 0 if not measured.
        peak_flops: FLOP/s of matrix products in the precision of the training; 0 if not measured.
    """

    device: str
    threads: int
    step_seconds: float
    eval_seconds: float
    eval_tokens: int
    sample_seconds: float
    memory: float
    state_seconds: float = 0.0
    peak_flops: float = 0.0


def measure(config: RunConfig, steps: int, eval_tokens: int, full: bool, patience: float) -> ProbeResult:
    """Train about `steps` steps, with an evaluation before the first and after the last.

    Args:
        config: of the run; its budget and its rhythms are replaced.
        steps: number of steps to time.
        eval_tokens: tokens to score at most, of the validation split and of the training sample each.
        full: also measure the peak of matrix products and the saving of a state.
        patience: seconds after which the training is stopped; `eval_seconds` is 0 then.
    """
    data = open_dataset(config.data, compare=False)
    config = data.resolve(config)
    data = data.shortened(eval_tokens + 1)
    device = resolve_device(config.train)
    low, high = CPU_STEPS if device.type == "cpu" else GPU_STEPS
    compiled = resolve_compile(config, device, len(data.windows("train", config.model.context_length)))
    short = _shortened(config, WARM_UP + max(low, min(high, steps)), eval_tokens, compiled)
    deadline = time.monotonic() + patience
    marks: list[tuple[int, float]] = []
    completed = True
    try:
        for point in train(short, data, stop=lambda: time.monotonic() > deadline and len(marks) > WARM_UP + 1):
            marks.append((point.step, time.perf_counter()))
    except Stopped:
        completed = False
    without_evaluation = marks[1:-1] if completed else marks[1:]
    timed = without_evaluation[WARM_UP - 1 :] if len(without_evaluation) > WARM_UP else without_evaluation
    pairs = list(itertools.pairwise(timed))
    step_seconds = statistics.median((later - earlier) / (step - before) for (before, earlier), (step, later) in pairs)
    (before, ended), (last, over) = marks[-2:]
    evaluating = max(1e-6, over - ended - step_seconds * (last - before)) if completed else 0.0
    sampled = min(short.train.train_eval_tokens, len(data.train))
    return ProbeResult(
        device=describe(device),
        threads=torch.get_num_threads(),
        step_seconds=step_seconds,
        eval_seconds=evaluating,
        eval_tokens=len(data.val) - 1 + sampled,
        sample_seconds=_sample_seconds(config, data, device),
        memory=_memory(device),
        state_seconds=_state_seconds(config, data, device) if full else 0.0,
        peak_flops=matmul_peak(device, resolve_precision(config.train, device)) if full else 0.0,
    )


def _shortened(config: RunConfig, steps: int, eval_tokens: int, compiled: bool) -> RunConfig:
    """The run with few steps, compiled if the full run would be."""
    plain = config.model_dump()
    sampled = min(config.train.train_eval_tokens, eval_tokens)
    plain["train"] |= {"budget": {"steps": steps}, "eval_every": {"steps": 10 * steps}, "checkpoint_every": None}
    plain["train"] |= {"train_eval_tokens": sampled, "eval_tokens": None, "sample": {"max_new_tokens": 0}}
    plain["train"]["compile"] = compiled
    plain["model"] |= {"init_from": None, "init_sha256": None}  # the values of the weights change no time
    return RunConfig.model_validate(plain)


def _sample_seconds(config: RunConfig, data: Dataset, device: torch.device) -> float:
    """Seconds to generate the texts of one evaluation, with an untrained model."""
    wanted = config.train.sample
    if wanted.max_new_tokens == 0:
        return 0.0
    model = build_gpt(config, device, data.vocabulary)
    few = wanted.model_copy(update={"max_new_tokens": min(wanted.max_new_tokens, SAMPLED_TOKENS)})
    began = time.perf_counter()
    sampled_and_greedy(model, data.codec, few)
    return (time.perf_counter() - began) * wanted.max_new_tokens / few.max_new_tokens


def _memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def _state_seconds(config: RunConfig, data: Dataset, device: torch.device) -> float:
    """Seconds to save a state to the disk."""
    model = build_gpt(config, device, data.vocabulary, data.trained)
    optimizer = ModelOptimizer(model, config.train)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # the optimizer has no state before its first step
    here = Environment.here(device, resolve_precision(config.train, device))
    with tempfile.TemporaryDirectory() as folder, States(Path(folder), config, data, here) as states:
        began = time.perf_counter()
        states.save(State(1, state_tensors(model, optimizer, device), {"training": 0.0}, None, ()))
        return time.perf_counter() - began


def matmul_peak(device: torch.device, precision: str, seconds: float = 1.0) -> float:
    """FLOP/s of a square matrix product: the best size, and for each the median of as many as fit into the time."""
    best = 0.0
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for size in (1024,) if device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        took: list[float] = []
        began = time.perf_counter()
        with torch.no_grad():
            while len(took) < 3 or time.perf_counter() - began < seconds:
                synchronize(device)
                start = time.perf_counter()
                for _ in range(1 if device.type == "cpu" else 10):
                    a @ b
                synchronize(device)
                took.append((time.perf_counter() - start) / (1 if device.type == "cpu" else 10))
        best = max(best, 2 * size**3 / statistics.median(took))
    return best


def answer(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measure the workloads of a request in their order, as many as time allows.

    A request has a `deadline`, in seconds since 1970: training is stopped then, and no workload is started after it.
    """
    results: list[dict[str, Any]] = []
    for one in request["runs"]:
        left = request["deadline"] - time.time()
        if results and left <= 0:
            break
        config = RunConfig.model_validate_json(json.dumps(one["config"]))
        result = measure(config, one["steps"], one["eval_tokens"], request["full"], left)
        results.append(dataclasses.asdict(result))
    return results


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
