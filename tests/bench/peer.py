"""What the peers' scripts share: batches, measurements, and the study around the training.

Each peer has a model, an optimizer and a training step as its users write them. The study is what most people write:
Optuna's `study.optimize` with one objective that trains and logs to MLflow, both in SQLite files. Every choice favours
the peer: tokens are encoded before, the training loss is logged only every tenth step, and nothing is sampled, saved or
reported.

    python tests/bench/peer_book.py throughput tiny --data FOLDER --seconds 5
    python tests/bench/peer_book.py sweep full --data FOLDER
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from workload import SEED, SHAPES, SWEEPS, Shape


class Peer(Protocol):
    """One way to train a GPT."""

    name: str

    def build(self, shape: Shape, drop_rate: float) -> nn.Module: ...

    def optimizer(self, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer: ...

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over all targets."""

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> Tensor:
        """Forward, backward, update; returns the loss."""


def batches(tokens: np.ndarray, shape: Shape) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless random windows: inputs and targets of shape (batch_size, context_length)."""
    generator = np.random.default_rng(SEED)
    while True:
        starts = generator.integers(0, len(tokens) - shape.context_length, shape.batch_size)
        yield windows(tokens, starts.tolist(), shape.context_length)


def windows(tokens: np.ndarray, starts: list[int], length: int) -> tuple[Tensor, Tensor]:
    rows = torch.from_numpy(np.stack([tokens[start : start + length + 1] for start in starts]).astype(np.int64))
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


@torch.no_grad()
def evaluate(peer: Peer, model: nn.Module, tokens: np.ndarray, shape: Shape) -> float:
    """Mean loss over all tokens of a split but the first."""
    model.eval()
    length, rows = shape.context_length, shape.batch_size
    whole = (len(tokens) - 1) // length
    starts = [number * length for number in range(whole)]
    parts = [windows(tokens, starts[first : first + rows], length) for first in range(0, whole, rows)]
    if rest := len(tokens) - 1 - whole * length:
        parts.append(windows(tokens, [whole * length], rest))
    nats = sum(peer.loss(model, *part).item() * part[1].numel() for part in parts)
    model.train()
    return nats / (len(tokens) - 1)


def throughput(peer: Peer, shape: Shape, tokens: np.ndarray, seconds: float, device: str) -> dict[str, float]:
    """Tokens per second of whole training steps, without the first ones.

    On a GPU as in nanoGPT: compiled, bf16 autocast with TF32, batches from pinned memory, and a synchronisation only
    every tenth step.
    """
    torch.manual_seed(SEED)
    model = peer.build(shape, shape.drop_rate).to(device).train()
    optimizer = peer.optimizer(model, 1e-3)
    source = batches(tokens, shape)
    on_gpu = device != "cpu"
    if on_gpu:
        torch.set_float32_matmul_precision("high")
        model = torch.compile(model)  # type: ignore[assignment]

    def train_steps(count: int) -> float:
        for _ in range(count):
            batch = next(source)
            if on_gpu:
                inputs, targets = (part.pin_memory().to(device, non_blocking=True) for part in batch)
                batch = inputs, targets
            with torch.autocast(device, torch.bfloat16, enabled=on_gpu):
                loss = peer.step(model, optimizer, *batch)
        return loss.item()

    at_once = 10 if on_gpu else 1
    train_steps(at_once)
    steps, began = 0, time.perf_counter()
    while steps < 2 or time.perf_counter() - began < seconds:
        loss = train_steps(at_once)
        steps += at_once
    elapsed = time.perf_counter() - began
    return {"tokens_per_second": steps * shape.tokens_per_step / elapsed, "steps": steps, "loss": loss}


def sweep(peer: Peer, kind: str, train: np.ndarray, val: np.ndarray) -> dict[str, float]:
    """The whole grid, trial by trial, in the current folder."""
    import mlflow
    import optuna

    plan = SWEEPS[kind]
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment(peer.name)
    space = {"learning_rate": list(plan.learning_rates), "drop_rate": list(plan.drop_rates)}

    def objective(trial: optuna.Trial) -> float:
        values = {name: trial.suggest_categorical(name, options) for name, options in space.items()}
        with mlflow.start_run(run_name=f"trial {trial.number}"):
            mlflow.log_params({**values, **vars(plan.shape), "steps": plan.steps, "seed": SEED})
            torch.manual_seed(SEED)
            model = peer.build(plan.shape, values["drop_rate"]).train()
            optimizer = peer.optimizer(model, values["learning_rate"])
            source = batches(train, plan.shape)
            for step in range(1, plan.steps + 1):
                loss = peer.step(model, optimizer, *next(source))
                if step % 10 == 0:
                    mlflow.log_metric("train/loss", loss.item(), step=step)
                if step % plan.eval_every == 0:
                    score = evaluate(peer, model, val, plan.shape)
                    mlflow.log_metric("val/loss", score, step=step)
                    trial.report(score, step)
        return score

    study = optuna.create_study(
        storage="sqlite:///optuna.db",
        study_name=peer.name,
        direction="minimize",
        sampler=optuna.samplers.GridSampler(space, seed=SEED),
    )
    study.optimize(objective, n_trials=plan.trials)
    return {"trials": len(study.trials), "best": study.best_value}


def main(peer: Peer) -> None:
    """The command line of a peer. Prints one line of JSON."""
    parser = argparse.ArgumentParser(description=peer.__doc__)
    parser.add_argument("what", choices=("throughput", "sweep"))
    parser.add_argument("case", help="a shape for throughput, full or short for a sweep")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.npy and val.npy")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of throughput")
    options = parser.parse_args()
    train, val = (np.load(options.data / f"{split}.npy") for split in ("train", "val"))
    if options.what == "throughput":
        found = throughput(peer, SHAPES[options.case], train, options.seconds, options.device)
    else:
        found = sweep(peer, options.case, train, val)
    print(json.dumps({**found, "threads": torch.get_num_threads()}))
