"""Whether a photograph is a part of another, by their pixels: small gray pictures are laid over each other."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

SIDE = 128  # pixels of a thumbnail, across and down

_COARSE, _FINE = 24, 64
_LEAST = 0.6  # of the area, that a crop is looked for to keep
_STEPS = 9  # sizes of crops that are tried, of which some are equal in the coarse picture
_TOO_LARGE = 1.03  # times the whole: more than rounding to pixels explains
_HOPELESS = 0.8  # agreement of the coarse pictures, below which finer ones are not compared
_NARROWEST = 0.5  # side of a crop, as a share of the whole's
_AROUND = 2  # pixels on each side that a detail is compared with
_MOVES = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))


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

    All crops are tried that keep 60 to 100 % of the area, first in pictures of 24 pixels, then around the best in finer
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
    for size in _sizes(ratio):
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


@lru_cache(1024)
def _sizes(ratio: float) -> list[tuple[int, int]]:
    """Return widths and heights of crops in the coarse picture."""
    sizes = {}
    for area in np.linspace(_LEAST, 1.0, _STEPS):
        width, height = float(area * ratio) ** 0.5, float(area / ratio) ** 0.5
        if max(width, height) < _TOO_LARGE:
            sizes[min(_COARSE, round(_COARSE * width)), min(_COARSE, round(_COARSE * height))] = True
    return list(sizes)


def _refine(whole: Image.Image, part: Image.Image, area: tuple[float, float, float, float], ratio: float) -> Crop:
    """Move and resize an area of the whole as long as it agrees better: first in all of it, then in its details."""
    wanted = np.asarray(part.resize((_FINE, _FINE), Image.Resampling.BILINEAR), np.float32)

    def agreement(x: float, y: float, width: float, details: bool) -> tuple[float, float]:
        height = width / ratio
        left, right = max(0.0, x - width / 2), min(1.0, x + width / 2)
        top, bottom = max(0.0, y - height / 2), min(1.0, y + height / 2)
        if min(right - left, bottom - top) < _NARROWEST:
            return -1.0, 0.0
        box = SIDE * left, SIDE * top, SIDE * right, SIDE * bottom
        pixels = np.asarray(whole.resize((_FINE, _FINE), Image.Resampling.BILINEAR, box=box), np.float32)
        pair = (_details(pixels), _details(wanted)) if details else (pixels, wanted)
        return float(_correlate(pair[0].reshape(1, -1), pair[1].ravel())[0]), (right - left) * (bottom - top)

    at = area[0] + area[2] / 2, area[1] + area[3] / 2, area[2]  # center, so that sizes change on both sides
    for details, step, last in ((False, 1 / _COARSE, 1 / 256), (True, 1 / 128, 1 / 1024)):
        best = agreement(*at, details)
        while step >= last:
            tried = [(at[0] + step * x, at[1] + step * y, at[2] + step * size) for x, y, size in _MOVES]
            values = [agreement(*place, details) for place in tried]
            top = max(range(len(values)), key=lambda index: values[index][0])
            if values[top][0] > best[0]:
                best, at = values[top], tried[top]
            else:
                step /= 2
        if best[0] < _HOPELESS:
            break
    return Crop(*best)


def _details(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return pixels minus their neighborhood's mean."""
    sums = np.pad(pixels, _AROUND, mode="reflect").cumsum(0).cumsum(1)
    sums = np.pad(sums, ((1, 0), (1, 0)))
    size = 2 * _AROUND + 1
    means = (sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]) / size**2
    return pixels - means


def _correlate(rows: NDArray[Any], row: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the correlation of every one of `rows` with a row; 0 where one is constant."""
    rows = rows - rows.mean(1, keepdims=True)
    row = row - row.mean()
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(row)
    products: NDArray[np.float32] = rows @ row
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 1e-3)
