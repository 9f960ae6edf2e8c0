from __future__ import annotations

import re
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import example_sweep as example
from harness import compare, plot_comparison, plot_curves

ARM, BASELINE = example.LOSSES


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    plt.switch_backend("agg")
    yield
    plt.close("all")


def curves() -> pd.DataFrame:
    """Two arms, two seeds each, whose losses at 0, 10 and 20 tokens are known; and an explore run."""
    rows = []
    for arm, seed, phase, values in [
        ("a", 1, "confirm", (5.0, 4.0, 3.0)),
        ("a", 2, "confirm", (5.0, 4.2, 3.4)),
        ("b", 1, "confirm", (5.0, 4.5, 4.0)),
        ("b", 1, "explore", (9.0, 9.0, 9.0)),
    ]:
        for step, value in enumerate(values):
            row = {"run_id": f"{arm}{seed}{phase}", "arm": arm, "phase": phase, "seed": seed, "outcome": "complete"}
            rows.append(
                {**row, "step": step, "tokens": 10 * step, "seconds": 1.0, "metric": "val/loss", "value": value}
            )
    return pd.DataFrame(rows)


def test_curves_are_the_means_of_the_confirm_runs() -> None:
    ax = plot_curves(curves())
    a, b = ax.get_lines()
    assert np.asarray(a.get_xdata()).tolist() == [0, 10, 20]
    assert np.asarray(a.get_ydata()).tolist() == pytest.approx([5, 4.1, 3.2], rel=1e-12)
    assert np.asarray(b.get_ydata()).tolist() == pytest.approx([5, 4.5, 4.0], rel=1e-12)
    legend = ax.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("training tokens", "validation loss, nats per token")
    [only] = plot_curves(curves(), x="step", arms=["b"], ax=plt.subplots()[1]).get_lines()
    assert np.asarray(only.get_xdata()).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"metric": "val_loss"}, "metric: found 'val_loss', which no complete run has; allowed: val/loss"),
        ({"x": "epoch"}, "x: found 'epoch'; allowed: tokens, step, seconds"),
        ({"arms": ["c"]}, "arms: found 'c'; allowed: a and b"),
    ],
)
def test_a_wrong_name_is_one_sentence(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        plot_curves(curves(), **arguments)  # type: ignore[arg-type]


def test_a_comparison_has_the_differences_and_their_intervals() -> None:
    table = compare(example.frame(example.confirm_runs()), BASELINE)
    ax = plot_comparison(table)
    row = table.set_index("arm").loc[ARM]
    [bar] = ax.containers
    low, high = bar[2][0].get_segments()[0][:, 0]
    assert bar[0].get_xdata()[0] == pytest.approx(row["difference"], rel=1e-12)
    assert (low, high) == pytest.approx((row["difference_low"], row["difference_high"]), rel=1e-12)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == [
        f"{arm} ({'baseline' if arm == BASELINE else verdict})"
        for arm, verdict in zip(table["arm"], table["verdict"], strict=True)
    ]
    with pytest.raises(ValueError, match=r"^comparison: found no arm with a pair"):
        plot_comparison(compare(example.frame(example.confirm_runs())))
