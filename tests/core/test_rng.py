"""Random streams: the same on every machine, independent of each other, and longer draws begin with shorter ones."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.rng import derive, stream
from paths import ROOT

words = st.lists(st.one_of(st.integers(), st.text("abz./", max_size=4)), max_size=3)


def test_derive_is_the_first_63_bits_of_a_sha256() -> None:
    digest = hashlib.sha256(b"7\x1finit\x1ftok_emb.weight").hexdigest()
    assert derive(7, "init", "tok_emb.weight") == int(digest[:16], 16) // 2


@given(st.integers(0, 2**63 - 1), words)
def test_derived_seeds_fit_every_generator(seed: int, name: list[str | int]) -> None:
    assert 0 <= derive(seed, *name) < 2**63


def test_different_names_give_different_seeds() -> None:
    names = [("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"), (1, 2), (12,), ()]
    assert len({derive(seed, *name) for seed in (0, 1, 2) for name in names}) == 3 * len(names)


def test_a_stream_is_the_same_in_another_process() -> None:
    code = "from harness.core.rng import stream; print(stream(3, 'data', 0).permutation(20).tolist())"
    there = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert there.strip() == str(stream(3, "data", 0).permutation(20).tolist())


@pytest.mark.parametrize(("short", "long"), [(1, 2), (7, 8), (5, 1001), (64 * 16, 128 * 16)])
def test_a_longer_draw_begins_with_a_shorter_one(short: int, long: int) -> None:
    first = stream(1, "init", "pos_emb.weight").standard_normal(short, dtype=np.float32)
    second = stream(1, "init", "pos_emb.weight").standard_normal(long, dtype=np.float32)
    assert first.tobytes() == second[:short].tobytes()


def test_streams_are_standard_normal_and_uncorrelated() -> None:
    # Mean, variance and correlation of n independent normals have standard errors 1/√n, √(2/n) and 1/√n; a
    # deviation of five of them happens for one of about two million seeds, and the seed is fixed.
    size = 100_000
    one, two, other = (stream(*name).standard_normal(size) for name in [(1, "a"), (1, "b"), (2, "a")])
    assert abs(one.mean()) < 5 / math.sqrt(size)
    assert abs(one.var() - 1) < 5 * math.sqrt(2 / size)
    for unrelated in (two, other):
        assert abs(np.corrcoef(one, unrelated)[0, 1]) < 5 / math.sqrt(size)
