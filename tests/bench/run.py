"""Measure this harness and what people would use instead, on the same work, in turn, on this machine.

    python tests/bench/run.py --part throughput     # about 8 minutes on 2 quiet cores
    python tests/bench/run.py --part sweep          # about 20 minutes
    python tests/bench/run.py --part micro          # about 3 minutes
    python tests/bench/run.py --part gpu            # about 5 minutes on a machine with a GPU
    python tests/bench/run.py --part throughput --case small --who book --who ours --repeat 5
    python tests/bench/run.py --part sweep --env plain --who book --who ours --who ours-pruned
    python tests/bench/run.py --table               # only print what --out holds

Parts: `throughput` (tokens a second of one trial's training steps), `sweep` (the wall time of a whole sweep of six
trials, from the command to its end), `micro` (this harness alone: shares of tracking and checkpoints, start-up,
report, memory) and `gpu` (the 124M preset against nanoGPT's compiled step, where there is a GPU). Every measurement is
a fresh process. Peers run twice: `plain`, as their users run them, and `malloc`, with the memory settings that our
workers are started with. AdaptiveSeeds are interleaved, and each starts with another one.

Each measurement is appended to --out as a line of JSON as soon as it is made. What is there already is not measured
again, so an interrupted command goes on where it was; --fresh sets the file aside and begins anew. Times from a machine
that does other work at the same time mean nothing: the load is recorded beside each measurement, and the table warns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
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
from workload import CORPORA, SHAPES, SWEEPS  # noqa: E402

from harness.core.hardware import count_gpus, processor_name  # noqa: E402
from harness.workers.pool import WORKER_ENVIRONMENT  # noqa: E402

PARTS = ("throughput", "sweep", "micro", "gpu")
PEERS = ("book", "hf", "nanogpt")
PRUNED = ("ours-pruned", "ours-sampled")
OURS = ("ours", "ours-per-core", *PRUNED)
# What `ours-sampled` adds to pruning: curves, and so the pruner, go by a fixed sample of the validation split and come
# twice as often; whole trials score the whole split at their ends all the same.
SAMPLED = {"eval_every": {"steps": 10}, "eval_tokens": 1024}
# The factors to reach (issue 5), by part, case, peer and environment; "*" is any peer or case.
TARGETS = {
    ("throughput", "small", "book", "plain"): 1.6,
    ("throughput", "small", "nanogpt", "plain"): 1.35,
    ("throughput", "124m", "book", "plain"): 1.4,
    ("gpu", "124m-1024", "nanogpt", "plain"): 1.0,
    ("sweep", "full", "*", "plain", "ours"): 3.0,
    ("sweep", "full", "*", "malloc", "ours"): 1.6,
    **{("sweep", "full", "*", "plain", who): 5.0 for who in PRUNED},
    **{("sweep", "full", "*", "malloc", who): 2.5 for who in PRUNED},
}
TIMEOUT = 1800.0


@dataclass(frozen=True)
class Job:
    """One measurement that can be made."""

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
    """How a process ended: its output, wall and CPU seconds, and the memory of its largest process."""

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
    add("--part", action="append", choices=PARTS, help="may be repeated; default: all")
    add("--case", action="append", choices=list(SHAPES), help="shapes of throughput; default: small, tiny, 124m")
    add("--who", action="append", choices=[*PEERS, *OURS], help="whom to measure; default: all")
    add("--env", action="append", choices=("plain", "malloc"), help="settings of the peers; default: both")
    add("--micro", action="append", choices=list(micro.MEASUREMENTS), help="single figures of micro; default: all")
    add("--repeat", type=int, help="rounds; default: small 3, tiny 2, 124m 1, sweep 1 (with ours in it three times)")
    add("--seconds", type=float, default=5.0, help="of training in one throughput measurement (default 5)")
    add("--set", action="append", default=[], metavar="PATH=VALUE", help="passed on to our sweep; for experiments")
    add("--pruner", default="median", help="of ours-pruned and ours-sampled (default median)")
    add("--out", type=Path, default=ROOT / "build" / "bench.jsonl", help="raw measurements (default build/bench.jsonl)")
    add("--fresh", action="store_true", help="set the file of raw measurements aside and begin anew")
    add("--table", action="store_true", help="measure nothing")
    add("--quick", action="store_true", help="a minute's proof that everything runs; its figures mean nothing")
    options = parser.parse_args(arguments)
    if options.quick and options.out == parser.get_default("out"):
        options.out = Path(tempfile.mkdtemp(prefix="bench-quick-")) / "bench.jsonl"
    return options


# what to measure -------------------------------------------------------------------------------------------------


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """Every measurement that is wanted, interleaved."""
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
            between = len(others) if options.quick else max(1, len(others) // 3)  # of the peers', and then ours again
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
        print("no GPU here, so nothing is known of one")


def measure(options: argparse.Namespace) -> None:
    """Make every measurement that --out does not hold yet."""
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
        else:  # where figures mean nothing, as many at once as there are cores
            with ThreadPoolExecutor(os.cpu_count()) as together:
                list(together.map(lambda pair: make(*pair), numbered))
    print(f"raw measurements: {options.out}\n")


def prepare(folder: Path) -> None:
    """Encode the corpora once, for the peers as arrays, for us in a cache of our own."""
    import numpy as np

    from harness.config.run import DataConfig
    from harness.data import open_dataset

    for name, section in CORPORA.items():
        data = open_dataset(DataConfig.model_validate(section), cache=folder / "cache")
        (folder / name).mkdir()
        np.save(folder / name / "train.npy", data.train)
        np.save(folder / name / "val.npy", data.val)


def environment(env: str, folder: Path, threads: int | None = None) -> dict[str, str]:
    """This process's environment without what would settle memory or threads, then what `env` means."""
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
    """What so many copies of a script that trains one trial do together."""
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
        env = environment("plain", folder)  # the command sets its workers' environment by itself
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
            "train_eval_tokens": plan.shape.context_length,  # the peers score no part of the training split
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
    """What the sweep's own store says of its trials."""
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
    """Run so many copies of a command at once; raises RuntimeError where one fails."""
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
    """`os.wait4` that gives up after a while, and never leaves the process behind."""
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
    """Where and with what: recorded beside each measurement."""
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


