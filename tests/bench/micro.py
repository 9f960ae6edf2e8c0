"""Single figures of this harness, each in a fresh process: `python tests/bench/micro.py tracking-share [--quick]`.

Each measurement gives a figure, its unit and the limit of issue 5; `run.py --part micro` makes them all.
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

from workload import SHAPES


class Figure(NamedTuple):
    """A measured value (the smaller the better), its unit, the limit that it should keep, and how it came about."""

    value: float
    unit: str
    limit: float | None
    note: str = ""


Measurement = Callable[[bool], Figure]
MEASUREMENTS: dict[str, Measurement] = {}

SPEC = """\
name: {name}
question: What does this cost?
data: {{corpus: {corpus}, tokenizer: {tokenizer}, split: {{val: 0.02, test: 0.02}}}}
model: {{context_length: {context}, emb_dim: {width}, n_heads: 2, n_layers: 2}}
train:
  budget: {{{budget}}}
  batch_size: 4
  eval_every: {{steps: 100_000}}
  train_eval_tokens: 64
  sample: {{max_new_tokens: 0}}
  device: cpu
compare:
  model.drop_rate: [0.0, 0.2]
study: {{seeds: {seeds}}}
"""


def measurement(name: str) -> Callable[[Measurement], Measurement]:
    def known(function: Measurement) -> Measurement:
        MEASUREMENTS[name] = function
        return function

    return known


def median_wall(command: list[str], times: int, code: int = 0) -> tuple[float, str]:
    """The median of the wall seconds of a command, and all of them as text."""
    walls = []
    for _ in range(times + 1):  # the first one fills the file cache
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
    """Two mistakes, one of them the corpus's name."""
    text = SPEC.format(
        name="bad", corpus="sotu-1821", tokenizer="gpt2", context=64, width=63, budget="steps: 1", seeds=1
    )
    Path("bad.yaml").write_text(text, "utf-8")
    wall, every = median_wall([sys.executable, "-m", "harness.sweep", "bad.yaml"], 1 if quick else 5, code=2)
    return Figure(wall, "s", 1.0, every)


def first_step(quick: bool, fresh: bool) -> Figure:
    """Seconds from the command to the first training step of a sweep, tokens encoded before."""
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
        runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
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
        return Figure(first, "s", 6.0, "in a folder without stores, which MLflow's migrations fill")
    rest = [run() for _ in range(3)]
    return Figure(statistics.median(rest), "s", 6.0, " ".join(f"{it:.2f}" for it in rest))


@measurement("first-step")
def first_step_warm(quick: bool) -> Figure:
    """With the stores of earlier sweeps."""
    return first_step(quick, fresh=False)


@measurement("first-step-new-folder")
def first_step_fresh(quick: bool) -> Figure:
    """In an empty folder."""
    return first_step(quick, fresh=True)


# tracking, checkpoints, parent --------------------------------------------------------------------------------------


@measurement("tracking-share")
def tracking_share(quick: bool) -> Figure:
    """CPU seconds of the parent for the whole record of one run, as a share of a run's minute of training.

    A run of 200 light points and 10 evaluations, as the trainer gives them; written to the disk, sent to SQLite.
    """
    with sweep_store(Path(), 2, 0) as (tracker, parent, infos):
        from harness.core.outcomes import Outcome
        from harness.tracking import Outbox

        outbox = Outbox(tracker, parent, Path("work"))
        runs, spent = 1 if quick else 5, []
        for info in list(infos)[:1] * runs:
            began = time.process_time()
            key = outbox.start(info)
            for number, point in enumerate(curve(210, 21)):
                outbox.log_point(key, point)
                if number % 14 == 0:  # a minute of 210 points sends every 4 seconds
                    outbox.send()
            outbox.end(key, Outcome.COMPLETE, "")
            outbox.send()
            spent.append(time.process_time() - began)
    cost = statistics.median(spent)
    return Figure(100 * cost / 60, "%", 1.0, f"{cost * 1000:.0f} ms of CPU per run")


