"""Figures as SVG text: the common style, byte-identical output, and two forms, one inside the page and one as a file.

Colours are the Okabe–Ito palette, which people with colour blindness can tell apart. Lines and text are drawn in one
fixed colour that is then replaced by `currentColor`, so that a figure follows the light or dark mode of the page.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from harness.report.figures.glyphs import measured_for_browsers
from harness.report.figures.readings import arm_gid, resolved, with_places

PALETTE: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
Dash = str | tuple[float, tuple[float, ...]]
# The seventh arm has the first colour again, dashed. Dotted lines are those of runs that ended early.
DASHES: Final[tuple[Dash, ...]] = ("-", "--", "-.", (0, (7, 1.5, 1, 1.5, 1, 1.5)))
MARKERS: Final = ("o", "s", "D", "v")
INK: Final = "#1b1b1b"
_LONGEST_LABEL: Final = 40

_STYLE: Final = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
    "font.size": 8.5,
    "text.parse_math": False,  # arm names may contain a dollar sign
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.1,
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
}


@dataclass(frozen=True)
class Drawing:
    """One figure. `title` is its accessible name; `caption` is the text below it."""

    name: str
    title: str
    caption: str
    inline: str  # <svg> element for the page
    file: str  # SVG document on a white background

    @property
    def filename(self) -> str:
        """File name of the SVG document."""
        return f"{self.name}.svg"


_one_at_a_time = threading.RLock()  # matplotlib's settings are global


@contextmanager
def style(name: str) -> Iterator[None]:
    """Draw in the common style; `name` makes the ids inside the drawing deterministic and unique on the page."""
    settings: Any = {**_STYLE, "svg.hashsalt": name}
    with _one_at_a_time, mpl.rc_context(), measured_for_browsers():
        mpl.rcdefaults()  # the user's matplotlibrc must not change a report
        mpl.rcParams.update(settings)
        yield


@contextmanager
def as_arm(ax: Axes, index: int) -> Iterator[None]:
    """Give all artists drawn inside this context the id of the arm with this index, unless they have one."""
    before = set(ax.get_children())
    yield
    for artist in ax.get_children():
        if artist not in before and artist.get_gid() is None:
            artist.set_gid(arm_gid(index))


def drawing(figure: Figure, name: str, title: str, caption: str) -> Drawing:
    """Turn a matplotlib figure into a `Drawing`; call it inside `style(name)`."""
    FigureCanvasSVG(figure)  # whose text sizes the layout uses
    figure.set_dpi(72)  # as in SVG
    if any(ax.get_subplotspec() for ax in figure.axes):  # else the axes have places of their own
        ConstrainedLayoutEngine().execute(figure)  # `savefig` would draw the whole figure once more to do it
    with_places(figure)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    document = buffer.getvalue()
    element = resolved(document[document.index("<svg") :])
    # Two decimals are precise enough and halve the size.
    shorter = r'( (?:d|x|y|points|transform)=")([^"]*)"'
    element = re.sub(shorter, lambda found: f'{found[1]}{re.sub(_LONG, _short, found[2])}"', element)
    element = re.sub(r"<[^>]+>", lambda tag: re.sub(r'( id="|url\(#|href="#)', rf"\1{name}-", tag[0]), element)
    size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', element)
    assert size is not None, "matplotlib always writes the size"
    head = f'<title id="{name}-title">{escape(title)}</title>\n <desc id="{name}-desc">{escape(caption)}</desc>'
    named = f'role="img" aria-labelledby="{name}-title" aria-describedby="{name}-desc"'
    # A minimum width: on a phone a figure scrolls sideways instead of becoming too small to read.
    fit = f'{named} style="max-width:{size[1]}pt;min-width:{0.75 * float(size[1]):g}pt"'
    followed = _replace_colour(element, INK, "currentColor")
    for place, colour in enumerate(PALETTE):
        followed = _replace_colour(followed, colour, f"var(--c{place})")  # the page has other colours in dark mode
    inline = _with_title(followed.replace(size[0], fit, 1), head)
    on_white = _with_title(element.replace(size[0], f'{size[0]} style="background:#fff"', 1), head)
    return Drawing(name, title, caption, inline, f'<?xml version="1.0"?>\n{on_white}')


def renamed(inline: str, prefix: str) -> str:
    """An inline drawing with `prefix` before all its ids and the references to them."""
    if not prefix:
        return inline
    names = r'( id="|url\(#|href="#|aria-labelledby="|aria-describedby=")'
    return re.sub(r"<[^>]+>", lambda tag: re.sub(names, rf"\1{prefix}", tag[0]), inline)


_LONG: Final = re.compile(r"(\d+\.\d\d)\d+")


def _short(found: re.Match[str]) -> str:
    return found[1].rstrip("0").rstrip(".")


def _replace_colour(element: str, colour: str, other: str) -> str:
    """Replace a colour in the attributes of a drawing, but not in its text."""
    return re.sub(rf"<[^>]+{colour}[^>]*>", lambda tag: tag[0].replace(colour, other), element)


def _with_title(element: str, head: str) -> str:
    start = element.index(">") + 1
    return f"{element[:start]}\n {head}{element[start:]}"


def label(text: str) -> str:
    """A name for a figure: without control characters, and a long one shortened in the middle."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    if len(clean) <= _LONGEST_LABEL:
        return clean
    half = (_LONGEST_LABEL - 1) // 2
    return f"{clean[:half]}…{clean[-half:]}"


def arm_style(index: int) -> tuple[str, Dash, str]:
    """Colour, line style and marker of an arm, by its index."""
    turn = index // len(PALETTE)
    return PALETTE[index % len(PALETTE)], DASHES[turn % len(DASHES)], MARKERS[turn % len(MARKERS)]
