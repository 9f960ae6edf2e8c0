"""The tests that analysis plans name: each turns the paired differences of all arms into one p-value per arm.

A plan stores the version of its method before the first run, and its sweep is always judged by that method. A method
gets the differences of all arms at once, so one that pools the noise of several arms can be added to `METHODS` and to
`TESTS` in `harness.analysis.plan`; then raise `METHOD_VERSION` there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.analysis.significance import paired_t_p, pooled_skewness, skewness_adjusted_t_p, skewness_error

Floats = npt.NDArray[np.float64]

# Standard errors of the skewness from which differences look skewed: at an early look those of the pooled skewness, at
# the last look those of one arm's. An early look is stricter because it can wait for more seeds. At the only look at 3
# to 12 seeds, up to 3 points of the power of 80 % under normal noise are lost with 1.8, 6 with 1.5, 16 with 1.0.
EARLY_LOOK: Final = 0.8
LAST_LOOK: Final = 1.8


# The differences of each arm at one look, shape (pairs,), and whether it is the last look → two-sided p per arm,
# unadjusted; NaN with fewer than two pairs.
Method = Callable[[Sequence[Floats], bool], Floats]


def t_test(arms: Sequence[Floats], last_look: bool) -> Floats:
    """The paired t test of each arm."""
    return np.array([float(paired_t_p(values)) for values in arms])


def skewness_checked_t_test(arms: Sequence[Floats], last_look: bool) -> Floats:
    """The paired t test of each arm; where differences look skewed, its skewness-adjusted form if that has a higher p.

    With skewed noise the t test finds too many differences on one side: a mean that lies away from the long tail comes
    with a small standard deviation. So the adjusted form is used only for a mean whose sign is not that of the
    skewness. The skewness is pooled over the arms, because an arm that is found by mistake has no long tail itself.
    """
    p = t_test(arms, last_look)
    skewness = pooled_skewness(arms)
    bound, pooled = (LAST_LOOK, 1) if last_look else (EARLY_LOOK, sum(values.size > 2 for values in arms))
    for index, values in enumerate(arms):
        if values.size > 2 and -skewness * np.sign(values.mean()) > bound * skewness_error(values.size, pooled):
            p[index] = max(p[index], skewness_adjusted_t_p(values, skewness))
    return p


METHODS: Final[Mapping[str, Method]] = {"2": t_test, "3": skewness_checked_t_test}  # version in plans → test
