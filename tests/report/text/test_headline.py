from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from harness.analysis.comparison import Comparability
from harness.analysis.verdicts import Verdict
from harness.report.text.headline import headline

LOSS = Comparability()


def compared(*arms: tuple[str, Verdict | None, float], **columns: Any) -> pd.DataFrame:
    """A comparison of arms with a verdict and a difference; the baseline has None."""
    frame = pd.DataFrame(arms, columns=["arm", "verdict", "difference"])
    frame["is_baseline"] = frame["verdict"].isna()
    frame["mean"] = 4.0 + frame["difference"]
    return frame.assign(**{"metric": "val/loss", "pairs": 5, "delta": 0.02, "difference_se": 0.01, **columns})


BASE = ("drop_rate=0.0", None, 0.0)


@pytest.mark.parametrize(
    ("verdict", "difference", "kind", "line"),
    [
        # exp(0.14) = 1.150, exp(−0.14) = 0.869
        (Verdict.WORSE, 0.14, "worse", "Worse: a has a validation loss 0.140 nats higher than b, about 15 % higher"),
        (Verdict.BETTER, -0.14, "better", "Better: a has a validation loss 0.140 nats lower than b, about 13 % lower"),
        (Verdict.WORSE, 0.7, "worse", "Worse: a has a validation loss 0.700 nats higher than b, about 2.0 times the"),
        (Verdict.NO_DIFFERENCE, 0.001, "equal", "No difference: a and b differ by less than 0.02 nats per token."),
        (Verdict.UNDECIDED, 0.1, "undecided", "Undecided: 5 seeds cannot tell whether a is better or worse than b."),
    ],
)
def test_one_arm(verdict: Verdict, difference: float, kind: str, line: str) -> None:
    found = headline(compared(("b", None, 0.0), ("a", verdict, difference)), LOSS)
    assert found is not None and found.kind == kind
    assert str(found).startswith(line)


def test_a_factor_is_named_up_to_a_limit() -> None:
    for difference, end in (
        (math.log(148), "about 148 times the perplexity."),
        (800.0, "nats higher than drop_rate=0.0."),
    ):
        found = headline(compared(BASE, ("a", Verdict.WORSE, difference)), LOSS)
        assert found is not None and found.words.endswith(end)


def test_several_arms_are_counted_and_the_best_is_named() -> None:
    arms = (
        BASE,
        ("a", Verdict.BETTER, -0.05),
        ("b", Verdict.BETTER, -0.11),
        ("c", Verdict.WORSE, 0.3),
        ("d", Verdict.UNDECIDED, -0.4),
    )
    found = headline(compared(*arms), LOSS)
    assert found is not None and found.kind == "better"
    assert str(found) == (
        "2 better, 1 worse and 1 undecided: of 4 arms compared with drop_rate=0.0, b is the best, with a validation "
        "loss 0.110 nats lower, about 10 % lower perplexity."
    )
    found = headline(compared(*arms[:1], *arms[3:]), LOSS)
    assert found is not None and found.kind == "undecided"
    assert str(found) == ("1 worse and 1 undecided: of 2 arms compared with drop_rate=0.0, none is known to be better.")
    found = headline(compared(BASE, arms[3], ("e", Verdict.NO_DIFFERENCE, 0.0)), LOSS)
    assert found is not None and found.kind == "equal" and found.words.endswith("none is better.")


def test_bits_per_byte_have_no_perplexity() -> None:
    found = headline(compared(BASE, ("a", Verdict.WORSE, 0.14), metric="val/bits_per_byte"), LOSS)
    assert found is not None
    assert found.words == "a needs 0.140 bits more per byte of the validation text than drop_rate=0.0."


def test_there_is_none_without_a_verdict() -> None:
    assert headline(compared(BASE), LOSS) is None
    assert headline(compared(BASE, ("a", None, 0.1)), LOSS) is None
    assert headline(compared(BASE, ("a", Verdict.WORSE, 0.1)), Comparability(ranked=False, reason="other text")) is None
