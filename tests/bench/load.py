"""Measure how many points one parent process takes: workers that do not train, but speak the protocol of a pool.

    python tests/bench/load.py --workers 1000 --rate 2 --seconds 120

All workers are in the parent's process. Each sends points at a fixed rate, with the metrics of a real run, and a text
sample at its end. Everything else is the sweep command itself, on databases of a PostgreSQL server of its own. The CPU
time is the parent's, without the server's; the lag of a point is the time until the controller has handled it.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests" / "bench")]

from stored_sweep import curve  # noqa: E402

from harness.core.metrics import Point  # noqa: E402
from harness.core.outcomes import Outcome  # noqa: E402
from harness.workers.messages import Event, Finished, Job, Progress, Started  # noqa: E402

SPEC = """\
name: load
question: How many points does one parent take?
data: {corpus: sotu-1820, tokenizer: byte}
model: {context_length: 32, emb_dim: 32, n_heads: 2, n_layers: 1}
train: {budget: {tokens: 6_144}, batch_tokens: 256}
compare:
  model.drop_rate: [0.0, 0.2]
tune:
  train.learning_rate: {log_uniform: [1e-3, 1e-2]}
"""


@dataclass
class Load:
    """What a sweep under load took.

    Attributes:
        points, runs: handled by the controller.
        lags: seconds of each point.
        seconds: from the first point to the last.
        loop, training: CPU seconds of the controller's thread, and of the whole process, meanwhile.
        cpu: CPU seconds of the process until everything was stored.
        memory: largest resident size in MiB.
    """

    points: int = 0
    runs: int = 0
    lags: Sequence[float] = ()
    seconds: float = 0.0
    loop: float = 0.0
    training: float = 0.0
    cpu: float = 0.0
    memory: float = 0.0

    def __str__(self) -> str:
        late = statistics.quantiles(self.lags, n=100)[98]
        training, loop, cpu = (1000 * seconds / self.points for seconds in (self.training, self.loop, self.cpu))
        return (
            f"{self.points} points of {self.runs} runs in {self.seconds:.0f} s ({self.points / self.seconds:.0f}/s); "
            f"lag {statistics.median(self.lags):.2f} s, 99 % below {late:.1f} s; CPU seconds per 1,000 points: "
            f"{training:.2f} while runs train, of which the controller {loop:.2f}; {cpu:.2f} until all is stored; "
            f"{self.memory:.0f} MiB"
        )


class PacedPool:
    """A `WorkerPool` whose workers send the points of a curve on time.

    Args:
        workers: how many.
        rate: points a second of each.
        points: of a run.
    """

    def __init__(self, workers: int, rate: float, points: int) -> None:
        self.size, self.rate, self.lags = workers, rate, list[float]()
        self.first = self.last = self.cpu_at_first = self.cpu_at_last = self.loop_at_first = self.loop_at_last = 0.0
        self._curve = list(curve(points, points // 5))
        self._curve[-1] = replace(self._curve[-1], sample="The union of the states " * 10)
        self._due: list[tuple[float, int, int]] = []  # a heap: when a job sends its next point, the job, the point
        self._jobs: set[int] = set()
        self._now: list[Event] = []
        self._handed: list[float] = []  # when the points of the last call were due

    def __enter__(self) -> PacedPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def free(self) -> int:
        return self.size - len(self._jobs)

    def prestart(self, jobs: int) -> None:
        pass

    def submit(self, job: Job) -> None:
        self._jobs.add(job.id)
        self._now.append(Started(job.id, "no device"))
        heapq.heappush(self._due, (time.monotonic() + (job.id % 100) / 100 / self.rate, job.id, 0))

    def stop(self, job: int) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
            self._now.append(Finished(job, Outcome.INTERRUPTED))

    def events(self, timeout: float) -> list[Event]:
        self._count_handled()
        if not self._now:
            due = self._due[0][0] - time.monotonic() if self._due else timeout
            time.sleep(min(timeout, max(0.0, due)))
        now, found, self._now = time.monotonic(), self._now, []
        while self._due and self._due[0][0] <= now:
            at, job, number = heapq.heappop(self._due)
            if job not in self._jobs:
                continue
            found.append(Progress(job, self._point(number)))
            self._handed.append(at)
            if number + 1 < len(self._curve):
                heapq.heappush(self._due, (at + 1 / self.rate, job, number + 1))
            else:
                self._jobs.remove(job)
                found.append(Finished(job, Outcome.COMPLETE))
        return found

    def remove_states(self, run: str) -> None:
        pass

    def close(self) -> None:
        self._count_handled()
        self._jobs.clear()

    def _point(self, number: int) -> Point:
        return self._curve[number]

    def _count_handled(self) -> None:
        """Count the points of the last call, which the controller has handled by now."""
        if self._handed:
            clocks = _clocks()
            if not self.lags:
                self.first, self.cpu_at_first, self.loop_at_first = clocks
            self.lags += [clocks[0] - at for at in self._handed]
            self.last, self.cpu_at_last, self.loop_at_last = clocks
            self._handed.clear()


def _clocks() -> tuple[float, float, float]:
    """Seconds by the clock, of the process's CPU time and of this thread's."""
    return time.monotonic(), time.process_time(), time.thread_time()


def measure(folder: Path, workers: int, rate: float, seconds: float, environment: dict[str, str]) -> Load:
    """Run one sweep of as many runs as workers in `folder`; the environment names its databases."""
    import harness.runner.session as session
    from harness.report.figures import registry
    from harness.sweep import app

    pool = PacedPool(workers, rate, max(10, round(seconds * rate)))
    (folder / "load.yaml").write_text(SPEC + f"study: {{sampler: random, trials: {workers // 2}, seeds: 2}}\n", "utf-8")
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            stack.callback(signal.signal, number, signal.getsignal(number))
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(mock.patch.dict(os.environ, environment))
        stack.enter_context(mock.patch.object(session, "LocalPool", lambda *_: pool))
        stack.enter_context(mock.patch.multiple(registry, FIGURES={}, AXES=()))
        stack.enter_context(mock.patch.object(sys, "argv", ["harness.sweep", "load.yaml", "--quiet"]))
        stack.enter_context(mock.patch.object(session, "write_and_show_report", lambda *_: []))
        stored = stack.enter_context(_cpu_when_stored(session))
        code = app(["load.yaml", "--quiet"], standalone_mode=False)
    assert not code, code
    return Load(
        points=len(pool.lags),
        runs=workers + 4,
        lags=pool.lags,
        seconds=pool.last - pool.first,
        loop=pool.loop_at_last - pool.loop_at_first,
        training=pool.cpu_at_last - pool.cpu_at_first,
        cpu=stored[0] - pool.cpu_at_first,
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


@contextlib.contextmanager
def _cpu_when_stored(session: Any) -> Iterator[list[float]]:
    """A list that gets the process's CPU time when MLflow has stored everything."""
    wait, found = session.wait_for_store, list[float]()

    def waited(*arguments: Any, **options: Any) -> bool:
        done = bool(wait(*arguments, **options))
        found.append(time.process_time())
        return done

    with mock.patch.object(session, "wait_for_store", waited):
        yield found


def main() -> None:
    """The command."""
    from postgres import running

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=2.0, help="points a second of each worker")
    parser.add_argument("--seconds", type=float, default=120.0, help="of a run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running() as server:
        stores = server.stores()
        print(measure(Path(folder), options.workers, options.rate, options.seconds, stores.environment))


if __name__ == "__main__":
    main()
