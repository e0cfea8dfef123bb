"""Pictures with captions on one sheet, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from effnets.train.report.drawing import INK, drawing_style

__all__ = ["picture_sheet"]

_TILE, _CAPTION = 190, 44


def picture_sheet(pictures: Sequence[tuple[Image.Image, str]], columns: int) -> bytes:
    """`pictures` with two lines under each, `columns` in a row."""
    rows = -(-len(pictures) // columns)
    with drawing_style():
        figure = Figure(figsize=(columns * _TILE / 72, rows * (_TILE + _CAPTION) / 72), dpi=72, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for plot in grid.flat:
            plot.set_axis_off()
        for plot, (image, caption) in zip(grid.flat, pictures, strict=False):
            plot.imshow(np.asarray(image))
            plot.set_title(caption, fontsize=8.5, color=INK, y=-0.22, va="bottom")
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=108, facecolor="white", metadata={"Software": None})
        return png.getvalue()
