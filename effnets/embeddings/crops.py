"""Whether a photograph is a part of another, by their pixels: small gray pictures are laid over each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

SIDE = 128  # pixels of a thumbnail, across and down

_COARSE, _FINE = 32, 64
_LEAST = 0.6  # of the area, that a crop is looked for to keep
_STEPS = 9  # sizes of crops that are tried
_HOPELESS = 0.5  # agreement of the coarse pictures, below which finer ones are not compared
_MOVES = tuple((x, y, size) for x in (-1, 0, 1) for y in (-1, 0, 1) for size in (-1, 0, 1) if (x, y, size) != (0, 0, 0))


class Crop(NamedTuple):
    """Where a photograph lies in another.

    Attributes:
        agreement: correlation of the pixels there, up to 1.
        kept: share of the other's area.
    """

    agreement: float
    kept: float


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Return a picture in gray, ``[SIDE, SIDE]``, whatever its aspect ratio."""
    gray = image.convert("RGB").convert("L")
    return np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0))


def find_crop(whole: NDArray[np.uint8], part: NDArray[np.uint8], ratio: float) -> Crop:
    """Find the place where a photograph agrees best with a part of another.

    All crops are tried that keep 60 to 100 % of the area, first in pictures of 32 pixels, then around the best in finer
    ones.

    Args:
        whole, part: thumbnails.
        ratio: aspect ratio (width / height) of the part, divided by that of the whole.

    Returns:
        The best; an agreement of -1 if no crop of the whole has that aspect ratio.
    """
    images = Image.fromarray(whole), Image.fromarray(part)
    best, area = -1.0, (0.0, 0.0, 0.0, 0.0)
    coarse = np.asarray(images[0].resize((_COARSE, _COARSE), Image.Resampling.BILINEAR), np.float32)
    for width, height in _sizes(ratio):
        size = max(8, round(_COARSE * width)), max(8, round(_COARSE * height))
        small = np.asarray(images[1].resize(size, Image.Resampling.BILINEAR), np.float32)
        windows = sliding_window_view(coarse, small.shape)
        found = _correlate(windows.reshape(-1, small.size), small.ravel())
        place = int(found.argmax())
        if found[place] > best:
            y, x = divmod(place, windows.shape[1])
            best, area = float(found[place]), (x / _COARSE, y / _COARSE, size[0] / _COARSE, size[1] / _COARSE)
    if best < _HOPELESS:
        return Crop(best, area[2] * area[3])
    return _refine(*images, area, ratio)


def _sizes(ratio: float) -> Iterator[tuple[float, float]]:
    """Yield widths and heights of crops, as shares of the whole's."""
    for area in np.linspace(_LEAST, 1.0, _STEPS):
        width, height = float(area * ratio) ** 0.5, float(area / ratio) ** 0.5
        if max(width, height) < 1.03:
            yield min(width, 1.0), min(height, 1.0)


def _refine(whole: Image.Image, part: Image.Image, area: tuple[float, float, float, float], ratio: float) -> Crop:
    """Move and resize an area of the whole as long as it agrees better."""
    wanted = np.asarray(part.resize((_FINE, _FINE), Image.Resampling.BILINEAR), np.float32).ravel()

    def agreement(x: float, y: float, width: float) -> tuple[float, float]:
        height = width / ratio
        left, top, right, bottom = max(0.0, x), max(0.0, y), min(1.0, x + width), min(1.0, y + height)
        if min(right - left, bottom - top) < 0.5:
            return -1.0, 0.0
        box = SIDE * left, SIDE * top, SIDE * right, SIDE * bottom
        pixels = whole.resize((_FINE, _FINE), Image.Resampling.BILINEAR, box=box)
        found = _correlate(np.asarray(pixels, np.float32).reshape(1, -1), wanted)
        return float(found[0]), (right - left) * (bottom - top)

    at, step = (area[0], area[1], area[2]), 1 / _COARSE
    best = agreement(*at)
    while step > 1 / 512:
        tried = [(at[0] + step * x, at[1] + step * y, at[2] + step * size) for x, y, size in _MOVES]
        values = [agreement(*place) for place in tried]
        top = max(range(len(values)), key=lambda index: values[index][0])
        if values[top][0] > best[0]:
            best, at = values[top], tried[top]
        else:
            step /= 2
    return Crop(*best)


def _correlate(rows: NDArray[Any], row: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the correlation of every one of `rows` with a row; 0 where one is constant."""
    rows = rows - rows.mean(1, keepdims=True)
    row = row - row.mean()
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(row)
    products: NDArray[np.float32] = rows @ row
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 1e-3)
