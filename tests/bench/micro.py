"""Measurements of this harness alone, each in a fresh process: `python tests/bench/micro.py tracking-share [--quick]`.

Each gives a value, its unit and a limit; `run.py --part micro` makes them all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from stored_sweep import SPEC, curve, fill, sweep_store
from workload import SHAPES


class Figure(NamedTuple):
    """A measured value (smaller is better), its unit, its limit, and details."""

    value: float
    unit: str
    limit: float | None
    note: str = ""


Measurement = Callable[[bool], Figure]
MEASUREMENTS: dict[str, Measurement] = {}


def measurement(name: str) -> Callable[[Measurement], Measurement]:
    """Register a measurement under a name."""

    def register(function: Measurement) -> Measurement:
        MEASUREMENTS[name] = function
        return function

    return register


def median_wall(command: list[str], times: int, code: int = 0) -> tuple[float, str]:
    """The median wall time of a command in seconds, and all times as text."""
    walls = []
    for _ in range(times + 1):  # the first run only fills the file cache
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        walls.append(time.perf_counter() - began)
        assert done.returncode == code, done.stdout + done.stderr
    return statistics.median(walls[1:]), " ".join(f"{wall:.2f}" for wall in walls[1:])


# start-up --------------------------------------------------------------------------------------------------------


@measurement("help")
def help_(quick: bool) -> Figure:
    """`--help`."""
    wall, every = median_wall([sys.executable, "-m", "harness.sweep", "--help"], 1 if quick else 5)
    return Figure(wall, "s", 0.5, every)


@measurement("bad-spec")
def bad_spec(quick: bool) -> Figure:
    """A spec with two mistakes, one of them the name of the corpus."""
    text = SPEC.format(
        name="bad", corpus="sotu-1821", tokenizer="gpt2", context=64, width=63, budget="steps: 1", seeds=1
    )
    Path("bad.yaml").write_text(text, "utf-8")
    wall, every = median_wall([sys.executable, "-m", "harness.sweep", "bad.yaml"], 1 if quick else 5, code=2)
    return Figure(wall, "s", 1.0, every)


def first_step(quick: bool, fresh: bool) -> Figure:
    """Seconds from the command to the first training step of a sweep; the tokens are cached."""
    seeds = itertools.count(1)

    def run() -> float:
        name = f"first{next(seeds)}"
        text = SPEC.format(
            name=name, corpus="sotu-1820", tokenizer="gpt2", context=64, width=64, budget="steps: 2", seeds=1
        )
        Path(f"{name}.yaml").write_text(text, "utf-8")
        began = time.time()
        command = [sys.executable, "-m", "harness.sweep", f"{name}.yaml", "--workers", "1"]
        subprocess.run(command, check=True, capture_output=True)
        from harness.tracking.reading.histories import read_points
        from harness.tracking.store import connect

        client = connect("sqlite:///mlruns/mlflow.db")
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        assert len(read_points(client, runs, ["train/batch_loss"]))
        stamps = [
            point.timestamp
            for one in runs
            if "train/batch_loss" in one.data.metrics
            for point in client.get_metric_history(one.info.run_id, "train/batch_loss")
        ]
        return min(stamps) / 1000 - began

    first = run()
    if fresh or quick:
        return Figure(first, "s", 6.0, "in an empty folder: MLflow creates its tables")
    rest = [run() for _ in range(3)]
    return Figure(statistics.median(rest), "s", 6.0, " ".join(f"{it:.2f}" for it in rest))


@measurement("first-step")
def first_step_warm(quick: bool) -> Figure:
    """In a folder with the stores of earlier sweeps."""
    return first_step(quick, fresh=False)


@measurement("first-step-new-folder")
def first_step_fresh(quick: bool) -> Figure:
    """In an empty folder."""
    return first_step(quick, fresh=True)


# tracking, checkpoints, parent --------------------------------------------------------------------------------------


@measurement("tracking-share")
def tracking_share(quick: bool) -> Figure:
    """CPU time of the parent for the tracking of one run, as a share of a minute of training.

    The run has 200 points without and 10 with an evaluation, written to disk and sent to SQLite.
    """
    tracker, parent, infos = sweep_store(Path(), 2, 0)
    from harness.core.outcomes import Outcome
    from harness.tracking import Outbox

    outbox = Outbox(tracker, parent, Path("work"))
    runs, spent = 1 if quick else 5, []
    for info in list(infos)[:1] * runs:
        began = time.process_time()
        key = outbox.start(info)
        for number, point in enumerate(curve(210, 21)):
            outbox.log_point(key, point)
            if number % 14 == 0:  # 210 points in a minute: one batch every 4 seconds
                outbox.send()
        outbox.end(key, Outcome.COMPLETE, "")
        outbox.send()
        spent.append(time.process_time() - began)
    cost = statistics.median(spent)
    return Figure(100 * cost / 60, "%", 1.0, f"{cost * 1000:.0f} ms of CPU per run")


@measurement("checkpoint-share")
def checkpoint_share(quick: bool) -> Figure:
    """Time for saving states as a share of training, with a state every second."""
    import torch
    from ours import config

    from harness.training.resume import States
    from harness.training.trainer import train

    torch.set_num_threads(1)
    saves: list[float] = []
    original = States.save

    def timed(self: States, state: Any) -> None:
        began = time.perf_counter()
        original(self, state)
        saves.append(time.perf_counter() - began)

    States.save = timed  # type: ignore[method-assign]
    seconds = 1.0 if quick else 30.0
    settings = config(
        SHAPES["mini" if quick else "tiny"], 1, budget={"seconds": seconds}, checkpoint_every=0.5 if quick else 1.0
    )
    began = time.perf_counter()
    for _ in train(settings, state=Path("state")):
        pass
    took = time.perf_counter() - began
    note = f"{len(saves)} states of {statistics.median(saves) * 1000:.0f} ms in {took:.0f} s" if saves else "no state"
    return Figure(100 * sum(saves) / took, "%", 2.0, note)


@measurement("parent-cpu")
def parent_cpu(quick: bool) -> Figure:
    """CPU use of the sweep's parent, scaled to two workers with 10 points per second each."""
    import psutil

    seconds, warm = (6, 2) if quick else (30, 8)
    text = SPEC.format(
        name="parent",
        corpus="sotu-1820",
        tokenizer="byte",
        context=64,
        width=128,
        budget=f"seconds: {seconds}",
        seeds=1,
    )
    Path("parent.yaml").write_text(text, "utf-8")
    process = psutil.Popen(
        [sys.executable, "-m", "harness.sweep", "parent.yaml", "--workers", "2"], stdout=subprocess.DEVNULL
    )
    database = Path("mlruns/mlflow.db")
    while process.poll() is None and not (database.exists() and len(process.children()) >= 2):
        time.sleep(0.1)
    time.sleep(warm)
    begin = (time.time(), sum(process.cpu_times()[:2]))
    time.sleep(0.6 * seconds)
    end = (time.time(), sum(process.cpu_times()[:2]))
    assert process.wait() == 0
    import sqlite3

    query = "SELECT COUNT(*) FROM metrics WHERE key = 'tokens' AND timestamp BETWEEN ? AND ?"
    with sqlite3.connect(database) as connection:
        (points,) = connection.execute(query, (begin[0] * 1000, end[0] * 1000)).fetchone()
    assert points, "no point arrived during the measurement"
    elapsed, cpu = end[0] - begin[0], end[1] - begin[1]
    each = cpu / points
    note = f"{each * 1000:.2f} ms per point at {points / elapsed:.0f} points per second from 2 workers"
    return Figure(100 * each * 20, "%", 5.0, note)


