"""One chart, two forms: PNG in the colors of the light theme, SVG in the colors of the page around it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from effnets.evaluation.metrics import BINS, Calibration
from effnets.report.write import EpochRow

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
    WHITE: "page",  # on strong colors: light by day, dark by night
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
class Chart:
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
def drawing(what: str) -> Iterator[None]:
    """Leave `what` out of the report, with a warning, if drawing it fails: a report must not cost a result."""
    try:
        yield
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        warnings.warn(f"left out of the report: {what} ({reason})", stacklevel=3)


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


def finish(figure: Figure, name: str, text: str) -> Chart:
    """The chart in both forms; `name` tells its parts from those of other charts on the page."""
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=_PIXELS * _PNG_SCALE, facecolor="white", metadata={"Software": None})
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    width = round(figure.get_figwidth() * _PIXELS)
    return Chart(svg=_for_page(svg.getvalue(), name, text), png=png.getvalue(), width=width, text=text)


def _for_page(svg: str, name: str, text: str) -> str:
    """An element of the page: named, free of what concerns files, colored by the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box, "matplotlib's SVG has a viewBox"
    label = text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    svg = re.sub(r"<svg[^>]*>", lambda _: f'<svg class="chart" role="img" aria-label="{label}" {box[0]}>', svg, count=1)
    # Several charts stand in one page, and each counts its parts from 1.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", svg)
    svg = svg.replace(f"'{_FONT}'", "var(--font)")
    # Only in attributes of style: a class may be called #1a2029.
    return re.sub(r'style="([^"]*)"', lambda match: f'style="{_themed(match[1])}"', svg)


def _themed(style: str) -> str:
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, f"var(--{variable})")
    return style


_WIDTH, _HEIGHT = 330, 240
_PHASES = {"head": "classifier alone", "all": "all layers"}


def learning_curves(history: Sequence[EpochRow]) -> dict[str, Chart]:
    """Loss, accuracy and learning rate over the epochs, those of them that were measured."""
    charts = {
        "loss": line_chart(history, "loss", "Loss", {"training": "train_loss", "validation": "val_loss"}),
        "accuracy": line_chart(
            history,
            "accuracy",
            "Top-1 on validation, %",
            {"weights": "val_top1", "moving average": "average_top1"},
            mark_best=True,
        ),
        "learning-rate": line_chart(history, "learning-rate", "Learning rate", {"learning rate": "learning_rate"}),
    }
    return {name: chart for name, chart in charts.items() if chart}


class EpochFigures(Protocol):
    """The figures of one epoch of training, in columns beside these."""

    @property
    def epoch(self) -> int:
        """From 1; 0 for the state before training."""

    @property
    def phase(self) -> str:
        """What is trained: ``head`` or ``all``."""


def line_chart(
    history: Sequence[EpochFigures], name: str, title: str, columns: dict[str, str], *, mark_best: bool = False
) -> Chart | None:
    """Figures over the epochs, one line for each of `columns`, from labels to names; None if nothing was measured.

    Args:
        history: the epochs; None stands for what was not measured.
        name: of the chart.
        title: above it.
        columns: names of the figures by what the chart calls them; two at most.
        mark_best: mark the highest figure; otherwise the axis begins at 0.
    """
    series = {
        label: [(row.epoch, value) for row in history if (value := getattr(row, column)) is not None]
        for label, column in columns.items()
    }
    series = {label: points for label, points in series.items() if points}
    if not series:
        return None
    with drawing_style():
        figure, plot = axes(_WIDTH, _HEIGHT)
        for (label, points), colour in zip(series.items(), (ACCENT, SECOND), strict=False):
            epochs, values = zip(*points, strict=True)
            # A line of few points shows them: one epoch alone would be invisible.
            plot.plot(
                epochs, values, color=colour, label=label, marker="o" if len(points) <= 30 else "", markersize=3.5
            )
        if mark_best:
            _mark_best(plot, series)
        _mark_phases(plot, history)
        plot.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=24 if len(series) > 1 else 10)
        if len(series) > 1:
            plot.legend(
                loc="lower left",
                bbox_to_anchor=(-0.02, 0.98),
                ncols=2,
                fontsize=10,
                labelcolor=MUTED,
                handlelength=1.2,
                borderpad=0,
                columnspacing=1.2,
            )
        plot.set_xlabel("epoch")
        plot.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        plot.yaxis.set_major_locator(MaxNLocator(5))
        if not mark_best:
            plot.set_ylim(bottom=0)
        last = ", ".join(f"{label} {points[-1][1]:.4g}" for label, points in series.items())
        return finish(figure, name, f"{title} over {len(history)} epochs; at the end: {last}")


def _mark_best(plot: Axes, series: dict[str, list[tuple[int, float]]]) -> None:
    (epoch, value), colour = max(
        (
            (max(points, key=lambda point: point[1]), colour)
            for points, colour in zip(series.values(), (ACCENT, SECOND), strict=False)
        ),
        key=lambda best: best[0][1],
    )
    plot.plot([epoch], [value], "o", color=colour, markersize=7, clip_on=False, zorder=5)
    plot.margins(y=0.18)
    plot.annotate(
        f"{value:.1f}",
        (epoch, value),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        color=colour,
        fontweight="bold",
    )


def _mark_phases(plot: Axes, history: Sequence[EpochFigures]) -> None:
    """A line where something else begins to be trained, with its name."""
    for before, row in pairwise(history):
        if row.phase != before.phase:
            plot.axvline(row.epoch - 0.5, color=LINE, linewidth=1.2, linestyle=(0, (3, 3)))
            plot.text(
                row.epoch - 0.4,
                0.02,
                _PHASES.get(row.phase, row.phase),
                transform=plot.get_xaxis_transform(),
                color=MUTED,
                fontsize=9,
                va="bottom",
            )


