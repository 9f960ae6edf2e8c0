"""Large token files: the windows are those of a memory map bit for bit, and a process that reads them does not grow."""

from __future__ import annotations

import os
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core import unchanged
from harness.data import CorpusError, open_dataset
from harness.data.batches import training_batches
from harness.data.stored_ids import StoredIds, Tokens
from helpers import numbers, run, small_config

MEGABYTE = 1 << 20


def stored(folder: Path, tokens: int) -> tuple[StoredIds, np.memmap]:
    """A file of ids that differ from place to place, ready to be read, and its memory map."""
    file = folder / "ids.npy"
    np.save(file, np.resize(np.arange(65_521, dtype=np.uint16), tokens))
    mapped = np.load(file, mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    return StoredIds(file, mapped), mapped


def mapped_bytes() -> int:
    """Memory of this process that is mapped from files."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredIds, np.memmap]:
    return stored(tmp_path_factory.mktemp("hundred"), 100)


@settings(deadline=None)
@given(first=st.integers(-150, 150) | st.none(), last=st.integers(-150, 150) | st.none())
def test_slices_are_those_of_the_array(
    hundred: tuple[StoredIds, np.memmap], first: int | None, last: int | None
) -> None:
    ids, mapped = hundred
    np.testing.assert_array_equal(ids[first:last], mapped[first:last], strict=True)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_windows_are_those_of_a_map_without_its_memory(tmp_path: Path) -> None:
    ids, mapped = stored(tmp_path, 36 * MEGABYTE)  # 72 MB

    def read(tokens: Tokens) -> tuple[list[torch.Tensor], int]:
        before = mapped_bytes()
        found = [inputs for inputs, _ in islice(training_batches(tokens, 64, 100, seed=1), 40)]
        return found, mapped_bytes() - before

    read(np.arange(1000))  # the code itself is mapped when it first runs
    windows, grown = read(ids)
    expected, grown_by_map = read(mapped)
    assert all(map(torch.equal, windows, expected))
    assert grown < 2 * MEGABYTE < 8 * MEGABYTE < grown_by_map  # a page of 4 kB at least for most of 4,000 windows


def test_a_run_on_large_files_has_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(eval_every={"steps": 3})
    expected = numbers(run(config, open_dataset(config.data)))
    monkeypatch.setattr(unchanged, "LARGE", 0)
    data = open_dataset(config.data)
    assert all(isinstance(data.reader(split), StoredIds) for split in ("train", "val", "test"))
    assert numbers(run(config, data)) == expected


def test_a_file_that_was_cut_short_is_named(tmp_path: Path) -> None:
    ids, _ = stored(tmp_path, 10_000)
    os.truncate(ids.path, 128 + 2 * 100 + 1)
    assert len(ids[:100]) == 100
    with pytest.raises(CorpusError, match=r"found fewer tokens than before in .*ids\.npy"):
        ids[:101]


def test_files_are_closed_with_their_reader(tmp_path: Path) -> None:
    def held() -> list[str]:
        links = [link for link in Path("/dev/fd").iterdir() if link.is_symlink()]
        return [target for link in links if (target := os.path.realpath(link)).endswith("ids.npy")]

    ids, mapped = stored(tmp_path, 10)
    before = len(held())
    del ids
    assert len(held()) == before - 1 and len(mapped) == 10
