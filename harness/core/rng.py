"""Separate random streams from one seed, each named by what it is for.

A stream depends on the seed and on its name only, so arms that share a seed share every stream that they have in
common, whatever else differs between them (common random numbers), and a stream can be had again at any step
without replaying what came before.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *words: str | int) -> int:
    """A 63-bit seed for the stream named by `words`: the head of SHA-256 over seed and name."""
    text = "\x1f".join([str(seed), *map(str, words)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *words: str | int) -> np.random.Generator:
    """A NumPy generator (Philox) for the stream named by `words`.

    Its normal numbers are drawn one after the other, so a longer draw begins with a shorter one. That, and not
    depending on a device or a thread count, is why initial weights come from here.
    """
    return np.random.Generator(np.random.Philox(key=derive(seed, *words)))
