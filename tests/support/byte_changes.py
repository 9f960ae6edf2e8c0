"""Change single bytes of everything that a sweep keeps on disk, and check that nothing is loaded with other content.

    python tests/support/byte_changes.py --changes 10000

A finished and an interrupted sweep are made. Then one byte of one file is changed at a time, and the file is read by
the code that reads it in the product. Allowed are: an error or warning that names the file, the same content as before,
and a cache or record that is rebuilt. MLflow's and Optuna's SQLite files are not changed here; see `mlruns/README.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch

from harness.config.run import DataConfig, RunConfig
from harness.cost.calibration import read_json, write_json
from harness.data import Dataset, open_dataset
from harness.model.weights import CheckpointError, load_checkpoint, load_tokenizer
from harness.report.text.plan import deviations
from harness.tracking import (
    TrackingError,
    load_passage,
    load_patch,
    load_positions,
    load_samples,
    load_sweep,
)
from harness.tracking.outbox.unfinished import UnfinishedRun, unfinished_runs
from harness.training.environment import Environment
from harness.training.resume import State, States
from in_process import call
from repositories import make_repository
from sandbox import Sandbox, saved, workers_of

SPEC = """\
name: tiny
question: Is anything read wrongly?
data: {corpus: sotu-1820, tokenizer: byte, vocab: corpus}
model: {context_length: 32, emb_dim: 16, n_heads: 2, n_layers: 1}
train:
  budget: {tokens: 10_240}
  batch_tokens: 256
  eval_every: {tokens: 2_560}
  train_eval_tokens: 512
  checkpoint_every: 0.1
  sample: {max_new_tokens: 8}
compare:
  model.context_length: [16, 32]
tune:
  train.learning_rate: {log_uniform: [1e-3, 1e-2]}
study: {sampler: random, trials: 1, seeds: 2}
"""
LONGER = SPEC.replace("name: tiny", "name: long").replace("10_240", "40_960_000").replace("2_560", "1_024_000")
CHANGED_PLAN: Final = ("--set", "study.delta=0.03")

# Files that the harness writes and never reads back: pages, pictures and texts for people, locks, the log.
NOT_READ: Final = ("samples.md", "spec.yaml", "*.svg", "MLmodel", "*.log", "*.lock", "*.holder", "lock", "conda.yaml")
DATABASES: Final = ("*.db", "*.db-wal", "*.db-shm", "*.db-journal")

# What reading a file gave: its content, and the warnings or errors.
Reader = Callable[[], tuple[Any, str]]


@dataclasses.dataclass
class Found:
    """What the changes led to: counts of results, the files that were changed, and the errors."""

    results: Counter[str] = dataclasses.field(default_factory=Counter)
    files: Counter[str] = dataclasses.field(default_factory=Counter)
    errors: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.results.items()))
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.files.items()))
        total = sum(self.results.values())
        last = "\n".join(["none loaded with other content"] if not self.errors else ["ERRORS:", *self.errors])
        return f"{total} changes: {counts}\n{kinds}\n{last}"


@dataclasses.dataclass(frozen=True)
class File:
    """A file, how it is read, and which contents are right.

    Attributes:
        path: of the file.
        read: reads it as the product does.
        right: the content that was stored, then others that are right where the file is named or rebuilt.
        rebuilt: whether a content that is right may replace the stored one without a message.
        accept: whether another content is right too, given the stored one.
    """

    path: Path
    read: Reader
    right: list[Any]
    rebuilt: bool = False
    accept: Callable[[Any, Any], bool] = lambda stored, found: False


def change_bytes(folder: Path, changes: int, seed: int) -> Found:
    """Make two sweeps in a folder and change their files.

    Args:
        folder: empty, or made by an earlier call.
        changes: how many, one at a time, in each file once before in any twice.
        seed: of the order of files, places and bytes.
    """
    os.environ["GPT_HARNESS_CACHE"] = str(folder / "cache")
    if not (folder / "code").exists():
        make_sweeps(folder)
    chance, found = random.Random(seed), Found()
    files = list(files_of(folder))
    unknown = {path for path in folder.rglob("*") if is_kept(path)} - {file.path for file in files}
    found.errors += [f"{path.relative_to(folder)}: this script does not know who reads it" for path in sorted(unknown)]
    order = chance.sample(files, len(files))
    for number in range(changes):
        file = order[number % len(order)]
        whole = file.path.read_bytes()
        place = chance.randrange(len(whole))
        byte = chance.choice(sorted({*range(256)} - {whole[place]}))
        if chance.random() < 0.5:  # digits, which keep JSON valid
            places = [at for at, one in enumerate(whole[:100_000]) if 48 <= one <= 57]
            if places:
                place = chance.choice(places)
                byte = chance.choice(sorted({*b"0123456789"} - {whole[place]}))
        file.path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        result = _result(file)
        file.path.write_bytes(whole)
        found.results[result] += 1
        found.files[file.path.suffix or file.path.name] += 1
        if result == "WRONG":
            name = file.path.relative_to(folder)
            found.errors.append(
                f"{name}: byte {place} changed from {whole[place]} to {byte} is loaded without an error or warning"
            )
    return found


def _result(file: File) -> str:
    """What reading a changed file led to."""
    content, said = file.read()
    if same(content, file.right[0]):
        return "equal"
    right = any(same(content, one) for one in file.right[1:]) or file.accept(file.right[0], content)
    if right and file.path.name in said:
        return "named"
    return "rebuilt" if right and file.rebuilt else "WRONG"


def same(one: Any, other: Any) -> bool:
    """Whether two contents are equal, tensors and arrays bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# The two sweeps ----------------------------------------------------------------------------------------------


