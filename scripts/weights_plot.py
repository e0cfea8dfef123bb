"""A scatter plot of published weights as SVG, written by hand: the same numbers are the same file on every machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from effnets.bench.plot_labels import Box
from effnets.bench.svg import FONT, Axes, text

__all__ = ["Point", "draw"]

WIDTH, HEIGHT = 1000, 640
LEFT, RIGHT, TOP, BOTTOM = 62, 22, 66, 52
LETTER, LINE = 6.2, 11  # an estimate of a letter's width, and a line's height, at FONT_SIZE
FONT_SIZE, RADIUS = 10, 4.2
COLOURS = ("#3366aa", "#dd7711", "#229955", "#aa3377", "#777777")
SHAPES = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One set of weights: `x` and `y`, its family (colour), its publisher (shape), what it is called, and its label."""

    x: float
    y: float
    family: str
    publisher: str
    name: str
    label: str = ""
    line: str = ""  # points of the same non-empty line are joined


def draw(points: Sequence[Point], *, title: str, x_label: str, y_label: str) -> str:
    """The plot, `x` on a logarithmic scale."""
    axes = make_axes(points)
    families, publishers = unique(point.family for point in points), unique(point.publisher for point in points)
    colour = dict(zip(families, COLOURS, strict=False))
    shape = dict(zip(publishers, SHAPES, strict=False))
    assert len(colour) == len(families), "one colour for each family"
    assert len(shape) == len(publishers), "one shape for each publisher"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" font-size="{FONT_SIZE}" {FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        text(LEFT, 22, title, size=15, weight="bold"),
        *axes.draw(axes.x_ticks((1, 2, 5)), range(axes.y_low, axes.y_high + 1, 5), x_label, y_label),
        *draw_legend(families, publishers, colour, shape),
    ]
    for line in unique(point.line for point in points if point.line):
        members = sorted((axes.x(p.x), axes.y(p.y), colour[p.family]) for p in points if p.line == line)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in sorted(members, key=lambda member: member[1]))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{members[0][2]}" stroke-opacity="0.35"/>')
    for point in points:
        mark = draw_mark(shape[point.publisher], axes.x(point.x), axes.y(point.y), colour[point.family])
        tip = escape(f"{point.name}: {point.y:.1f} %")
        parts.append(f"<g><title>{tip}</title>{mark}</g>")
    parts += place_labels(points, axes, colour)
    return "\n".join([*parts, "</svg>"]) + "\n"


def make_axes(points: Sequence[Point]) -> Axes:
    return Axes(
        left=LEFT,
        top=TOP,
        right=WIDTH - RIGHT,
        bottom=HEIGHT - BOTTOM,
        x_low=min(p.x for p in points) / 1.15,
        x_high=max(p.x for p in points) * 1.25,
        y_low=math.floor(min(p.y for p in points) / 5) * 5,
        y_high=math.ceil((max(p.y for p in points) + 1) / 5) * 5,
    )


def draw_legend(
    families: Sequence[str], publishers: Sequence[str], colour: dict[str, str], shape: dict[str, str]
) -> list[str]:
    parts, x = [], LEFT + 6.0
    keys = [(name, "circle", colour[name], True) for name in families]
    keys += [(name, shape[name], "#333333", False) for name in publishers]
    for name, mark, fill, solid in keys:
        parts.append(draw_mark(mark, x, 45, fill if solid else "#ffffff", stroke=fill))
        parts.append(text(x + 9, 49, name, size=12))
        x += 30 + 7.2 * len(name)
    return parts


def draw_mark(shape: str, x: float, y: float, fill: str, *, stroke: str = "#ffffff") -> str:
    look = f'fill="{fill}" stroke="{stroke}" stroke-width="0.8"'
    match shape:
        case "circle":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}" {look}/>'
        case "square":
            corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
        case "triangle":
            corners = ((0, -1.25), (1.15, 0.9), (-1.15, 0.9))
        case _:
            corners = ((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0))
    path = " ".join(f"{x + a * RADIUS * 0.9:.1f},{y + b * RADIUS * 0.9:.1f}" for a, b in corners)
    return f'<polygon points="{path}" {look}/>'


def place_labels(points: Sequence[Point], axes: Axes, colour: dict[str, str]) -> list[str]:
    """Labels beside their points where there is room, from the most accurate down; those without room are left out."""
    marks = [(axes.x(p.x), axes.y(p.y)) for p in points]
    taken = [Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in marks]
    frame = Box(LEFT, TOP, WIDTH - 2, HEIGHT - BOTTOM)
    parts = []
    for point in sorted((p for p in points if p.label), key=lambda p: (-p.y, p.name)):
        x, y = axes.x(point.x), axes.y(point.y)
        width, gap = LETTER * len(point.label), RADIUS + 2
        offsets = (
            *((gap, 3.5), (-gap - width, 3.5), (-width / 2, -gap), (-width / 2, gap + LINE - 3)),
            *((gap - 2, -gap + 1), (gap - 2, gap + 8), (2 - gap - width, -gap + 1), (2 - gap - width, gap + 8)),
        )
        for right, down in offsets:
            box = Box(x + right, y + down - LINE + 2, x + right + width, y + down + 2)
            inside = frame.left <= box.left and box.right <= frame.right and frame.top <= box.top
            if inside and box.bottom <= frame.bottom and not any(box.meets(other) for other in taken):
                taken.append(box)
                parts.append(text(x + right, y + down, point.label, size=FONT_SIZE, fill=colour[point.family]))
                break
    return parts


def unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
