"""Measure this harness and its peers on the same work, on this machine.

    python tests/bench/run.py --part throughput     # about 8 minutes on 2 quiet cores
    python tests/bench/run.py --part sweep          # about 20 minutes
    python tests/bench/run.py --part micro          # about 3 minutes
    python tests/bench/run.py --part gpu            # about 5 minutes on a machine with a GPU
    python tests/bench/run.py --part throughput --case small --who book --who ours --repeat 5
    python tests/bench/run.py --part sweep --env plain --who book --who ours --who ours-pruned
    python tests/bench/run.py --table               # print the results in --out

Parts: `throughput` (tokens per second of one trial's training steps), `sweep` (wall time of a whole sweep of six
trials, from the command to its end), `micro` (this harness alone: shares of tracking and checkpoints, start-up,
report, memory) and `gpu` (the 124M preset against nanoGPT's compiled step, on a machine with a GPU). Every measurement
is a fresh process. Peers run with two environments: `plain`, as their users run them, and `malloc`, with the memory
settings of our workers. Rounds are interleaved, and each starts with another program.

Each measurement is appended to --out as one line of JSON. Measurements that are in --out are not repeated, so an
interrupted command resumes; --fresh sets the file aside and starts again. Times from a machine that does other work
are useless: the load is recorded with each measurement, and the table warns of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

import micro  # noqa: E402
from table import OURS, PEERS, PRUNED, read, show  # noqa: E402
from workload import CORPORA, SHAPES, SWEEPS  # noqa: E402

from harness.core.hardware import count_gpus, processor_name  # noqa: E402
from harness.workers.environment import WORKER_ENVIRONMENT  # noqa: E402

PARTS = ("throughput", "sweep", "micro", "gpu")
# `ours-sampled`: like `ours-pruned`, but evaluates a fixed sample of the validation split, twice as often. Trials that
# are not pruned evaluate the whole split at their end.
SAMPLED = {"eval_every": {"steps": 10}, "eval_tokens": 1024}
TIMEOUT = 1800.0


@dataclass(frozen=True)
class Job:
    """One measurement to make."""

    part: str
    case: str
    who: str
    env: str  # plain, malloc (a peer with our workers' settings) or worker (ours)
    round: int

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return (self.part, self.case, self.who, self.env, self.round)

    def __str__(self) -> str:
        return f"{self.part} {self.case} {self.who} ({self.env}) round {self.round + 1}"


@dataclass(frozen=True)
class Done:
    """The result of a command: output, wall and CPU seconds, and the memory of its largest process."""

    output: str
    wall: float
    cpu: float
    rss_mb: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.fresh and options.out.exists():
        aside = options.out.with_suffix(f".{datetime.now(UTC):%Y%m%dT%H%M%S}.jsonl")
        options.out.rename(aside)
        print(f"set aside: {aside}")
    if not options.table:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        measure(options)
    show(read(options.out))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--part", action="append", choices=PARTS, help="repeatable; default: all")
    add("--case", action="append", choices=list(SHAPES), help="shapes of throughput; default: small, tiny, 124m")
    add("--who", action="append", choices=[*PEERS, *OURS], help="programs to measure; default: all")
    add("--env", action="append", choices=("plain", "malloc"), help="environments of the peers; default: both")
    add("--micro", action="append", choices=list(micro.MEASUREMENTS), help="measurements of micro; default: all")
    add("--repeat", type=int, help="rounds; default: small 3, tiny 2, 124m 1, sweep 1 (three of ours)")
    add("--seconds", type=float, default=5.0, help="of training per throughput measurement (default 5)")
    add("--set", action="append", default=[], metavar="PATH=VALUE", help="passed to our sweep; for experiments")
    add("--pruner", default="median", help="of ours-pruned and ours-sampled (default median)")
    add("--out", type=Path, default=ROOT / "build" / "bench.jsonl", help="raw measurements (default build/bench.jsonl)")
    add("--fresh", action="store_true", help="set the file of raw measurements aside and start again")
    add("--table", action="store_true", help="print the results in --out; measure nothing")
    add("--quick", action="store_true", help="check in a minute that everything runs; the results are useless")
    options = parser.parse_args(arguments)
    if options.quick and options.out == parser.get_default("out"):
        options.out = Path(tempfile.mkdtemp(prefix="bench-quick-")) / "bench.jsonl"
    return options


# what to measure -------------------------------------------------------------------------------------------------


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """Every measurement of the options, interleaved."""
    parts = options.part or PARTS
    who = options.who or [*PEERS, *OURS]
    peers = [peer for peer in PEERS if peer in who]
    envs = options.env or (["plain"] if options.quick else ["plain", "malloc"])
    if "throughput" in parts:
        cases = options.case or (["mini"] if options.quick else ["small", "tiny", "124m"])
        entries = [(name, env) for env in envs for name in peers]
        entries += [(name, "worker") for name in ("ours", "ours-per-core") if name in who]
        for case in cases:
            rounds = options.repeat or {"small": 3, "tiny": 2}.get(case, 1)
            for number in range(rounds):
                turn = number * 3 % len(entries)
                for name, env in entries[turn:] + entries[:turn]:
                    yield Job("throughput", case, name, env, number)
    if "sweep" in parts:
        case = "short" if options.quick else "full"
        ours = [name for name in ("ours", *PRUNED) if name in who and not (options.quick and name != "ours")]
        counts = dict.fromkeys(ours, 0)
        for number in range(options.repeat or 1):
            others = [(name, env) for env in envs for name in peers]
            between = len(others) if options.quick else max(1, len(others) // 3)  # peers between two of ours
            for place, (name, env) in enumerate(others or [("", "")]):
                if place % between == 0:
                    for one in ours:
                        yield Job("sweep", case, one, "worker", counts[one])
                        counts[one] += 1
                if name:
                    yield Job("sweep", case, name, env, number)
    if "micro" in parts:
        for name in options.micro or micro.MEASUREMENTS:
            yield Job("micro", "quick" if options.quick else "full", name, "worker", 0)
    if "gpu" in parts and not options.quick and count_gpus():
        pair = [(name, env) for name, env in (("nanogpt", "plain"), ("ours", "worker")) if name in who]
        for number in range(options.repeat or 3):
            for name, env in pair[:: -1 if number % 2 else 1]:
                yield Job("gpu", "124m-1024", name, env, number)
    elif "gpu" in (options.part or ()):
        print("no GPU on this machine: skipping the part gpu")


def measure(options: argparse.Namespace) -> None:
    """Make every measurement that is not in --out yet."""
    have = {(one["part"], one["case"], one["who"], one["env"], one["round"]) for one in read(options.out)}
    todo = [job for job in jobs(options) if job.key not in have]
    about, began, lock = machine(), time.monotonic(), threading.Lock()

    def make(number: int, job: Job) -> None:
        print(f"[{number}/{len(todo)}, {time.monotonic() - began:.0f} s] {job}", flush=True)
        load = os.getloadavg()[0]
        try:
            figures = RUNNERS[job.part](job, folder, options)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"  failed: {error}", file=sys.stderr, flush=True)
            if options.quick:
                raise
            return
        line = {**vars(job), **figures, "load_before": load, "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **about}
        with lock, options.out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        prepare(folder)
        numbered = list(enumerate(todo, 1))
        if not options.quick:
            for number, job in numbered:
                make(number, job)
        else:  # results are useless anyway: run as many at once as there are cores
            with ThreadPoolExecutor(os.cpu_count()) as together:
                list(together.map(lambda pair: make(*pair), numbered))
    print(f"raw measurements: {options.out}\n")


def prepare(folder: Path) -> None:
    """Encode the corpora once: as arrays for the peers, in a cache for this harness."""
    import numpy as np

    from harness.config.run import DataConfig
    from harness.data import open_dataset

    for name, section in CORPORA.items():
        data = open_dataset(DataConfig.model_validate(section), cache=folder / "cache")
        (folder / name).mkdir()
        np.save(folder / name / "train.npy", data.train)
        np.save(folder / name / "val.npy", data.val)


def environment(env: str, folder: Path, threads: int | None = None) -> dict[str, str]:
    """This process's environment without settings of memory or threads, plus those of `env`."""
    drop = (*WORKER_ENVIRONMENT, "GLIBC_TUNABLES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MLFLOW_TRACKING_URI")
    found = {name: value for name, value in os.environ.items() if name not in drop}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    found |= {"GPT_HARNESS_CACHE": str(folder / "cache"), "PYTHONPATH": path}
    if env in ("malloc", "worker"):
        found |= WORKER_ENVIRONMENT
    if threads:
        found["OMP_NUM_THREADS"] = str(threads)
    return found


