"""One trial of this harness: `train` as in a worker, timed by the points that it yields.

The time includes batches, clipping and logging, but no evaluations, as for the peers.

    python tests/bench/ours.py tiny --seconds 5 --threads 2
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from workload import CORPORA, SEED, SHAPES, Shape


def config(shape: Shape, steps: int, corpus: str = "short", **train: Any) -> Any:
    """The run configuration of a shape; keywords override fields of `train`."""
    from harness.config.run import RunConfig

    training = {
        "budget": {"steps": steps},
        "batch_size": shape.batch_size,
        "eval_every": {"steps": 10 * steps},
        "train_eval_tokens": shape.context_length,
        "schedule": "constant",
        "warmup": 0.0,
        "sample": {"max_new_tokens": 0},
        "seed": SEED,
        "device": "cpu",
        **train,
    }
    return RunConfig.model_validate({"data": dict(CORPORA[corpus]), "model": shape.model, "train": training})


def throughput(shape: Shape, corpus: str, seconds: float, device: str) -> dict[str, float]:
    """Tokens per second of whole training steps, without the first ones."""
    from harness.training.trainer import train

    on_gpu = device != "cpu"
    # With fewer than 200 steps every step gives a point. With 1,000 every tenth does, where the CPU waits for the GPU.
    run = train(config(shape, 1000 if on_gpu else 199, corpus, device=device, compile=on_gpu))
    marks: list[tuple[int, float]] = []  # step and time of every point after the first step
    for point in run:
        if point.evaluated:  # before the first step and after the last
            continue
        marks.append((point.step, time.perf_counter()))
        if point.step >= 3 and marks[-1][1] - marks[0][1] >= seconds:
            break
    run.close()
    (first, began), (last, ended) = marks[0], marks[-1]
    steps = last - first
    return {
        "tokens_per_second": steps * shape.tokens_per_step / (ended - began),
        "steps": steps,
        "loss": point.metrics["train/batch_loss"],
    }


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=SHAPES)
    parser.add_argument("--corpus", choices=CORPORA, default="short")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    found = throughput(SHAPES[options.case], options.corpus, options.seconds, options.device)
    print(json.dumps({**found, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