LARGEST = 100  # classes; beyond, the most confused pairs say more than the matrix
_LONGEST_NAME = 26
# Up to so many classes: a cell's side and the size of names, in pixels.
_SIZES = ((6, 64, 13), (12, 46, 12), (25, 28, 11), (50, 17, 10), (LARGEST, 9, 8))
_COUNTED = 25  # up to so many classes have their counts written into the cells


def confusion_matrix(matrix: NDArray[np.int64], names: Sequence[str]) -> Chart | None:
    """Rows are true classes, columns answers ``[K, K]``; None for more than 100 classes.

    Color is the share of the row's images: right answers on the diagonal in one color, mistakes in another and
    stronger, so that single ones show.
    """
    count = len(names)
    if count > LARGEST:
        return None
    cell, font = next((cell, font) for most, cell, font in _SIZES if count <= most)
    names = [_shortened(name) for name in names]
    margin = 14 + 0.6 * font * max(map(len, names))
    side, top = count * cell, 8
    width, height = margin + side + 12, top + side + margin + 10
    with drawing_style():
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        plot = figure.add_axes((margin / width, (height - top - side) / height, side / width, side / height))
        plot.set(xlim=(0, count), ylim=(count, 0))
        plot.axhspan(0, count, color=PANEL, linewidth=0, zorder=0)
        plot.spines[:].set_visible(False)
        _draw_cells(plot, matrix, cell, font if count <= _COUNTED else None)
        places = np.arange(count) + 0.5
        # Anchored, so that names end at the cells in whatever font the page is shown.
        plot.set_xticks(
            places, names, rotation=90, fontsize=font, rotation_mode="anchor", ha="right", va="center_baseline"
        )
        plot.set_yticks(places, names, fontsize=font)
        for label in (*plot.get_xticklabels(), *plot.get_yticklabels()):
            label.set_color(INK)
        plot.tick_params(pad=4)
        right, total = int(np.trace(matrix)), int(matrix.sum())
        text = f"Confusion matrix of {count} classes: {right} of {total} answers lie on the diagonal"
        return finish(figure, "confusion", text)


def _draw_cells(plot: Axes, matrix: NDArray[np.int64], cell: float, font: float | None) -> None:
    gap = 0.5 / cell if cell < 16 else 1 / cell
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    rows, columns = np.nonzero(matrix)
    squares, colours = [], []
    for row, column in zip(rows, columns, strict=True):
        left, upper, right, lower = column + gap, row + gap, column + 1 - gap, row + 1 - gap
        squares.append([(left, upper), (right, upper), (right, lower), (left, lower)])
        alpha = _strength(shares[row, column], row == column)
        colours.append(to_rgba(ACCENT if row == column else BAD, alpha))
        if font:
            colour = WHITE if alpha > 0.55 else INK
            plot.text(
                column + 0.5,
                row + 0.5,
                str(matrix[row, column]),
                ha="center",
                va="center",
                color=colour,
                fontsize=font - 1,
            )
    plot.add_collection(PolyCollection(squares, facecolors=colours, linewidths=0))


def _strength(share: float, is_right: bool) -> float:
    """Opacity: mistakes begin at what is still seen, since most are rare."""
    return float(0.12 + 0.88 * share**1.5) if is_right else float(min(1.0, 0.16 + 1.2 * share))


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


_RELIABILITY_WIDTH, _RELIABILITY_HEIGHT = 400, 430


def reliability_diagram(calibration: Calibration) -> Chart:
    """Share of right answers over confidence (DeGroot and Fienberg 1983), above how many answers were so confident."""
    edges = np.linspace(0, 1, BINS + 1)
    filled = calibration.counts > 0
    with drawing_style():
        figure = Figure(figsize=(_RELIABILITY_WIDTH / 72, _RELIABILITY_HEIGHT / 72), dpi=72, layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
        above.plot([0, 1], [0, 1], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=3)
        above.bar(
            edges[:-1][filled] + 0.5 / BINS,
            calibration.accuracy[filled],
            0.9 / BINS,
            color=ACCENT,
            alpha=0.75,
            label="as answered",
        )
        if calibration.temperature is not None:
            scaled = calibration.scaled_counts > 0
            above.plot(
                calibration.scaled_confidence[scaled],
                calibration.scaled_accuracy[scaled],
                "o-",
                color=SECOND,
                markersize=4.5,
                linewidth=1.5,
                label=f"at temperature {calibration.temperature:.2f}",
                zorder=4,
            )
        above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
        above.legend(loc="upper left", fontsize=10, labelcolor=INK)
        above.grid(axis="y")
        below.bar(edges[:-1] + 0.5 / BINS, calibration.counts, 0.9 / BINS, color=MUTED, alpha=0.6)
        below.set(xlabel="probability of the answer", ylabel="answers")
        below.locator_params(axis="y", nbins=2)
        below.tick_params(axis="x", pad=7)
        for plot in (above, below):
            plot.spines["left"].set_color(LINE)
        return finish(figure, "reliability", _in_words(calibration))


def _in_words(calibration: Calibration) -> str:
    text = f"Reliability diagram: expected calibration error {100 * calibration.error:.1f} %"
    if calibration.temperature is None:
        return text
    return f"{text}, {100 * calibration.scaled_error:.1f} % at temperature {calibration.temperature:.2f}"
