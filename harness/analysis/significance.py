"""Tests on paired differences, and corrections for several comparisons (Holm) and several looks (alpha spending).

Each p-value is two-sided and concerns one arm; the null hypothesis is that its mean difference to the baseline is 0.
The paired t test decides the verdict, adjusted where differences look skewed (`harness.analysis.methods`). The
sign-flip test needs fewer assumptions and checks it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr  # Student's t distribution; importing scipy.stats would take a second longer

ALPHA = 0.05  # familywise error rate: of sweeps without a true difference, the share that may call an arm different
EXACT_UP_TO = 16  # pairs up to which all 2^15 distinct sign patterns are enumerated
RANDOM_FLIPS = 65_535  # random sign patterns for more pairs; p is then a multiple of 1/65,536


def paired_t_p(differences: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Two-sided p-value of the paired t test, 2·P(T(n−1) > |mean|·√n / s), along the last axis.

    Args:
        differences: shape (…, n), arm minus baseline, one per seed.

    Returns:
        Shape (…). NaN for n < 2. If all differences are equal, the limit: 1 where they are 0, else 0.
    """
    data = np.asarray(differences, dtype=np.float64)
    n = data.shape[-1]
    if n < 2:
        return np.full(data.shape[:-1], math.nan)
    mean, spread = data.mean(axis=-1), data.std(axis=-1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(mean == 0, 0.0, np.abs(mean) * math.sqrt(n) / spread)
    return np.asarray(2 * stdtr(n - 1, -t))


def pooled_skewness(samples: Sequence[npt.NDArray[np.float64]]) -> float:
    """Skewness m₃ / m₂^1.5 of the deviations from each sample's own mean, all samples together; 0 without any spread.

    Args:
        samples: each of shape (n,); those with fewer than three values are left out.
    """
    centred = [values - values.mean() for values in samples if values.size > 2 and np.ptp(values)]
    if not centred:
        return 0.0
    deviations = np.concatenate(centred)
    variance = float(np.mean(deviations**2))
    return float(np.mean(deviations**3)) / variance**1.5 if variance**1.5 else 0.0


def skewness_error(n: int, arms: int = 1) -> float:
    """Standard error of the skewness of n normal values, √(6(n − 2) / ((n + 1)(n + 3))) (Cramér 1946, ch. 29).

    Args:
        n: values per arm.
        arms: arms over which it is pooled. Their differences to one baseline share its noise, an eighth of the variance
            of the third moment, so the error shrinks by √((1 + 7/m) / 8).
    """
    return math.sqrt(6 * (n - 2) / ((n + 1) * (n + 3)) * (1 + 7 / arms) / 8)


def skewness_adjusted_t_p(differences: npt.ArrayLike, skewness: float) -> float:
    """Two-sided p-value of the paired t test after Hall's transformation, which removes the skewness of its statistic.

    With w = mean / s, T = √n · (w + γw²/3 + γ²w³/27 + γ/(6n)) is compared with Student's t of n − 1 degrees of freedom
    (Hall 1992, On the removal of skewness by transformation; Johnson 1978 without the cubic term).

    Args:
        differences: shape (n,), arm minus baseline, one per seed.
        skewness: γ, of the differences.

    Returns:
        NaN for n < 2. If all differences are equal, the p of the paired t test.
    """
    data = np.asarray(differences, dtype=np.float64)
    n = data.size
    spread = float(data.std(ddof=1)) if n > 1 else 0.0
    if not spread:
        return float(paired_t_p(data))
    w = float(data.mean()) / spread
    t = math.sqrt(n) * (w + skewness * w**2 / 3 + skewness**2 * w**3 / 27 + skewness / (6 * n))
    return float(2 * stdtr(n - 1, -abs(t)))


def sign_flip_p(differences: npt.ArrayLike) -> float:
    """Two-sided p-value of the sign-flip permutation test on the mean difference.

    p is the share of all 2ⁿ sign patterns whose mean is at least as far from 0 as the observed one. The test is valid
    for any noise that is symmetric about 0 (Fisher 1935, The Design of Experiments). It is exact up to `EXACT_UP_TO`
    pairs; with more, p = (1 + hits) / (1 + draws) over `RANDOM_FLIPS` random patterns with a fixed seed (Phipson and
    Smyth 2010).

    Args:
        differences: shape (n,), arm minus baseline, one per seed. Returns NaN for n < 2.
    """
    data = np.asarray(differences, dtype=np.float64)
    n = data.size
    if n < 2:
        return math.nan
    # Equal sums may differ in their last bits, depending on the order of summation.
    threshold = abs(data.sum()) - 1e-12 * np.abs(data).sum()
    if n <= EXACT_UP_TO:
        # A pattern and its opposite are equally far from 0, so the first sign stays fixed.
        flipped = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1)) & 1
        sums = data.sum() - 2 * (flipped @ data[1:])
        return float(np.mean(np.abs(sums) >= threshold))
    flipped = np.random.default_rng(0).integers(0, 2, (RANDOM_FLIPS, n), dtype=np.int8)
    sums = data.sum() - 2 * (flipped @ data)
    return float((1 + np.count_nonzero(np.abs(sums) >= threshold)) / (1 + RANDOM_FLIPS))