@measurement("checkpoint-share")
def checkpoint_share(quick: bool) -> Figure:
    """Seconds of saving states as a share of training, with a state asked for every second."""
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
    """CPU of the sweep's parent while every worker sends points, scaled to 10 points a second from each."""
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
    assert points, "no point in the time that was watched"
    elapsed, cpu = end[0] - begin[0], end[1] - begin[1]
    each = cpu / points
    note = f"{each * 1000:.2f} ms a point at {points / elapsed:.0f} points a second from 2 workers"
    return Figure(100 * each * 20, "%", 5.0, note)


# report --------------------------------------------------------------------------------------------------------------


class sweep_store:
    """A sweep in an SQLite store of MLflow's: two arms of `trials` explore and `seeds` confirm runs each.

    Gives the tracker, the parent run and what every run is.
    """

    def __init__(self, folder: Path, trials: int, seeds: int) -> None:
        text = SPEC.format(
            name="many", corpus="sotu-1820", tokenizer="byte", context=64, width=64, budget="steps: 1990", seeds=seeds
        )
        tuned = "tune:\n  train.learning_rate: {log_uniform: [3e-4, 3e-3]}\n"
        text = text.replace("study: {", f"{tuned}study: {{trials: {trials}, ")
        (folder / "many.yaml").write_text(text, "utf-8")
        self.folder, self.trials = folder, trials

    def __enter__(self) -> tuple[Any, str, Any]:
        from harness.config.load import load_spec
        from harness.core.outcomes import Phase
        from harness.data import open_dataset
        from harness.runner.datasets import data_facts
        from harness.runner.describe import sweep_info
        from harness.tracking import Tracker, TrialInfo

        spec = load_spec(self.folder / "many.yaml")
        data = open_dataset(spec.base.data)
        tracker = Tracker(spec.name, f"sqlite:///{self.folder.absolute()}/mlflow.db")
        parent = tracker.open_sweep(sweep_info(spec, spec.identity(data.fingerprint), data))

        def infos() -> Any:
            facts = data_facts(data)
            for arm in spec.arms():
                for number in range(self.trials):
                    values = {"train.learning_rate": 3e-4 * 10 ** ((number + 0.5) / self.trials)}
                    settings = spec.arm_config(arm, values, 1)
                    study = f"many/{arm.name}"
                    name = f"{arm.name} · {number}"
                    yield TrialInfo(name, arm.name, Phase.EXPLORE, 1, settings, study, number, facts)
                for seed in spec.seeds if self.trials else ():
                    settings = spec.arm_config(arm, {"train.learning_rate": 1e-3}, seed)
                    yield TrialInfo(
                        f"{arm.name} · seed {seed}", arm.name, Phase.CONFIRM, seed, settings, None, None, facts
                    )

        return tracker, parent, infos()

    def __exit__(self, *_: object) -> None:
        pass


def curve(points: int, every: int, shift: float = 0.0) -> Any:
    """Points as the trainer yields them, each `every`-th with an evaluation."""
    from harness.core.metrics import Point

    for number in range(points):
        loss = 5.5 - 2 * number / points + shift
        values = {
            "train/batch_loss": loss,
            "optim/learning_rate": 1e-3,
            "optim/grad_norm": 1.0,
            "perf/tokens_per_second": 1000.0,
            "epochs": number / 50,
        }
        if number % every == 0 or number == points - 1:
            values |= {"train/loss": loss, "train/perplexity": 2.0**loss, "val/loss": loss + 0.1}
            values |= {"val/perplexity": 2.0**loss, "val/bits_per_byte": loss / 3}
            values |= {"system/cpu_utilization_percentage": 99.0, "system/process_memory_megabytes": 700.0}
            if number == points - 1:
                values |= {"test/loss": loss + 0.2, "test/perplexity": 2.0**loss, "test/bits_per_byte": loss / 3}
        yield Point(number * 10, number * 2560, number / points, number * 0.1, values)