# showing ---------------------------------------------------------------------------------------------------------


def read(path: Path) -> list[dict[str, Any]]:
    """The measurements in a file; a torn last line is left out."""
    found = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def show(measured: Sequence[Mapping[str, Any]]) -> None:
    """Print medians, ratios and targets."""
    if not measured:
        print("nothing measured yet")
        return
    for about in sorted(
        {f"{m['cpu']}, {m['cores']} cores, torch {m['torch']}, commit {m['commit']}" for m in measured}
    ):
        print(about)
    # Measuring itself leaves a load of about one a core behind.
    busy = sum(m["load_before"] > 1.5 * (m["cores"] or 1) for m in measured)
    if busy:
        print(f"warning: {busy} of {len(measured)} measurements began while the machine was busy with other work")
    for part in ("throughput", "sweep", "gpu"):
        for case in dict.fromkeys(m["case"] for m in measured if m["part"] == part):
            show_case(part, case, [m for m in measured if m["part"] == part and m["case"] == case])
    if figures := [m for m in measured if m["part"] == "micro"]:
        print(f"\n{'micro':<32} {'figure':>12} {'limit':>12}")
        for m in figures:
            limit = f"{m['limit']:g} {m['unit']}" if m["limit"] is not None else ""
            verdict = "" if m["limit"] is None else ("ok" if m["value"] <= m["limit"] else "MISSED")
            print(f"{m['who']:<32} {m['value']:>10.3g} {m['unit']:<3} {limit:>10}  {verdict:<7} {m.get('note', '')}")


def show_case(part: str, case: str, measured: Sequence[Mapping[str, Any]]) -> None:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for m in measured:
        groups.setdefault((m["who"], m["env"]), []).append(m)
    median = {key: statistics.median(m["value"] for m in group) for key, group in groups.items()}
    ours = [key for key in groups if key[0] in OURS]
    unit = measured[0]["unit"]
    print(f"\n{part} {case}: {'less is better' if part == 'sweep' else 'more is better'}, {unit}")
    heading = f"{'who':<14} {'settings':<9} {'runs':>4} {'median':>9} {'range':>17} {'CPU s':>8} {'RSS MB':>7}"
    print(heading + "".join(f" {'× ' + name:>24}" for name, _ in ours))
    for key, group in groups.items():
        values = [m["value"] for m in group]
        spread = f"{min(values):.4g}–{max(values):.4g}"
        cpu, rss = (statistics.median(m[name] for m in group) for name in ("cpu_seconds", "rss_mb"))
        line = f"{key[0]:<14} {key[1]:<9} {len(group):>4} {median[key]:>9.4g} {spread:>17} {cpu:>8.1f} {rss:>7.0f}"
        if key[0] in PEERS:
            for mine in ours:
                ratio = median[key] / median[mine] if part == "sweep" else median[mine] / median[key]
                line += f" {judged(ratio, part, case, key, mine[0]):>24}"
        print(line)


def judged(ratio: float, part: str, case: str, peer: tuple[str, str], ours: str) -> str:
    """`1.72 (≥ 1.6 ok)`: a factor, and the one to reach where there is one."""
    who, env = peer
    target = TARGETS.get((part, case, who, env)) if ours == "ours" else None
    target = target or TARGETS.get((part, case, "*", env, ours))
    if target is None:
        return f"{ratio:.2f}"
    return f"{ratio:.2f} (≥ {target:g} {'ok' if ratio >= target else 'MISSED'})"


if __name__ == "__main__":
    sys.exit(main())
