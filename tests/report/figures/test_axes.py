from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import example_sweep as example
from harness.analysis.comparison import Comparability
from harness.core import metrics
from harness.core.metrics import Point
from harness.report import compare, loss_curve
from harness.report.figures.axes import Matrix, on_one_grid
from harness.report.figures.drawing import PALETTE, Drawing, arm_style, label
from harness.report.figures.final_losses import final_losses
from harness.report.figures.forest import forest
from harness.report.figures.loss_curves import AXES, Axis, _gaps, loss_curves, with_x_columns
from harness.report.figures.run_curve import run_curve

pytestmark = pytest.mark.slow

ARM, BASELINE = example.LOSSES
ARMS = [ARM, BASELINE]
SVG = "{http://www.w3.org/2000/svg}"


def texts(drawing: Drawing) -> list[str]:
    """The texts of a drawing. Reading them also checks that text is stored as text in well-formed XML."""
    return ["".join(node.itertext()) for node in ET.fromstring(drawing.file).iter(f"{SVG}text")]


def everything() -> pd.DataFrame:
    stopped = example.run(700, ARM, {}, seed=9, outcome="oom", loss=8.0)
    return example.frame([*example.explore_runs(), *example.confirm_runs(), stopped])


def curves_drawn(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    arms: Sequence[str] = ARMS,
    axis: Axis = AXES[0],
    **known: Any,
) -> Drawing | None:
    record = example.record({arm: example.ARMS.get(arm, {}) for arm in arms})
    curves = example.curves_of(runs) if curves is None else curves
    return loss_curves(example.evidence(record, runs, curves, **known), axis)


def drawings(runs: pd.DataFrame) -> list[Drawing | None]:
    evidence = example.evidence(example.record(), runs, example.curves_of(runs))
    return [final_losses(evidence), loss_curves(evidence)]


def test_every_figure_has_readable_text_and_a_title() -> None:
    final, curves = drawings(everything())
    assert final and curves
    for drawing in (final, curves):
        assert set(ARMS) <= set(texts(drawing)), drawing.name
        assert ET.fromstring(drawing.file).find(f"{SVG}title") is not None
    assert "Paired difference to the baseline" in texts(final)
    assert {"Training loss", "Validation loss", "training tokens"} <= set(texts(curves))


def test_figures_inside_a_page_follow_its_colour_mode_and_have_unique_ids() -> None:
    found = [drawing for drawing in drawings(everything()) if drawing]
    ids = [name for drawing in found for name in re.findall(r'\sid="([^"]+)"', drawing.inline)]
    assert len(ids) == len(set(ids)) > 10
    for drawing in found:
        assert "currentColor" in drawing.inline and "#1b1b1b" not in drawing.inline
        used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', drawing.inline))
        assert used and used <= set(ids)


def test_the_same_runs_give_the_same_bytes() -> None:
    first, second = drawings(everything()), drawings(everything())
    assert [drawing and drawing.file for drawing in first] == [drawing and drawing.file for drawing in second]


def test_the_users_matplotlib_settings_change_nothing() -> None:
    import matplotlib as mpl

    plain = drawings(everything())
    with mpl.rc_context({"axes.grid": False, "font.size": 20, "lines.marker": "s", "xtick.direction": "in"}):
        assert [drawing and drawing.file for drawing in drawings(everything())] == [one and one.file for one in plain]
        assert mpl.rcParams["font.size"] == 20


def test_captions_describe_the_figure() -> None:
    final, curves = drawings(everything())
    assert final and curves
    assert "lowest to highest seed" in curves.caption and "ended early" in curves.caption
    assert "Higher losses at the beginning, up to 10.80, are cut off" in curves.caption
    assert "Right: the same runs" in final.caption
    one = example.frame(example.confirm_runs({ARM: {2: 5.2}}))
    single = curves_drawn(one, arms=[ARM])
    assert single and "no band" in single.caption and "ended early" not in single.caption


def test_nothing_to_draw_gives_no_figure() -> None:
    failed = example.frame([example.run(1, ARM, {}, outcome="failed"), example.run(2, BASELINE, {}, outcome="oom")])
    assert drawings(failed) == [None, None]
    assert drawings(example.frame(example.explore_runs())) == [None, None]