def fill(folder: Path, trials: int, seeds: int, points: int) -> int:
    """A store with a whole sweep in it; the first run of each arm is written, the others are copied from it."""
    import sqlite3

    from harness.core.outcomes import Outcome
    from harness.tracking import schema

    with sweep_store(folder, trials, seeds) as (tracker, parent, infos):
        written: dict[str, str] = {}
        copies = []
        for info in infos:
            if info.arm in written:
                copies.append(info)
                continue
            run_id = written[info.arm] = tracker.start_run(parent, info)
            for point in curve(points, points // 5):
                tracker.log_point(run_id, point)
            tracker.end_run(run_id, Outcome.COMPLETE)
    columns = "name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, deleted_time"
    columns += ", source_version, lifecycle_stage, artifact_uri, experiment_id"
    own_tags = ("arm", "phase", "seed", "study", "trial_number", "config_sha256")
    kept = "(" + ", ".join(f"'harness.{tag}'" for tag in own_tags) + ")"
    with sqlite3.connect(folder / "mlflow.db") as db:
        for number, info in enumerate(copies, 1):
            old, new = written[info.arm], f"{number:032x}"
            shift = 0.2 * ((number * 7919) % 101) / 101
            pair = {"old": old, "new": new, "shift": shift}
            of_old = "WHERE run_uuid = :old"
            db.execute(f"INSERT INTO runs (run_uuid, {columns}) SELECT :new, {columns} FROM runs {of_old}", pair)
            for table in ("metrics", "latest_metrics"):
                rest = "key, value + :shift * (key LIKE '%loss%'), timestamp, step, is_nan"
                names = "key, value, timestamp, step, is_nan"
                copied = f"SELECT :new, {rest} FROM {table} {of_old}"
                db.execute(f"INSERT INTO {table} (run_uuid, {names}) {copied}", pair)
            rows = "SELECT key, value, :new FROM tags WHERE run_uuid = :old AND key NOT IN " + kept
            db.execute(f"INSERT INTO tags (key, value, run_uuid) {rows}", pair)
            own = {k: v for k, v in schema.trial_tags(parent, info).items() if f"'{k}'" in kept}
            db.executemany("INSERT INTO tags VALUES (?, ?, ?)", [(k, v, new) for k, v in own.items()])
            params = schema.trial_params(info.config)
            db.executemany("INSERT INTO params VALUES (?, ?, ?)", [(k, v, new) for k, v in params.items()])
    return len(written) + len(copies)


def report(runs: int, points: int, limit: float) -> Figure:
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
    """Seconds and peak MB of a process that reads, cuts, encodes and stores the whole `sotu` corpus, 12 MB."""
    from harness.config.run import DataConfig
    from harness.data import open_dataset

    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        data = open_dataset(DataConfig(corpus="sotu-1820" if quick else "sotu"), cache=Path(cache))
        assert len(data.train) > 1000
        return time.perf_counter() - began, peak_mb()


@measurement("encode-time")
def encode_time(quick: bool) -> Figure:
    """Of 12 MB of text."""
    seconds, _ = encode(quick)
    return Figure(seconds, "s", 5.0)


@measurement("encode-memory")
def encode_memory(quick: bool) -> Figure:
    """Of the whole process, Python included."""
    _, peak = encode(quick)
    return Figure(peak, "MB", 500.0)


def trial_memory(shape: str) -> Figure:
    """Peak memory of a trial, the process before it left out, over what training every weight of its model needs."""
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
    """Weights, gradients, two moments, a chunk of logits, and what the backward pass keeps of the forward pass."""
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
    """Of the shape `small`."""
    return trial_memory("mini" if quick else "small")


@measurement("trial-memory-124m")
def trial_memory_124m(quick: bool) -> Figure:
    """Of GPT-2 124M."""
    return trial_memory("mini" if quick else "124m")


@measurement("growth")
def growth(quick: bool) -> Figure:
    """How much larger a worker is in its last 20 of 100 trials than in trials 11 to 30: the least of the larger shape.

    What a trial of it holds differs from one to the next by a tensor of the head, 13 MB, as free memory lies elsewhere
    each time; a leak would raise the least of many, too.
    """
    from ours import config

    from harness.workers.messages import Finished, Job, Progress
    from harness.workers.pool import LocalPool

    trials = 12 if quick else 100
    some, warm = trials // 5, trials // 10
    sizes: list[float] = []
    with LocalPool(1) as pool:
        for number in range(trials):
            shape = SHAPES["mini" if quick or number % 2 else "tiny"]  # shapes that alternate, as in a search
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
    parser.add_argument("--quick", action="store_true", help="show that it runs; the figure means nothing")
    options = parser.parse_args()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    print(json.dumps(MEASUREMENTS[options.name](options.quick)._asdict()))


if __name__ == "__main__":
    main()
