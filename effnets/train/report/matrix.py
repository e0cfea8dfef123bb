"""The confusion matrix, drawn so that single mistakes are seen and names can be read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from effnets.train.report.drawing import ACCENT, BAD, INK, PANEL, WHITE, Drawing, drawing_style, finish

__all__ = ["LARGEST", "confusion_matrix"]

LARGEST = 100  # classes; beyond, the most confused pairs say more than a picture
_LONGEST_NAME = 26
# Up to so many classes: a cell's side and the size of names, in pixels.
_SIZES = ((6, 64, 13), (12, 46, 12), (25, 28, 11), (50, 17, 10), (LARGEST, 9, 8))
_COUNTED = 25  # up to so many classes have their counts written into the cells


def confusion_matrix(matrix: NDArray[np.int64], names: Sequence[str]) -> Drawing | None:
    """Rows are true classes, columns answers ``[K, K]``; None for more than 100 classes.

    Colour is the share of the row's pictures: right answers on the diagonal in one colour, mistakes in another and
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
