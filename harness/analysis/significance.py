"""Tests of paired differences: how often seeds alone would give what was seen, and what several looks cost.

Each p-value is two-sided and asks about one arm: is the mean of its differences to the baseline zero? The t test is
the one that decides; the sign-flip test assumes far less and serves as its check.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr  # Student's t distribution, without the second that importing scipy.stats takes

ALPHA = 0.05  # the share of sweeps without any true difference in which some arm may be called better or worse
EXACT_UP_TO = 16  # pairs, whose 2^15 distinct flips are enumerated
RANDOM_FLIPS = 65_535  # above that; with the observed signs themselves, p is a multiple of 1/65,536


def paired_t_p(differences: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """p of Student's paired t test: 2·P(T(n−1) > |mean|·√n / s), along the last axis.

    Args:
        differences: shape (…, n), arm minus baseline, one per seed.

    Returns:
        Shape (…). NaN for n < 2. Without any spread, the limit: 1 where all differences are 0, else 0.
    """
    data = np.asarray(differences, dtype=np.float64)
    n = data.shape[-1]
    if n < 2:
        return np.full(data.shape[:-1], math.nan)
    mean, spread = data.mean(axis=-1), data.std(axis=-1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(mean == 0, 0.0, np.abs(mean) * math.sqrt(n) / spread)
    return np.asarray(2 * stdtr(n - 1, -t))


def sign_flip_p(differences: npt.ArrayLike) -> float:
    """p of the sign-flip test: the share of all 2ⁿ sign patterns whose mean is at least as far from 0 as the one seen.

    It holds for any noise that is symmetric about 0 (Fisher 1935, The Design of Experiments). Exact up to
    `EXACT_UP_TO` pairs; above, (1 + hits) / (1 + draws) over `RANDOM_FLIPS` drawn patterns, always the same ones
    (Phipson and Smyth 2010).

    Args:
        differences: shape (n,), arm minus baseline, one per seed. NaN is returned for n < 2.
    """
    data = np.asarray(differences, dtype=np.float64)
    n = data.size
    if n < 2:
        return math.nan
    # Patterns that add up to the same may differ in the last bits, by the order of their sums.
    threshold = abs(data.sum()) - 1e-12 * np.abs(data).sum()
    if n <= EXACT_UP_TO:
        # A pattern and its opposite lie equally far from 0, so the first sign may be held fixed.
        flipped = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1)) & 1
        sums = data.sum() - 2 * (flipped @ data[1:])
        return float(np.mean(np.abs(sums) >= threshold))
    flipped = np.random.default_rng(0).integers(0, 2, (RANDOM_FLIPS, n), dtype=np.int8)
    sums = data.sum() - 2 * (flipped @ data)
    return float((1 + np.count_nonzero(np.abs(sums) >= threshold)) / (1 + RANDOM_FLIPS))


def sign_flip_seeds(comparisons: int, alpha: float = ALPHA) -> int:
    """The fewest pairs with which the sign-flip test can reach α in one of several comparisons: 1 + log2(m/α).

    Its smallest p is 2/2ⁿ, which Holm first multiplies by m.
    """
    return math.ceil(1 + math.log2(comparisons / alpha))


def holm(p: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Holm's adjusted p-values: the i-th smallest becomes max over j ≤ i of min(1, (m − j + 1)·p(j)), on the last axis.

    An arm is called different where its adjusted p is at most α; the chance that any of these calls is wrong is then
    at most α, however the tests depend on each other (Holm 1979).

    Args:
        p: shape (…, m). NaN, a comparison that could not be made, counts towards m and stays NaN: a verdict on the
            other arms must not change when its runs come in.
    """
    raw = np.asarray(p, dtype=np.float64)
    m = raw.shape[-1]
    known = np.where(np.isnan(raw), 1.0, raw)
    order = np.argsort(known, axis=-1, kind="stable")
    scaled = np.take_along_axis(known, order, axis=-1) * np.arange(m, 0, -1)
    adjusted = np.empty_like(known)
    np.put_along_axis(adjusted, order, np.minimum(1, np.maximum.accumulate(scaled, axis=-1)), axis=-1)
    return np.where(np.isnan(raw), math.nan, adjusted)


def look_levels(looks: Sequence[int], alpha: float = ALPHA) -> tuple[float, ...]:
    """The level of the tests at each look at the data: α_k = α · (n_k − n_{k−1}) / n_K, so that they add up to α.

    Every seed brings its share of α, and what was spent at one look is gone at the next: a spending function after
    Lan and DeMets 1983, the one of Kim and DeMets 1987 with ρ = 1. Each level is used as it is, without the boundary
    that normal statistics would allow, so the sum bounds the error however the looks depend on each other
    (Bonferroni), for t statistics of few seeds as well. With Holm inside each look it holds over all arms too: after
    Ye, Li, Liu and Yao 2013.

    Args:
        looks: seeds per arm at each look, rising.
        alpha: what all looks may spend together.
    """
    return tuple(alpha * ((n - before) / looks[-1]) for before, n in zip((0, *looks), looks, strict=False))