# measuring -------------------------------------------------------------------------------------------------------


def run_throughput(job: Job, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    seconds = 0.0 if options.quick else options.seconds
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if job.who in PEERS:
        command = [str(HERE / f"peer_{job.who}.py"), "throughput", job.case, "--data", str(folder / "short")]
        copies, env = 1, environment(job.env, folder)
    else:
        copies, threads = (cores, 1) if job.who == "ours-per-core" else (1, cores)
        command = [str(HERE / "ours.py"), job.case, "--threads", str(threads)]
        env = environment(job.env, folder, threads)
    return tokens_per_second([*command, "--seconds", str(seconds)], copies, env, folder)


def run_gpu(job: Job, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    if job.who in PEERS:
        command = [str(HERE / f"peer_{job.who}.py"), "throughput", job.case, "--data", str(folder / "full")]
    else:
        command = [str(HERE / "ours.py"), job.case, "--corpus", "full"]
    command += ["--device", "cuda", "--seconds", str(options.seconds)]
    return tokens_per_second(command, 1, environment(job.env, folder), folder)


def tokens_per_second(command: Sequence[str], copies: int, env: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """The total of several copies of a script that trains one trial."""
    done = run_together([sys.executable, *command], copies, env, folder)
    said = [json.loads(one.output.splitlines()[-1]) for one in done]
    return {
        "value": sum(one["tokens_per_second"] for one in said),
        "unit": "tokens/s",
        "processes": copies,
        "said": said,
        **summary(done),
    }


def run_sweep(job: Job, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    place = Path(tempfile.mkdtemp(prefix=f"{job.who}-", dir=folder))
    if job.who in PEERS:
        command = [str(HERE / f"peer_{job.who}.py"), "sweep", job.case, "--data", str(folder / job.case)]
        env = environment(job.env, folder)
    else:
        pruner = options.pruner if job.who in PRUNED else "none"
        train = SAMPLED if job.who == "ours-sampled" else {}
        (place / "bench.yaml").write_text(sweep_spec(job.case, pruner, **train), "utf-8")
        command = ["-m", "harness.sweep", "bench.yaml", *(part for one in options.set for part in ("--set", one))]
        env = environment("plain", folder)  # the command sets the environment of its workers itself
    done = run_together([sys.executable, *command], 1, env, place)
    found = {"settings": options.set} if options.set and job.who not in PEERS else {}
    said = our_losses(place) if job.who not in PEERS else json.loads(done[0].output.splitlines()[-1])
    shutil.rmtree(place)
    return {"value": done[0].wall, "unit": "s", "said": said, **found, **summary(done)}


def sweep_spec(case: str, pruner: str, **train: Any) -> str:
    """The peers' sweep as a spec; JSON is YAML. Keywords override fields of `train`."""
    plan = SWEEPS[case]
    spec = {
        "name": "bench",
        "question": "How long does this sweep take?",
        "data": CORPORA[case],
        "model": plan.shape.model,
        "train": {
            "budget": {"steps": plan.steps},
            "batch_size": plan.shape.batch_size,
            "eval_every": {"steps": plan.eval_every},
            "train_eval_tokens": plan.shape.context_length,  # the peers do not evaluate the training split
            "schedule": "constant",
            "warmup": 0.0,
            "sample": {"max_new_tokens": 0},
            "device": "cpu",
            **train,
        },
        "tune": {
            "train.learning_rate": {"choice": list(plan.learning_rates)},
            "model.drop_rate": {"choice": list(plan.drop_rates)},
        },
        "study": {"sampler": "grid", "pruner": pruner, "seeds": 0},
    }
    return json.dumps(spec, indent=1)


def our_losses(place: Path) -> dict[str, Any]:
    """Outcomes and best loss of the sweep's trials, from its store."""
    code = (
        "import json; from harness.report import load_runs; r = load_runs('bench'); "
        "counts = {k: int(v) for k, v in r['outcome'].value_counts().items()}; "
        "print(json.dumps({'outcomes': counts, 'best': float(r['val/loss'].min())}))"
    )
    env = environment("plain", place)
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True, env=env)
    return dict(json.loads(done.stdout))


def run_micro(job: Job, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    place = Path(tempfile.mkdtemp(prefix=f"{job.who}-", dir=folder))
    command = [sys.executable, str(HERE / "micro.py"), job.who, *(["--quick"] if options.quick else [])]
    done = run_together(command, 1, environment("worker", folder), place)
    shutil.rmtree(place)
    return {**json.loads(done[0].output.splitlines()[-1]), **summary(done)}


def run_together(command: Sequence[str], copies: int, env: Mapping[str, str], place: Path) -> list[Done]:
    """Run several copies of a command at once; raises RuntimeError if one fails."""
    started = []
    for _ in range(copies):
        out, err = (tempfile.TemporaryFile("w+", encoding="utf-8") for _ in range(2))  # noqa: SIM115
        process = subprocess.Popen(command, stdout=out, stderr=err, env=dict(env), cwd=place)
        started.append((process, out, err, time.perf_counter()))
    done = []
    for process, out, err, began in started:
        _, status, usage = wait(process)
        wall = time.perf_counter() - began
        for stream in (out, err):
            stream.seek(0)
        output, errors = out.read(), err.read()
        if status:
            raise RuntimeError(f"{' '.join(command)} ended with {status}:\n{output[-500:]}\n{errors[-2000:]}")
        unit = 1e6 if sys.platform == "darwin" else 1e3
        done.append(Done(output, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit))
    return done


def wait(process: subprocess.Popen[Any]) -> tuple[int, int, Any]:
    """`os.wait4` with a timeout; kills the process if it does not end."""
    deadline = time.monotonic() + TIMEOUT
    try:
        while time.monotonic() < deadline:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return pid, process.returncode, usage
            time.sleep(0.02)
        raise subprocess.TimeoutExpired(process.args, TIMEOUT)
    except BaseException:
        process.kill()
        raise


def summary(done: Sequence[Done]) -> dict[str, float]:
    return {
        "wall_seconds": max(one.wall for one in done),
        "cpu_seconds": sum(one.cpu for one in done),
        "rss_mb": max(one.rss_mb for one in done),
    }


def machine() -> dict[str, Any]:
    """The machine and the versions, recorded with each measurement."""
    from importlib.metadata import version

    git = (["rev-parse", "--short", "HEAD"], ["status", "--porcelain"])
    commit, dirty = (
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
        for words in git
    )
    return {
        "commit": commit + ("+" if dirty else ""),
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "torch": version("torch"),
        "python": platform.python_version(),
    }


RUNNERS = {"throughput": run_throughput, "sweep": run_sweep, "micro": run_micro, "gpu": run_gpu}


if __name__ == "__main__":
    sys.exit(main())