# report --------------------------------------------------------------------------------------------------------------


def report(runs: int, points: int, limit: float) -> Figure:
    """Wall time of the report of a sweep."""
    seeds = max(2, min(10, runs // 20))
    count = fill(Path(), runs // 2 - seeds, seeds, points)
    command = [sys.executable, "-m", "harness.report", "many", "--tracking", f"sqlite:///{Path.cwd()}/mlflow.db"]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - began
    assert done.returncode == 0, done.stdout + done.stderr
    return Figure(wall, "s", limit, f"{count} runs of {points} points")


@measurement("report-200")
def report_200(quick: bool) -> Figure:
    """`python -m harness.report` over 200 runs of 200 points."""
    return report(12 if quick else 200, 20 if quick else 200, 10.0)


@measurement("report-2000")
def report_2000(quick: bool) -> Figure:
    """`python -m harness.report` over 2,000 runs of 200 points."""
    return report(12 if quick else 2000, 20 if quick else 200, 60.0)


# encoding and memory -------------------------------------------------------------------------------------------------


def peak_mb() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def encode(quick: bool) -> tuple[float, float]:
    """Seconds and peak memory in MB to encode and cache the whole `sotu` corpus, 12 MB."""
    from harness.config.run import DataConfig
    from harness.data import open_dataset

    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        data = open_dataset(DataConfig(corpus="sotu-1820" if quick else "sotu"), cache=Path(cache))
        assert len(data.train) > 1000
        return time.perf_counter() - began, peak_mb()


@measurement("encode-time")
def encode_time(quick: bool) -> Figure:
    """Time to encode 12 MB of text."""
    seconds, _ = encode(quick)
    return Figure(seconds, "s", 5.0)


@measurement("encode-memory")
def encode_memory(quick: bool) -> Figure:
    """Peak memory of the whole process that encodes 12 MB of text."""
    _, peak = encode(quick)
    return Figure(peak, "MB", 500.0)


def trial_memory(shape: str) -> Figure:
    """Peak memory that a trial adds to its process, relative to `floor_mb`."""
    import psutil
    import torch
    from ours import config

    from harness.data import open_dataset
    from harness.model.cross_entropy import ROWS
    from harness.model.init import build_gpt
    from harness.training.devices import resolve_device
    from harness.training.trainer import train

    torch.set_num_threads(1)
    settings = config(SHAPES[shape], 6)
    data = open_dataset(settings.data)
    before = psutil.Process().memory_info().rss / 1e6
    for _ in train(settings, data):
        pass
    used = peak_mb() - before
    needed = floor_mb(settings, build_gpt(settings, resolve_device(settings.train)), ROWS)
    return Figure(used / needed, "×", 1.3, f"{used:.0f} MB used, {needed:.0f} MB needed")


def floor_mb(settings: Any, model: Any, rows: int) -> float:
    """Least memory of training in MB: weights, gradients, two moments, a chunk of logits, and saved activations."""
    import torch

    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.zeros((settings.sequences_per_step, settings.model.context_length), dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda it: it):
        hidden = model.hidden(tokens)
    assert hidden.grad_fn is not None
    logits = 4 * min(rows, settings.tokens_per_step) * settings.vocab_size
    return (16 * settings.parameters + logits + sum(kept.values())) / 1e6


@measurement("trial-memory-small")
def trial_memory_small(quick: bool) -> Figure:
    """Peak memory of a trial of the shape `small`."""
    return trial_memory("mini" if quick else "small")


@measurement("trial-memory-124m")
def trial_memory_124m(quick: bool) -> Figure:
    """Peak memory of a trial of GPT-2 124M."""
    return trial_memory("mini" if quick else "124m")


@measurement("growth")
def growth(quick: bool) -> Figure:
    """Growth of a worker's memory from trials 11 to 30 to the last 20 of 100.

    Compares the minima over the larger of two shapes: single trials differ by a tensor of the head, 13 MB, because of
    fragmentation, but a leak would raise the minimum too.
    """
    from ours import config

    from harness.workers.local_pool import LocalPool
    from harness.workers.messages import Finished, Job, Progress

    trials = 12 if quick else 100
    some, warm = trials // 5, trials // 10
    sizes: list[float] = []
    with LocalPool(1) as pool:
        for number in range(trials):
            shape = SHAPES["mini" if quick or number % 2 else "tiny"]  # alternating shapes, as in a search
            pool.submit(Job(number, config(shape, 3)))
            finished = False
            while not finished:
                for event in pool.events(60):
                    if isinstance(event, Progress) and event.point.evaluated:
                        last = event.point.metrics["system/process_memory_megabytes"]
                    if isinstance(event, Finished):
                        assert not event.reason, event.reason
                        finished = True
            sizes.append(last)
    windows = [part[::2] for part in (sizes[warm : warm + some], sizes[-some:])]
    early, late = map(min, windows)
    first, then = (f"{min(window):.0f} to {max(window):.0f} MB" for window in windows)
    note = f"{first} in trials {warm + 1} to {warm + some}, {then} in the last {some} of {trials}"
    return Figure(100 * (late / early - 1), "%", 1.0, note)


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=MEASUREMENTS)
    parser.add_argument("--quick", action="store_true", help="check that it runs; the result is useless")
    options = parser.parse_args()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    print(json.dumps(MEASUREMENTS[options.name](options.quick)._asdict()))


if __name__ == "__main__":
    main()
