"""Pieces of plots in SVG, written by hand: the same numbers are the same file on every machine. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape

__all__ = ["FONT", "INK", "Axes", "text"]

FONT = "font-family=\"system-ui, 'DejaVu Sans', sans-serif\""
INK = "#222222"


def text(
    x: float, y: float, content: str, *, anchor: str = "start", size: int = 11, weight: str = "", fill: str = INK
) -> str:
    """A text whose baseline begins, ends or has its middle at a place, by its `anchor`."""
    bold = f' font-weight="{weight}"' if weight else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f'<text {place}{bold} fill="{fill}">{escape(content)}</text>'


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """A frame, and numbers → pixels within it: `x` on a logarithmic scale, `y` on a linear one.

    Attributes:
        left, top, right, bottom: of the frame, in pixels from the upper left corner.
        x_low, x_high, y_low, y_high: the numbers at its edges.
    """

    left: int
    top: int
    right: int
    bottom: int
    x_low: float
    x_high: float
    y_low: int
    y_high: int

    def x(self, value: float) -> float:
        """Pixels from the left."""
        share = math.log(value / self.x_low) / math.log(self.x_high / self.x_low)
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(self.bottom - share * (self.bottom - self.top), 1)

    def x_ticks(self, digits: Iterable[float]) -> list[float]:
        """Those numbers within the frame that are one of the `digits` times a power of ten."""
        decades = range(math.floor(math.log10(self.x_low)), math.ceil(math.log10(self.x_high)) + 1)
        ticks = [round(digit * 10.0**decade, 9) for decade in decades for digit in digits]
        return [tick for tick in ticks if self.x_low <= tick <= self.x_high]

    def draw(self, x_ticks: Iterable[float], y_ticks: Iterable[int], x_label: str, y_label: str) -> Iterator[str]:
        """Lines and numbers at the ticks, the frame, and what is on its axes."""
        for tick in x_ticks:
            x = self.x(tick)
            yield f'<path d="M{x} {self.top}V{self.bottom}" stroke="#e6e6e6"/>'
            yield text(x, self.bottom + 16, f"{tick:g}", anchor="middle")
        for tick in y_ticks:
            y = self.y(tick)
            yield f'<path d="M{self.left} {y}H{self.right}" stroke="#e6e6e6"/>'
            yield text(self.left - 6, y + 4, f"{tick}", anchor="end")
        yield f'<path d="M{self.left} {self.top}V{self.bottom}H{self.right}" fill="none" stroke="#333333"/>'
        yield text((self.left + self.right) / 2, self.bottom + 38, x_label, anchor="middle", size=12)
        middle = (self.top + self.bottom) / 2
        label = text(18, middle, y_label, anchor="middle", size=12)
        yield f'<g transform="rotate(-90 18 {middle})">{label}</g>'
