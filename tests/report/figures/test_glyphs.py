"""Chinese and other text that matplotlib's font lacks: in the figure as it is, measured as a browser draws it."""

from __future__ import annotations

import warnings

import pytest
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure

from harness.report.figures.drawing import Drawing, drawing, style
from harness.report.figures.glyphs import stand_in


def labelled(text: str) -> Drawing:
    """A figure with a legend and a rotated label, both of this text."""
    with style("figure"):
        figure = Figure(figsize=(4, 2))
        ax = figure.subplots()
        ax.plot([0, 1], [0, 1], label=text)
        ax.set_ylabel(text)
        figure.legend(loc="outside right upper")
        return drawing(figure, "figure", "A title", "A caption")


def test_chinese_stays_text_and_nothing_warns_of_it() -> None:
    own = RendererSVG.get_text_width_height_descent
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = labelled("文件 论语.txt")
    assert found.file.count("文件 论语.txt") == found.inline.count("文件 论语.txt") == 2
    assert RendererSVG.get_text_width_height_descent is own
    assert found.file == labelled("文件 论语.txt").file


def test_a_wide_character_has_the_place_that_a_browser_needs() -> None:
    chinese, wide = (labelled(text).file.replace(text, "") for text in ("论语论语论语", "WWWWWW"))
    assert chinese == wide != labelled("nnnnnn").file.replace("nnnnnn", "")


@pytest.mark.parametrize(
    ("text", "measured"),
    [
        ("drop 0.2 · Δ ≤ −1", "drop 0.2 · Δ ≤ −1"),  # DejaVu Sans has them
        ("语a\n文", "Wa\nW"),
        ("ไทย", "nnn"),
        ("กำ\u0e49", "nn"),  # a tone mark stands above another character
        ("🦀", "W"),
        ("", ""),
    ],
)
def test_stand_ins(text: str, measured: str) -> None:
    assert stand_in(text) == measured