def sign_flip_seeds(comparisons: int, alpha: float = ALPHA) -> int:
    """The fewest pairs with which the sign-flip test can reach α after Holm over m comparisons: ⌈1 + log2(m/α)⌉.

    The smallest possible p is 2/2ⁿ, and Holm multiplies the smallest of m p-values by m.
    """
    return math.ceil(1 + math.log2(comparisons / alpha))


def holm(p: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Holm-adjusted p-values: the i-th smallest becomes max over j ≤ i of min(1, (m − j + 1)·p(j)), on the last axis.

    Rejecting where the adjusted p is at most α keeps the familywise error rate at most α, whatever the dependence
    between the tests (Holm 1979).

    Args:
        p: shape (…, m). NaN marks a comparison that could not be made. It counts towards m and stays NaN, so that the
            verdicts on the other arms do not change when its runs arrive.
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
    """Alpha spending: the level of the tests at each look at the data, α_k = α · (n_k − n_{k−1}) / n_K; their sum is α.

    The linear spending function: α is spent in proportion to the seeds (Lan and DeMets 1983; Kim and DeMets 1987 with
    ρ = 1). Each look is tested at its own level. Group-sequential boundaries would be less strict, but they need
    normal statistics; the sum of the levels bounds the error for t statistics of few seeds too, whatever the dependence
    between looks (Bonferroni). Combined with Holm inside each look, the bound holds over all arms (after Ye, Li, Liu
    and Yao 2013).

    Args:
        looks: seeds per arm at each look, increasing.
        alpha: the total level over all looks.
    """
    return tuple(alpha * ((n - before) / looks[-1]) for before, n in zip((0, *looks), looks, strict=False))


def outlier_p(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Two-sided p-value of each value as an outlier from the normal distribution of the others.

    t = (x − mean of the others) / (their s · √(1 + 1/(n − 1))) has n − 2 degrees of freedom: the externally studentized
    residual (Cook and Weisberg 1982), equivalent to Grubbs' test.

    Args:
        values: shape (n,), finite.

    Returns:
        Shape (n,); NaN for n < 4, where the test has hardly any power, and where the other values are all equal.
    """
    data = np.asarray(values, dtype=np.float64)
    n = data.size
    if n < 4:
        return np.full(n, math.nan)
    others = data[np.nonzero(~np.eye(n, dtype=bool))[1].reshape(n, n - 1)]  # (n, n - 1): all but one
    means, spreads = others.mean(axis=1), others.std(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (data - means) / (spreads * math.sqrt(1 + 1 / (n - 1)))
    return np.where(spreads > 0, 2 * stdtr(n - 2, -np.abs(t)), math.nan)