def test_ten_arms_and_missing_metrics_are_drawn() -> None:
    arms = {f"drop_rate=0.{place:02d}": {"model.drop_rate": place / 100} for place in range(10)}
    losses = {arm: {2: 5 + place / 10, 3: 5.1} for place, arm in enumerate(arms)}
    runs = example.frame(example.confirm_runs(losses))
    curves = example.curves_of(runs).query("metric == 'val/loss'")
    drawn = curves_drawn(runs, curves, list(arms))
    assert drawn and set(arms) <= set(texts(drawn)) and "Training loss" not in texts(drawn)
    assert len({arm_style(place) for place in range(24)}) == 24 and len(set(PALETTE)) == len(PALETTE)


def test_arms_with_different_tokenizers_are_drawn_in_bits_per_byte() -> None:
    runs = everything()
    curves = example.curves_of(runs)
    curves = pd.concat([curves, curves.assign(metric="val/bits_per_byte", value=curves["value"] / 3)])
    drawn = curves_drawn(runs, curves, comparability=Comparability("val/bits_per_byte"))
    assert drawn and {"bits per byte", "Validation bits per byte"} <= set(texts(drawn))
    assert not {"Training loss", "nats per token"} & set(texts(drawn)) and drawn.caption.startswith("Validation bits")


def test_the_mean_is_over_the_same_runs_everywhere() -> None:
    # One run at 0, 10, 20 tokens with losses 4, 2, 0; the other at 0, 5, 10 with 8, 6, 4. They share 0 to 10.
    rows = [("a", 0, 4.0), ("a", 10, 2.0), ("a", 20, 0.0), ("b", 0, 8.0), ("b", 5, 6.0), ("b", 10, 4.0)]
    tokens, losses = on_one_grid(pd.DataFrame(rows, columns=["run_id", "at", "value"]))
    assert tokens.tolist() == [0, 5, 10]
    np.testing.assert_allclose(losses.mean(axis=0), [6, 4.5, 3])


def test_a_panel_reads_each_point_once_however_many_arms_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = everything()
    curves = example.curves_of(runs)
    read = []

    def counted(points: pd.DataFrame) -> Matrix:
        read.append(len(points))
        return on_one_grid(points)

    monkeypatch.setattr("harness.report.figures.loss_curves.on_one_grid", counted)
    assert curves_drawn(runs, curves)
    chosen = curves[(curves["phase"] == "confirm") & (curves["outcome"] == "complete")]
    sides = [(chosen["metric"] == name).sum() for name in (metrics.TRAIN_LOSS, metrics.VAL_LOSS)]
    assert sum(read) == sum(sides) + min(sides)  # the gap is the third panel


def test_curves_over_steps_seconds_and_flops() -> None:
    runs = everything()
    curves = example.curves_of(runs)
    over = {axis.name: curves_drawn(runs, curves, axis=axis) for axis in AXES}
    assert over["seconds"] is None  # nobody knows them
    for axis in AXES:
        drawn = over[axis.name] or curves_drawn(runs, curves.assign(seconds=1.0 * curves["step"]), axis=axis)
        assert drawn and axis.label in texts(drawn) and "Validation minus training loss" in texts(drawn)
    rate = runs["flops_per_token"].iloc[0]
    assert with_x_columns(curves, runs)["flops"].max() == pytest.approx(8192 * rate)


def test_the_gap_is_validation_minus_training_loss_of_each_run() -> None:
    runs = everything()
    curves = with_x_columns(example.curves_of(runs), runs)
    found = _gaps(curves.assign(at=curves["tokens"]))
    assert len(found) == (curves["metric"] == "val/loss").sum()
    np.testing.assert_allclose(found["value"], 0.02 * found["step"], atol=1e-3)  # steps are rounded, losses are not


def test_the_end_of_a_run_above_the_axes_is_marked_at_their_edge() -> None:
    lost = example.run(700, ARM, {}, seed=9, outcome="diverged")
    runs = example.frame([*example.confirm_runs(), lost])
    drawn = curves_drawn(runs)
    assert drawn and "diverged" in drawn.caption
    places = re.findall(r'<use xlink:href="#[^"]+" x="([\d.]+)" y="([\d.]+)"[^>]*style="fill-opacity: 0', drawn.file)
    marks = [float(y) for _, y in places]
    top = min(float(y) for y in re.findall(r"M [\d.]+ [\d.]+ \nL [\d.]+ ([\d.]+) \n", drawn.file))
    assert len(marks) == 3 and min(marks) >= top - 1


