"""Draw named boxes into images. Free of torch."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from effnets.detection.predict import Box

_GOLDEN = 0.618034  # of the hues' circle: the next one is far from all before
_DASH = 4  # widths of a line


def draw_boxes(image: Image.Image, boxes: Sequence[Box], truth: Sequence[Box] = ()) -> Image.Image:
    """Return a copy of an image of mode "RGB" with boxes, their names and scores, in a color for each class.

    Lines and texts grow with the image. The best boxes are drawn last, on top.

    Args:
        image: upright.
        boxes: with solid lines.
        truth: with dashed lines and without names, for comparison.
    """
    drawn = image.convert("RGB")
    drawn = drawn.copy() if drawn is image else drawn
    canvas = ImageDraw.Draw(drawn)
    width = line_width(image.size)
    for box in truth:
        _dashed(canvas, box, class_color(box.index), width)
    ordered = sorted(boxes, key=lambda box: box.score)
    for box in ordered:
        canvas.rectangle(_corners(box), outline=class_color(box.index), width=width)
    font = _font(max(11, 6 * width))
    for box in ordered:
        _label(canvas, box, font, width, image.size)
    return drawn


def class_color(index: int) -> tuple[int, int, int]:
    """Return the color of a class, by its number from 1: bright, and different from those of its neighbors."""
    red, green, blue = colorsys.hsv_to_rgb((index - 1) * _GOLDEN % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def line_width(size: tuple[int, int]) -> int:
    """Return the width of lines in an image of (width, height), in pixels."""
    return max(2, round(min(size) / 200))


def _corners(box: Box) -> tuple[float, float, float, float]:
    return box.x1, box.y1, max(box.x1, box.x2 - 1), max(box.y1, box.y2 - 1)  # of the outermost pixels


def _dashed(canvas: ImageDraw.ImageDraw, box: Box, color: tuple[int, int, int], width: int) -> None:
    x1, y1, x2, y2 = (round(edge) for edge in _corners(box))
    step, inner = _DASH * width, width - 1
    for begin in range(x1, x2 + 1, 2 * step):
        end = min(begin + step - 1, x2)
        for top in (y1, max(y1, y2 - inner)):
            canvas.rectangle((begin, top, end, top + inner), fill=color)
    for begin in range(y1, y2 + 1, 2 * step):
        end = min(begin + step - 1, y2)
        for left in (x1, max(x1, x2 - inner)):
            canvas.rectangle((left, begin, left + inner, end), fill=color)


def _label(
    canvas: ImageDraw.ImageDraw,
    box: Box,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
    size: tuple[int, int],
) -> None:
    """Write the name and score above a box; inside of it where the image ends."""
    text = f"{box.label} {box.score:.2f}"
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    wide, high = right - left + 2 * width, bottom - top + 2 * width
    x = min(max(0.0, box.x1), max(0.0, size[0] - wide))
    y = box.y1 - high if box.y1 >= high else box.y1
    color = class_color(box.index)
    canvas.rectangle((x, y, x + wide, y + high), fill=color)
    # Rec. 601 luma: dark on bright colors.
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    ink = (0, 0, 0) if luma > 120 else (255, 255, 255)
    canvas.text((x + width - left, y + width - top), text, fill=ink, font=font)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return matplotlib's font, which has more of the world's letters than Pillow's own; this where it is missing."""
    if find_spec("matplotlib"):
        import matplotlib as mpl

        file = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)
