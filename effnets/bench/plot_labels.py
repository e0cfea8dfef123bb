"""Where the labels of a plot stand so that none lies on another, on a mark, or on a line. Units are pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["LINE", "Box", "Label", "along", "place_labels", "width_of"]

# An estimate of a letter's width, bold and wide ones included, and a line's height, at font size 11.
_LETTER, LINE = 6.6, 12
_GAP = 3.0


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; y grows downward."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two overlap; touching is none."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def inside(self, frame: Box) -> bool:
        """Whether nothing of it stands out of `frame`."""
        sideways = frame.left <= self.left and self.right <= frame.right
        return sideways and frame.top <= self.top and self.bottom <= frame.bottom


@dataclass(frozen=True, slots=True)
class Label:
    """Where a text stands on its baseline, by its `anchor` (start or end), what it covers, and where a line leads to
    from its point, if it is far."""

    x: float
    y: float
    anchor: str
    box: Box
    leader: tuple[float, float] | None


def width_of(text: str) -> float:
    """Of a text at font size 11, estimated."""
    return _LETTER * len(text)


def along(start: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    """Small boxes that cover a line."""
    steps = max(1, math.ceil(math.dist(start, end) / 3))
    places = (
        (start[0] + (end[0] - start[0]) * i / steps, start[1] + (end[1] - start[1]) * i / steps)
        for i in range(steps + 1)
    )
    return [Box(x - 1.5, y - 1.5, x + 1.5, y + 1.5) for x, y in places]


def place_labels(
    labels: Sequence[tuple[tuple[float, float], str, float]], taken: Sequence[Box], frame: Box
) -> list[Label | None]:
    """A place for each label: the nearest free one to its point; None where there is no room at all.

    Args:
        labels: point, text, and radius of the point's mark; the first chooses first.
        taken: what is to be kept clear. frame: where labels may be.
    """
    occupied = list(taken)
    placed: list[Label | None] = []
    for point, text, radius in labels:
        label = next((label for label in _places(point, width_of(text), radius) if _free(label, occupied, frame)), None)
        if label is not None:
            occupied.append(label.box)
            if label.leader is not None:
                occupied += along(point, label.leader)[3:]
        placed.append(label)
    return placed


def _free(label: Label, occupied: Sequence[Box], frame: Box) -> bool:
    return label.box.inside(frame) and not any(label.box.meets(other) for other in occupied)


def _places(point: tuple[float, float], width: float, radius: float) -> Iterator[Label]:
    """Beside the point first, then ever farther round it, with a leading line."""
    x, y = point
    near = radius + _GAP
    middle, above, below = y + LINE * 0.35, y - near, y + near + LINE * 0.75
    for sideways, baseline in ((near, middle), (near / 2, below), (near / 2, above)):
        yield _label(x + sideways, baseline, width, "start", None)
        yield _label(x - sideways, baseline, width, "end", None)
    for distance in range(20, 260, 12):
        for turn in range(16):
            angle = math.radians(45 + 22.5 * turn)
            to_x, to_y = x + distance * math.cos(angle), y + distance * math.sin(angle)
            anchor, sideways = ("start", 2) if math.cos(angle) >= 0 else ("end", -2)
            yield _label(to_x + sideways, to_y + LINE * 0.35, width, anchor, (to_x, to_y))


def _label(x: float, baseline: float, width: float, anchor: str, leader: tuple[float, float] | None) -> Label:
    left = x - width if anchor == "end" else x
    return Label(x, baseline, anchor, Box(left, baseline - LINE + 2, left + width, baseline + 3), leader)
