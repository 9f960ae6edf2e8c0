"""Text in figures that matplotlib's font cannot draw, such as Chinese: the reader's browser draws it.

Figures keep their text as text (`svg.fonttype: none`), so every browser shows it in a font that has the characters.
Only the layout needs their widths. matplotlib would take that of its box for a missing character, and warn of it on the
terminal. Here another one that is as wide stands in for it when text is measured, on every machine the same.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.font_manager import findfont, get_font

_WIDE: Final = "W"  # as wide as a Chinese character: one em
_NARROW: Final = "n"


@contextmanager
def measured_for_browsers() -> Iterator[None]:
    """Measure text in SVG with stand-ins for the characters that the font of the style lacks.

    It replaces a method of matplotlib, so only one thread may draw at a time.
    """
    own: Any = RendererSVG.get_text_width_height_descent

    def measure(self: RendererSVG, s: str, prop: Any, ismath: Any) -> Any:
        return own(self, stand_in(s), prop, ismath)

    RendererSVG.get_text_width_height_descent = measure  # type: ignore[method-assign]
    try:
        yield
    finally:
        RendererSVG.get_text_width_height_descent = own  # type: ignore[method-assign]


def stand_in(text: str) -> str:
    """The text with an `n`, or where it is wide a `W`, for each character that matplotlib's own font lacks."""
    known = _characters()
    return text if known.issuperset(map(ord, text)) else "".join(_one(sign, known) for sign in text)


def _one(sign: str, known: frozenset[int]) -> str:
    if ord(sign) in known or sign == "\n":
        return sign
    if unicodedata.category(sign).startswith(("M", "Cf")):  # drawn onto the character before it, or not at all
        return ""
    return _WIDE if unicodedata.east_asian_width(sign) in "WF" else _NARROW


@functools.cache
def _characters() -> frozenset[int]:
    """The code points of DejaVu Sans, which comes with matplotlib."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