def make_sweeps(folder: Path) -> None:
    """A finished sweep whose plan was changed, and one that was killed, with uncommitted code."""
    make_repository(folder / "code")
    sandbox = Sandbox(folder / "code", SPEC)
    (sandbox.folder / "a.txt").write_text("two\n")
    (sandbox.folder / "long.yaml").write_text(LONGER, "utf-8")
    for arguments in (("tiny.yaml",), ("tiny.yaml", *CHANGED_PLAN)):
        done = call(sandbox, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    work = sandbox.folder / "mlruns" / "long.work"
    with sandbox.start("long.yaml", "--workers", "2") as sweep:
        sweep.until(lambda: len([run for run in work.glob("*/*") if len(saved(run)) == 2]) == 2)
        workers = workers_of(sweep.process.pid)
        sweep.process.kill()
        sweep.process.wait()
    for worker in workers:  # they save a state
        with contextlib.suppress(Exception):
            worker.wait(60)


def is_kept(path: Path) -> bool:
    """Whether the harness reads a file back, apart from databases."""
    others = (*NOT_READ, *DATABASES, "*.yaml", "*.txt", "models/*/*/token_losses.json")
    parts = {"reports", "report", ".git"}
    return path.is_file() and not parts & set(path.parts) and not any(path.match(one) for one in others)


# Who reads which file ----------------------------------------------------------------------------------------


def files_of(folder: Path) -> Iterator[File]:
    """Every file that the harness reads back."""
    sandbox = Sandbox(folder / "code", SPEC, store=False)
    yield from _caches(folder / "cache")
    yield from _artifacts(sandbox)
    for work in sorted((sandbox.folder / "mlruns" / "long.work").iterdir()):
        runs = {run.key: run for run in unfinished_runs(work)}
        assert len(runs) == 2, runs
        for key, run in runs.items():
            yield File(work / key / "journal.jsonl", lambda w=work, k=key: (_run(w, k), ""), [run], True, _is_beginning)  # type: ignore[misc]
            yield from _states(work / key / "state", run.info.config)


def _caches(cache: Path) -> Iterator[File]:
    if not read_json(cache / "speeds.json"):  # which `--plan` measures in ten seconds
        write_json(cache / "speeds.json", {"0123456789abcdef01234567": {"step_seconds": 0.25, "eval_tokens": 100}})
    for path in sorted(cache.glob("*.json")):
        yield File(path, lambda path=path: (read_json(path), ""), [read_json(path), {}], rebuilt=True)  # type: ignore[misc]
    config = RunConfig.model_validate({"data": _data(), "train": {"budget": {"steps": 1}, "batch_size": 1}}).data

    def tokens() -> tuple[Any, str]:
        data = open_dataset(config, cache=cache)
        arrays = [data.train, data.val, data.test, data.token_bytes, data.vocabulary]
        return [*(torch.from_numpy(one.astype("int64")) for one in arrays), dict(data.bytes)], ""  # type: ignore[union-attr]

    for path in sorted(path for path in (cache / "tokens").rglob("*") if path.is_file()):
        yield File(path, tokens, [tokens()[0]])


def _data() -> dict[str, Any]:
    return {"corpus": "sotu-1820", "tokenizer": "byte", "vocab": "corpus"}


def _artifacts(sandbox: Sandbox) -> Iterator[File]:
    uri = sandbox.uri
    for path in sorted((sandbox.folder / "mlruns" / "artifacts").rglob("*")):
        if not is_kept(path):
            continue
        run_id = path.relative_to(sandbox.folder / "mlruns" / "artifacts").parts[0]
        if path.name in ("model.safetensors", "checkpoint.json"):
            yield _file(path, functools.partial(_checkpoint, path.parent), [None])
        elif path.name == "samples.json":
            yield _file(path, functools.partial(_said, load_samples, run_id, uri), [[]])
        elif path.name == "token_losses.json":
            yield _file(path, functools.partial(_said, load_passage, run_id, uri), [[]])
        elif path.name == "dirty.patch":
            yield _file(path, functools.partial(_said, load_patch, run_id, uri), [""])
        elif path.name == "val_loss_by_position.json":
            positions = functools.partial(_said, _positions, run_id, uri)
            yield _file(path, positions, [[]])
        elif path.name in ("sweep.json", "analysis_plan.json", "analysis_plan_changes.json"):
            yield _file(path, functools.partial(_sweep, run_id, uri), [None])


def _file(path: Path, read: Reader, others: list[Any]) -> File:
    content, said = read()
    assert not said and content, (path, said)
    return File(path, read, [content, *others])


def _positions(run_id: str, uri: str) -> list[float]:
    frame = load_positions("tiny", uri)
    return list(frame.loc[frame["run_id"] == run_id, "loss"])


def _sweep(run_id: str, uri: str) -> tuple[Any, str]:
    """A sweep's description without its first plan where the report says that this one is not the first."""
    name = "tiny"
    try:
        try:
            record = load_sweep(name, uri, run_id)
        except TrackingError as error:
            if "found no sweep" not in str(error):
                raise
            name = "long"
            record = load_sweep(name, uri, run_id)
    except TrackingError as error:
        return None, str(error)
    if any("The SHA-256 of the stored analysis plan" in one for one in deviations(record)):
        return None, "analysis_plan.json: the report says that it is not the plan stored before the first run"
    return {**vars(record), "status": "", "outcome": ""}, ""


def _checkpoint(folder: Path) -> tuple[Any, str]:
    try:
        model, config = load_checkpoint(folder)
        vocabulary = load_tokenizer(folder).decode(range(load_tokenizer(folder).n_vocab))
    except CheckpointError as error:
        return None, str(error)
    return [dict(model.state_dict()), config.resolved(), vocabulary], ""


class _Listener(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def _said(load: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a function returns, and what it logs."""
    listener, logger = _Listener(), logging.getLogger("harness")
    logger.addHandler(listener)
    try:
        return load(*arguments), "\n".join(listener.said)
    finally:
        logger.removeHandler(listener)


def _run(work: Path, key: str) -> UnfinishedRun | None:
    return next((run for run in unfinished_runs(work) if run.key == key), None)


def _is_beginning(stored: Any, found: Any) -> bool:
    """Whether a run lacks only its last points, which are measured again, or is lost as a whole."""
    if found is None:
        return True
    fewer = dataclasses.replace(stored, points=stored.points[: len(found.points)], outcome=None, reason="")
    return bool(found == fewer)


def _states(folder: Path, config: RunConfig) -> Iterator[File]:
    data = _dataset(config.data)
    resolved = data.resolve(config)
    states = States(folder, resolved, data, Environment.here(torch.device("cpu"), "fp32"))

    def newest() -> tuple[Any, str]:
        found, warning = states.load_newest(lambda _: True)
        return _content(found), warning

    stored = [_content(states._read(number)[0]) for number in sorted(states._numbers(), reverse=True)]
    assert len(stored) == 2 and same(newest()[0], stored[0])
    for path in sorted(path for path in folder.iterdir() if is_kept(path)):
        yield File(path, newest, [*stored, None])


@functools.cache
def _dataset(config: DataConfig) -> Dataset:
    return open_dataset(config)


def _content(state: State | None) -> Any:
    return None if state is None else [state.step, dict(state.tensors), state.clock, state.pending, state.points]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the sweeps there, for the next time")
    options = parser.parse_args()
    logging.getLogger("harness").addHandler(logging.NullHandler())
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        found = change_bytes(options.folder or Path(temporary), options.changes, options.seed)
    print(found)
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(bool(found.errors))


if __name__ == "__main__":
    main()
