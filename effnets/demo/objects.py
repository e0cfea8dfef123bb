"""Leaves, cups, keys and stars, no two alike: a small data set whose classes no network has learned. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from effnets.demo.canvas import Canvas, Colour, Point, box, curve, ellipse, moved

__all__ = ["OBJECTS", "draw_object", "write_data"]

_Place = Callable[[list[Point]], list[Point]]

_TABLES: tuple[tuple[Colour, Colour], ...] = (
    ((196, 160, 118), (150, 112, 76)),
    ((206, 206, 202), (160, 160, 158)),
    ((98, 112, 128), (58, 68, 82)),
    ((176, 196, 182), (124, 148, 132)),
    ((88, 66, 54), (52, 38, 32)),
    ((214, 196, 196), (170, 146, 150)),
)
_LEAVES: tuple[Colour, ...] = ((104, 158, 58), (66, 122, 52), (196, 156, 48), (190, 92, 40))
_CUPS: tuple[Colour, ...] = (
    (238, 236, 230),
    (72, 124, 178),
    (198, 70, 62),
    (230, 178, 66),
    (86, 142, 106),
    (60, 60, 68),
)
_DRINKS: tuple[Colour, ...] = ((58, 34, 22), (150, 84, 34), (232, 226, 212))
_KEYS: tuple[Colour, ...] = ((206, 174, 88), (188, 192, 198), (160, 116, 74))
_STARS: tuple[Colour, ...] = ((244, 200, 66), (226, 84, 72), (240, 238, 232), (112, 168, 216), (204, 132, 190))


def draw_object(name: str, size: int, generator: Generator) -> Image.Image:
    """One picture of a class of `OBJECTS`: place, size, turn, colours, ground and light are drawn by `generator`."""
    canvas = Canvas(size, seed=int(generator.integers(1 << 31)))
    top, bottom = _TABLES[generator.integers(len(_TABLES))]
    canvas.backdrop((0.0, _varied(top, generator)), (1.0, _varied(bottom, generator)))
    canvas.texture(grain=tuple(generator.uniform(0.02, 0.2, 2).tolist()), strength=float(generator.uniform(3, 12)))
    centre, scale = generator.uniform(0.42, 0.58, 2), float(generator.uniform(0.7, 1.1))
    turn = float(generator.uniform(-12, 12) if name == "cup" else generator.uniform(0, 360))

    def place(points: list[Point]) -> list[Point]:
        return moved(points, (float(centre[0]), float(centre[1])), scale=scale, degrees=turn)

    OBJECTS[name](canvas, place, generator)
    light = (float(generator.uniform(0, 1)), float(generator.uniform(0, 0.4)))
    canvas.glow(ellipse(light, (0.4, 0.3)), strength=float(generator.uniform(0, 0.25)), soft=0.15)
    return canvas.finish(blur=float(generator.uniform(0.2, 0.7)), grain=float(generator.uniform(1, 6)))


def write_data(folder: Path, counts: Mapping[str, int], *, size: int = 64, seed: int = 0) -> Path:
    """A data set by class, with so many pictures of each class in each split of `counts` (train, val, test).

    Raises:
        OSError: the disk refuses.
    """
    for split_number, (split, count) in enumerate(counts.items()):
        for class_number, name in enumerate(OBJECTS):
            generator = np.random.default_rng((seed, split_number, class_number))
            here = folder / split / name
            here.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                draw_object(name, size, generator).save(here / f"{number:03}.png")
    return folder


def _leaf(canvas: Canvas, place: _Place, generator: Generator) -> None:
    colour, broad = _pick(_LEAVES, generator), float(generator.uniform(0.16, 0.26))
    outline = curve((0.0, -0.44), (broad * 0.7, -0.24), (broad, 0.0), (broad * 0.65, 0.2), (0.0, 0.33),
                    (-broad * 0.65, 0.2), (-broad, 0.0), (-broad * 0.7, -0.24))  # fmt: skip
    _cast(canvas, place(outline))
    vein = _shaded(colour, 0.7)
    canvas.line(place([(0.0, 0.3), (0.015, 0.47)]), 0.018, vein)
    canvas.shape(place(outline), _shaded(colour, 1.15), _shaded(colour, 0.75))
    canvas.line(place([(0.0, -0.36), (0.0, 0.32)]), 0.012, vein)
    for height in (-0.2, -0.08, 0.04, 0.16):
        reach = broad * (0.7 - abs(height))
        for side in (-1, 1):
            canvas.line(place([(0.0, height + 0.06), (side * reach, height - 0.04)]), 0.007, vein)


def _cup(canvas: Canvas, place: _Place, generator: Generator) -> None:
    colour, side = _pick(_CUPS, generator), float(generator.choice([-1, 1]))
    width, taper = float(generator.uniform(0.24, 0.3)), float(generator.uniform(0.65, 0.95))
    _cast(canvas, place(ellipse((0.0, 0.31), (width * 1.2, 0.07))))
    turn = 0.0 if side > 0 else 180.0
    handle = ellipse((side * width * 0.95, 0.0), (0.15, 0.16), degrees=turn, start=-100, end=100)
    canvas.line(place(handle), 0.05, _shaded(colour, 0.8))
    wall = [(-width, -0.24), (width, -0.24), *ellipse((0.0, 0.28), (width * taper, 0.06), start=0, end=180)]
    canvas.shape(place(wall), _shaded(colour, 1.05), _shaded(colour, 0.65))
    canvas.glow(place(box(-width * 0.7, -0.18, -width * 0.45, 0.24)), strength=0.35, soft=0.02)
    canvas.shape(place(ellipse((0.0, -0.24), (width, 0.075))), _shaded(colour, 1.12))
    drink = _pick(_DRINKS, generator)
    canvas.shape(place(ellipse((0.0, -0.23), (width * 0.87, 0.055))), _shaded(drink, 0.8), drink)


def _key(canvas: Canvas, place: _Place, generator: Generator) -> None:
    colour, bow = _pick(_KEYS, generator), float(generator.uniform(0.12, 0.17))
    # Out along the rim and back along the hole: one outline with a slit that has no width.
    ring = [*ellipse((0.0, -0.3), (bow, bow)), *reversed(ellipse((0.0, -0.3), (bow * 0.55, bow * 0.55)))]
    parts = [ring, box(-0.03, -0.3 + bow, 0.03, 0.44)]
    for tooth in range(int(generator.integers(2, 4))):
        parts.append(box(0.0, 0.38 - 0.11 * tooth, 0.13 - 0.02 * tooth, 0.43 - 0.11 * tooth))
    for part in parts:
        _cast(canvas, place(part))
    for part in parts:
        canvas.shape(place(part), _shaded(colour, 1.15), _shaded(colour, 0.75))


def _star(canvas: Canvas, place: _Place, generator: Generator) -> None:
    colour, inner = _pick(_STARS, generator), float(generator.uniform(0.36, 0.5))
    corners = int(generator.integers(5, 7))
    tips = [
        moved([(0.0, -0.42 * (inner if step % 2 else 1))], (0.0, 0.0), degrees=180 * step / corners)[0]
        for step in range(2 * corners)
    ]
    _cast(canvas, place(tips))
    canvas.shape(place(tips), _shaded(colour, 1.1), _shaded(colour, 0.85))
    for step in range(0, 2 * corners, 2):
        canvas.shape(place([tips[step], tips[step + 1], (0.0, 0.0)]), _shaded(colour, 0.85), _shaded(colour, 0.65))


# Class → what draws it.
OBJECTS: Mapping[str, Callable[[Canvas, _Place, Generator], None]] = {
    "cup": _cup,
    "key": _key,
    "leaf": _leaf,
    "star": _star,
}


def _cast(canvas: Canvas, outline: list[Point]) -> None:
    canvas.shadow(moved(outline, (0.02, 0.025)), strength=0.5, soft=0.015)


def _pick(colours: tuple[Colour, ...], generator: Generator) -> Colour:
    return _varied(colours[generator.integers(len(colours))], generator)


def _varied(colour: Colour, generator: Generator) -> Colour:
    red, green, blue = (int(level) for level in np.clip(np.array(colour) + generator.normal(0, 9, 3), 0, 255))
    return red, green, blue


def _shaded(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(level * factor)) for level in colour)
    return red, green, blue