def test_the_forest_plot_has_a_row_for_every_arm() -> None:
    comparison = compare(everything(), BASELINE, arms=ARMS)
    drawn = forest(comparison)
    assert drawn
    assert {*ARMS, "baseline", "+0.233 (−0.054 to 0.520), p = 0.0728"} <= set(texts(drawn))
    assert any("nats per token" in text for text in texts(drawn)) and "below δ = 0.02" in drawn.caption
    assert set(re.findall(r'data-arm="(\d)"', drawn.inline)) == {"0", "1"}
    single = example.frame(example.confirm_runs({ARM: {2: 5.2}, BASELINE: {2: 5.1}}))
    alone = forest(compare(single, BASELINE, arms=ARMS))
    assert alone and "+0.1000, one pair" in texts(alone)
    assert forest(compare(everything(), None, arms=ARMS)) is None
    near = {ARM: {2: 5.200, 3: 5.210, 4: 5.205}, BASELINE: {2: 5.203, 3: 5.206, 4: 5.206}}
    close = forest(compare(example.frame(example.confirm_runs(near)), BASELINE, arms=ARMS))
    assert close and {"−0.01", "0", "0.01"} <= set(texts(close)) and "e-" not in "".join(texts(close))


def test_markup_in_names_is_escaped() -> None:
    name = 'a$b$ <script>alert(1)</script> id="x" #1b1b1b \x00'
    runs = example.frame(example.confirm_runs({name: {2: 5.2, 3: 5.3}, BASELINE: {2: 5.1, 3: 5.0}}))
    drawing = curves_drawn(runs, arms=[name, BASELINE])
    assert drawing and "<script>" not in drawing.inline
    assert label(name) in texts(drawing) and "\x00" not in label(name)
    assert len(label("x" * 300)) == 39


def test_loss_curve_of_points_and_of_stored_curves(tmp_path: Path) -> None:
    points = [
        Point(step, 512 * step, step / 4, 1.0, {"val/loss": 5 - step / 4, "train/loss": 4.0}) for step in range(5)
    ]
    loss_curve([*points, Point(5, 2560, 1.0, 1.0, {"optim/learning_rate": 1e-3})], tmp_path / "points.svg")
    stored = pd.DataFrame(
        [(point.tokens, name, value) for point in points for name, value in point.metrics.items()],
        columns=["tokens", "metric", "value"],
    )
    loss_curve(stored, tmp_path / "curves.svg")
    assert (tmp_path / "points.svg").read_bytes() == (tmp_path / "curves.svg").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.svg", "points.svg"]
    assert {"Validation loss", "Training loss"} <= set(texts(run_curve(stored)))


def test_loss_curve_without_a_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no train/loss and no val/loss"):
        loss_curve([Point(0, 0, 0.0, 0.0, {"val/loss": math.nan})], tmp_path / "curve.svg")
    assert not list(tmp_path.iterdir())


def test_runs_without_any_point_give_no_curves() -> None:
    runs = example.frame(example.confirm_runs())
    empty = example.curves_of(runs).iloc[:0]
    assert curves_drawn(runs, empty) is None


def test_curves_on_a_sample_are_drawn_and_labelled_so() -> None:
    runs = everything()
    curves = example.curves_of(runs)
    whole = curves["metric"] == metrics.VAL_LOSS
    ends = curves["tokens"].isin([curves["tokens"].min(), curves["tokens"].max()])
    sampled = curves[whole].assign(metric=metrics.VAL_SAMPLE_LOSS, value=curves[whole]["value"] + 0.25)
    both = pd.concat([curves[~whole | ends], sampled], ignore_index=True)
    drawing = curves_drawn(runs, both)
    assert drawing is not None
    assert "Validation loss on a sample" in texts(drawing) and "Validation loss" not in texts(drawing)
    assert "Validation minus training loss" in texts(drawing)
    of_arm = both[both["arm"] == ARM].assign(at=both["tokens"])
    grid, losses = on_one_grid(of_arm[of_arm["metric"] == metrics.VAL_SAMPLE_LOSS])
    of_arm = curves[curves["arm"] == ARM].assign(at=curves["tokens"])
    expected = on_one_grid(of_arm[of_arm["metric"] == metrics.VAL_LOSS])
    assert np.array_equal(grid, expected[0]) and np.allclose(losses, expected[1] + 0.25)
    one = both[both["run_id"] == both["run_id"].iloc[0]]
    assert "Validation loss on a sample" in texts(run_curve(one))
