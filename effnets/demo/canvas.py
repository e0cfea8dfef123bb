"""A canvas for pictures that look a little like photographs: soft edges, light from above, texture. Free of torch.

Places and lengths are parts of the picture's side: (0, 0) is its upper left corner, (1, 1) its lower right one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["Canvas", "Colour", "Point", "box", "curve", "ellipse", "moved"]

Point = tuple[float, float]
Colour = tuple[int, int, int]

_FINER = 3  # drawn so many times as large, and scaled down, which smooths edges
_CURVE_STEPS = 8


def ellipse(
    centre: Point, radii: Point, *, degrees: float = 0.0, start: float = 0.0, end: float = 360.0
) -> list[Point]:
    """The outline of an ellipse, turned clockwise by `degrees`, or of a part of it, from `start` to `end` clockwise."""
    turns = np.radians(np.linspace(start, end, 48))
    points = np.stack([np.cos(turns) * radii[0], np.sin(turns) * radii[1]], axis=1)
    return moved([(x, y) for x, y in points.tolist()], centre, degrees=degrees)


def box(left: float, top: float, right: float, bottom: float, *, radius: float = 0.0) -> list[Point]:
    """The outline of a rectangle with rounded corners."""
    if not radius:
        return [(left, top), (right, top), (right, bottom), (left, bottom)]
    corners = ((right, top, -90.0), (right, bottom, 0.0), (left, bottom, 90.0), (left, top, 180.0))
    points: list[Point] = []
    for x, y, start in corners:
        inward = (x - math.copysign(radius, x - left - 1e-9), y - math.copysign(radius, y - top - 1e-9))
        points += ellipse(inward, (radius, radius), start=start, end=start + 90)
    return points


def curve(*points: Point) -> list[Point]:
    """A closed smooth outline through `points` (Catmull and Rom's spline)."""
    places = np.array(points)
    before, after, beyond = (np.roll(places, shift, axis=0) for shift in (1, -1, -2))
    steps = np.linspace(0, 1, _CURVE_STEPS, endpoint=False)[None, :, None]
    a, b, c, d = (each[:, None, :] for each in (before, places, after, beyond))
    spline = 0.5 * (
        2 * b + (c - a) * steps + (2 * a - 5 * b + 4 * c - d) * steps**2 + (3 * b - a - 3 * c + d) * steps**3
    )
    return [(x, y) for x, y in spline.reshape(-1, 2).tolist()]


def moved(points: Sequence[Point], by: Point, *, scale: float = 1.0, degrees: float = 0.0) -> list[Point]:
    """Points around (0, 0), scaled, turned clockwise and brought to `by`."""
    cosine, sine = math.cos(math.radians(degrees)) * scale, math.sin(math.radians(degrees)) * scale
    return [(by[0] + x * cosine - y * sine, by[1] + x * sine + y * cosine) for x, y in points]


class Canvas:
    """A square picture in the making.

    Args:
        size: side of the finished picture in pixels.
        seed: of texture.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self._size, self._side = size, size * _FINER
        self._generator = np.random.default_rng(seed)
        self._image = Image.new("RGB", (self._side, self._side))

    def finish(self, *, blur: float = 0.5, grain: float = 3.0) -> Image.Image:
        """The picture, as a lens of so much `blur` (pixels) and a sensor of so much `grain` (levels of 255) see it."""
        image = self._image.resize((self._size, self._size), Image.Resampling.BOX)
        pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(blur)), np.float32)
        noise = self._generator.normal(0, grain, (self._size, self._size, 1)).astype(np.float32)
        return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))

    def backdrop(self, *stops: tuple[float, Colour]) -> None:
        """Fill the picture from top to bottom with colours at heights, blended between them."""
        self._image.paste(self._gradient(*stops))

    def shape(self, points: Sequence[Point], top: Colour, bottom: Colour | None = None, *, soft: float = 0.0) -> None:
        """Fill an outline, from its top to its bottom from one colour to the other; `soft` blurs its edge."""
        heights = [y for _, y in points]
        fill = self._gradient((min(heights), top), (max(heights), bottom or top))
        self._image.paste(fill, mask=self._mask(points, soft))

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A stroke through points, with round ends."""
        places = [(x * self._side, y * self._side) for x, y in points]
        draw, thick = ImageDraw.Draw(self._image), max(1.0, width * self._side)
        draw.line(places, fill=colour, width=round(thick), joint="curve")
        for x, y in (places[0], places[-1]):
            draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=colour)

    def shadow(self, points: Sequence[Point], *, strength: float = 0.5, soft: float = 0.03) -> None:
        """Darken what lies inside an outline, softly."""
        self._tint(self._mask(points, soft), (10, 12, 20), strength)

    def glow(self, points: Sequence[Point], *, strength: float = 0.5, soft: float = 0.03) -> None:
        """Lighten what lies inside an outline, softly."""
        self._tint(self._mask(points, soft), (255, 253, 245), strength)

    def texture(
        self, *, grain: Point = (0.02, 0.02), strength: float = 12.0, inside: Sequence[Point] | None = None
    ) -> None:
        """Vary brightness by spots of about `grain` (width, height), by about `strength` levels of 255."""
        shape = tuple(max(2, round(1 / part)) for part in reversed(grain))
        spots = Image.fromarray(self._generator.normal(0, 1, shape).astype(np.float32))
        noise = np.asarray(spots.resize(self._image.size, Image.Resampling.BICUBIC))[..., None]
        pixels = np.asarray(self._image, np.float32) + strength * noise
        varied = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        self._image.paste(varied, mask=None if inside is None else self._mask(inside, 0.0))

    def _tint(self, mask: Image.Image, colour: Colour, strength: float) -> None:
        self._image.paste(colour, mask=mask.point(lambda level: round(level * strength)))

    def _mask(self, points: Sequence[Point], soft: float) -> Image.Image:
        mask = Image.new("L", self._image.size)
        ImageDraw.Draw(mask).polygon([(x * self._side, y * self._side) for x, y in points], fill=255)
        return mask.filter(ImageFilter.GaussianBlur(soft * self._side)) if soft else mask

    def _gradient(self, *stops: tuple[float, Colour]) -> Image.Image:
        heights, colours = [height for height, _ in stops], np.array([colour for _, colour in stops], np.float32)
        rows = (np.arange(self._side) + 0.5) / self._side
        column: NDArray[np.float32] = np.stack([np.interp(rows, heights, channel) for channel in colours.T], axis=1)
        return Image.fromarray(column.astype(np.uint8)[:, None]).resize(self._image.size, Image.Resampling.NEAREST)
