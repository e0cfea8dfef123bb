"""A benchmark as bars, in SVG written by hand: the same numbers are the same file on every machine. Free of torch."""

from __future__ import annotations

from html import escape

from effnets.bench.report import BenchReport, Row
from effnets.bench.svg import FONT, text
from effnets.bench.variants import OURS

__all__ = ["draw_bars"]

_WIDTH, _LABELS, _RIGHT = 860, 230, 120
_BAR, _GAP, _GROUP = 16, 4, 34
_COLOURS = {"timm": "#bbbbbb", "torchvision": "#d9c38f", "effnets": "#88aacc", "effnets rewritten": "#2266aa"}


def draw_bars(report: BenchReport) -> str:
    """One group of bars for each model and batch size, milliseconds for an image; shorter is faster."""
    groups = list(dict.fromkeys((row.model, row.batch) for row in report.rows))
    top = 64.0
    parts: list[str] = []
    for model, batch in groups:
        rows = [row for row in report.rows if (row.model, row.batch) == (model, batch)]
        parts.append(text(16, top + 14, f"{model} at {report.size_of(model)}, batch {batch}", size=13, weight="bold"))
        top += 24
        longest = max(row.milliseconds for row in rows)
        for row in rows:
            parts += _bar(row, top, longest)
            top += _BAR + _GAP
        top += _GROUP - _GAP - 10
    title = f"Milliseconds per image, {report.precision}, {report.threads} threads; shorter is faster"
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top:.0f}" width="{_WIDTH}" '
        f'height="{top:.0f}" role="img" font-size="11" {FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{top:.0f}" fill="#ffffff"/>',
        text(16, 24, title, size=15, weight="bold"),
        text(16, 44, str(report.machine), fill="#666666"),
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


def _bar(row: Row, top: float, longest: float) -> list[str]:
    """The bar, a whisker between the quartiles, and its numbers; of our own also how much faster than a peer."""
    scale = (_WIDTH - _LABELS - _RIGHT) / longest
    low, high = (min(quartile, longest) * scale + _LABELS for quartile in row.quartiles)
    middle = top + _BAR / 2
    over = ", ".join(f"{value:.2f}×" for value in row.speedups.values()) if row.path in OURS else ""
    number = f"{row.milliseconds:.2f}" + (f"  ({over})" if over else "")
    end = max(row.milliseconds * scale + _LABELS, high)
    return [
        text(_LABELS - 6, top + 12, f"{row.path}, {row.engine}", anchor="end"),
        f'<rect x="{_LABELS}" y="{top:.1f}" width="{row.milliseconds * scale:.1f}" height="{_BAR}" '
        f'fill="{_COLOURS[row.path]}"/>',
        f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}" stroke="#222222" stroke-width="1.2"/>',
        text(end + 6, top + 12, number),
    ]
