"""Values that a figure shows on request: as titles of marks, which need no script, and as scales of its panels.

A title is read by pointing at a mark. The page's script (`templates/page.js`) also moves from mark to mark by keyboard,
and reads lines at any point of their x axis, for which it needs the place and the scale of each panel. Artists carry
their texts in their id (`set_gid`) until `resolved` writes them into the SVG.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any, Final

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_PANEL: Final = "panel."
_GROUP: Final = re.compile(r'^( *)<g id="arm(\d+)\.(read|line)\.([0-9a-f]+)">\n(.*?)^\1</g>', re.M | re.S)
_USE: Final = re.compile(r"<use ([^>]*)/>")


def arm_gid(index: int) -> str:
    """The id (`set_gid`) of all artists of the arm with this index, by which the page hides an arm."""
    return f"arm{index}."


def mark(artist: Artist, index: int, *texts: str) -> None:
    """Give an artist of an arm a text, or one text for each of its markers."""
    artist.set_gid(f"{arm_gid(index)}read.{_packed(texts)}")


def mark_line(artist: Artist, index: int, name: str, text: str) -> None:
    """Give a line of an arm a name, by which it is read at any point, and a text about it."""
    artist.set_gid(f"{arm_gid(index)}line.{_packed([name, text])}")


def readable(ax: Axes, name: str, x: str) -> None:
    """Let the lines of a panel be read at any point.

    Args:
        ax: the panel.
        name: of its values, such as `Validation loss`.
        x: what its x axis counts, such as `training tokens`.
    """
    ax.set_gid(_PANEL + _packed([name, x]))


def with_places(figure: Figure) -> None:
    """Add place and scales to the readable panels of a figure whose layout is done; its resolution is 72 dpi."""
    height = float(figure.bbox.height)
    for ax in figure.axes:
        gid = ax.get_gid() or ""
        if gid.startswith(_PANEL):
            name, x = _unpacked(gid.removeprefix(_PANEL))
            box = ax.get_window_extent()
            sides = [box.x0, height - box.y1, box.x1, height - box.y0]
            facts = {
                "name": name,
                "x": x,
                "box": [round(float(side), 2) for side in sides],
                "xs": [float(end) for end in ax.get_xlim()],
                "ys": [float(end) for end in ax.get_ylim()],
                "log": [ax.get_xscale() == "log", ax.get_yscale() == "log"],
            }
            ax.set_gid(_PANEL + _packed(facts))


def resolved(element: str) -> str:
    """An SVG element with the texts of artists as titles, and the facts of panels as attributes."""
    element = re.sub(
        rf'<g id="{_PANEL}([0-9a-f]+)">',
        lambda found: f'<g data-panel="{escape(json.dumps(_unpacked(found[1])))}">',
        element,
    )
    element = _GROUP.sub(_titled, element)
    return re.sub(r'<g id="arm(\d+)\.">', r'<g data-arm="\1">', element)


def _titled(found: re.Match[str]) -> str:
    indent, arm, kind, packed, inside = found.groups()
    texts: Sequence[str] = [escape(text) for text in _unpacked(packed)]
    if kind == "line":
        return f'{indent}<g data-arm="{arm}" data-line=""><title>{chr(10).join(texts)}</title>\n{inside}{indent}</g>'
    if len(texts) == 1:
        return f'{indent}<g data-arm="{arm}" data-read=""><title>{texts[0]}</title>\n{inside}{indent}</g>'
    left = iter(texts)

    def use(one: re.Match[str]) -> str:
        return f'<use data-read="" {one[1]}><title>{next(left)}</title></use>'

    assert len(_USE.findall(inside)) == len(texts), "a marker without a text"
    return f'{indent}<g data-arm="{arm}">\n{_USE.sub(use, inside)}{indent}</g>'


def _packed(value: Any) -> str:
    return json.dumps(value).encode().hex()


def _unpacked(text: str) -> Any:
    return json.loads(bytes.fromhex(text))
