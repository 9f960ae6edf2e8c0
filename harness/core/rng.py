"""Separate random streams from one seed, each named by its purpose.

A stream depends on the seed and its name only. So arms with the same seed share every stream that they have in common
(common random numbers), and a stream can be recreated at any step without replaying earlier ones.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *words: str | int) -> int:
    """A 63-bit seed for the stream named by `words`: the first 63 bits of SHA-256 over seed and name."""
    text = "\x1f".join([str(seed), *map(str, words)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *words: str | int) -> np.random.Generator:
    """A NumPy generator (Philox) for the stream named by `words`.

    A longer draw of normal numbers begins with the shorter one, and neither depends on the device or the number of
    threads. That is why initial weights are drawn here.
    """
    return np.random.Generator(np.random.Philox(key=derive(seed, *words)))
