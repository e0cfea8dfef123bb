"""One drawing, two forms: PNG in the colours of day, SVG in the colours of the page around it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "ACCENT",
    "BAD",
    "INK",
    "LINE",
    "MUTED",
    "PANEL",
    "SECOND",
    "WHITE",
    "Drawing",
    "axes",
    "drawing_style",
    "finish",
]

# What charts are drawn in. In the SVG each becomes the variable of the page's style sheet that has its meaning.
INK, MUTED, LINE, PANEL = "#1a2029", "#667080", "#dfe3e9", "#f3f5f8"
ACCENT, SECOND, BAD, WHITE = "#2458d3", "#c2700a", "#c8372d", "#fefefe"
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    PANEL: "panel",
    ACCENT: "accent",
    SECOND: "second",
    BAD: "bad",
    WHITE: "page",  # on strong colours: light by day, dark by night
}
_FONT = "DejaVu Sans"
_PIXELS = 72  # to an inch: one point is one pixel of the page
_PNG_SCALE = 2

_STYLE = {
    "font.family": _FONT,
    "font.size": 11,
    "text.parse_math": False,  # class names may have dollar signs
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "svg.fonttype": "none",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A chart.

    Attributes:
        svg: to stand in a page. png: a file's content. width: in pixels of the page, as it was drawn.
        text: what it shows, for who cannot see it.
    """

    svg: str
    png: bytes
    width: int
    text: str


@contextmanager
def drawing_style() -> Iterator[None]:
    """The look of all charts, for what is drawn inside."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        # The page shows all the world's letters; the PNG those that the font has.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def axes(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty chart of that many pixels, with a horizontal grid."""
    figure = Figure(figsize=(width / _PIXELS, height / _PIXELS), dpi=_PIXELS, layout="constrained")
    plot = figure.subplots()
    plot.grid(axis="y")
    return figure, plot


def finish(figure: Figure, name: str, text: str) -> Drawing:
    """The chart in both forms; `name` tells its parts from those of other charts on the page."""
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=_PIXELS * _PNG_SCALE, facecolor="white", metadata={"Software": None})
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    width = round(figure.get_figwidth() * _PIXELS)
    return Drawing(svg=_for_page(svg.getvalue(), name, text), png=png.getvalue(), width=width, text=text)


def _for_page(svg: str, name: str, text: str) -> str:
    """An element of the page: named, free of what concerns files, coloured by the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box, "matplotlib's SVG has a viewBox"
    label = text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    svg = re.sub(r"<svg[^>]*>", lambda _: f'<svg class="chart" role="img" aria-label="{label}" {box[0]}>', svg, count=1)
    # Several drawings stand in one page, and each counts its parts from 1.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", svg)
    svg = svg.replace(f"'{_FONT}'", "var(--font)")
    # Only in attributes of style: a class may be called #1a2029.
    return re.sub(r'style="([^"]*)"', lambda match: f'style="{_themed(match[1])}"', svg)


def _themed(style: str) -> str:
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, f"var(--{variable})")
    return style
