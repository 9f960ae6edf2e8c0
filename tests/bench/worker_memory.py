"""The memory of a training process with a short text and with a large one, whose token file is larger than all else.

    python tests/bench/worker_memory.py --mb 2 2000

For each size, token ids are drawn and opened as a data set without any text: 0.22 tokens for each byte of text, about
what GPT-2's vocabulary needs. Then a new process opens it as workers do, trains on 4,000 windows of 256 tokens, and
evaluates the whole validation split before and after. The model is tiny, so that most of the memory is the text's. Each
line gives the process's largest resident memory, and how much of it was mapped from files at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

MEGABYTE: Final = 1_000_000
_TOKENS_A_BYTE: Final = 0.22
_CHUNK: Final = 1 << 20  # tokens

_TRAIN: Final = """
import json, resource, sys
from pathlib import Path
from harness.config.run import RunConfig
from harness.data import open_dataset
import torch
from harness.training.trainer import train
torch.set_num_threads(1)
config = RunConfig.model_validate_json(sys.argv[1])
data = open_dataset(config.data, cache=Path(sys.argv[2]), compare=json.loads(sys.argv[3]))
if not json.loads(sys.argv[3]):
    for point in train(config, data):
        assert point.metrics
    mapped = next(line for line in open("/proc/self/status") if line.startswith("RssFile"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, int(mapped.split()[1]) * 1024)
"""


def main() -> None:
    """Measure each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, nargs="+", default=[2.0, 2000.0], help="sizes of the text in megabytes")
    parser.add_argument("--windows", type=int, default=4000)
    options = parser.parse_args()
    print(f"{'text MB':>8}{'tokens':>14}{'peak MB':>10}{'mapped MB':>11}")
    for size in options.mb:
        tokens = int(size * MEGABYTE * _TOKENS_A_BYTE)
        peak, mapped = (number / MEGABYTE for number in measure(tokens, options.windows))
        print(f"{size:>8g}{tokens:>14,}{peak:>10.0f}{mapped:>11.0f}", flush=True)


def measure(tokens: int, windows: int) -> tuple[int, int]:
    """Largest resident memory of a training process, and what it had mapped from files at the end, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        file, cache = Path(folder, "tokens.bin"), Path(folder, "cache")
        write_ids(file, tokens)
        train = {
            "budget": {"steps": windows // 8},
            "batch_size": 8,
            "device": "cpu",
            "compile": False,
            "sample": {"max_new_tokens": 0},
        }
        config = {
            "data": {"path": [str(file)], "tokenizer": "byte", "split": {"val": 0.02, "test": 0}},
            "model": {"context_length": 256, "emb_dim": 8, "n_layers": 1, "n_heads": 1},
            "train": {**train, "eval_every": {"steps": windows}},
        }
        for compare in ("true", "false"):  # the parent, then the worker
            command = [sys.executable, "-c", _TRAIN, json.dumps(config), str(cache), compare]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        peak, mapped = map(int, output.split())
        return peak, mapped


def write_ids(file: Path, tokens: int) -> None:
    """Write random ids of the tokenizer `byte`, two bytes each."""
    import numpy as np

    random = np.random.default_rng(0)
    with file.open("wb") as stream:
        for start in range(0, tokens, _CHUNK):
            stream.write(random.integers(256, size=min(_CHUNK, tokens - start), dtype=np.uint16).tobytes())


if __name__ == "__main__":
    main()
