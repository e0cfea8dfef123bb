"""Accuracy against latency as SVG: what was measured, the Pareto front, the limits, and the one that was chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from html import escape

from effnets.bench.choose import Candidate, Limits, pareto_front
from effnets.bench.plot_labels import LINE, Box, along, place_labels, width_of
from effnets.bench.svg import FONT, INK, Axes, text

__all__ = ["draw_choice"]

_WIDTH, _HEIGHT = 1000, 620
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 26, 78, 56
_COLOURS = ("#3366aa", "#dd7711", "#229955", "#aa3377", "#777777", "#998800", "#0099bb")
_RADIUS, _RING, _LIMIT = 4.2, 9.0, "#bb2222"


def draw_choice(
    candidates: Sequence[Candidate], limits: Limits, *, chosen: Candidate | None, title: str, x_label: str
) -> str:
    """The plot, latency on a logarithmic scale. Only what is on the front is named; a browser shows the other names.

    Args:
        candidates: those without latency are left out. limits: those of latency and top-1 are drawn.
        chosen: gets a ring. title, x_label: what was measured, and in which unit.
    """
    points = [candidate for candidate in candidates if candidate.latency is not None]
    front = pareto_front(points)
    axes = _axes(points, limits)
    families = sorted({point.family for point in points})
    colour = {family: _COLOURS[index % len(_COLOURS)] for index, family in enumerate(families)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" role="img" {FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        text(_LEFT, 24, title, size=15, weight="bold"),
        *_legend(colour),
        *axes.draw(_time_ticks(axes), _accuracy_ticks(axes), x_label, "published ImageNet top-1 (%)"),
    ]
    # What labels must keep clear of: all marks, the lines of the limits with their texts, and the line of the front.
    taken = [_around(_place(axes, point), _RING if point is chosen else _RADIUS) for point in points]
    for line, boxes in _draw_limits(axes, limits):
        parts.append(line)
        taken += boxes
    corners = [_place(axes, point) for point in front]
    if len(corners) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        parts.append(f'<polyline points="{path}" fill="none" stroke="#555555" stroke-opacity="0.45"/>')
        taken += [box for start, end in itertools.pairwise(corners) for box in along(start, end)]
    on_front = {point.name for point in front}
    for point in sorted(points, key=lambda point: point.name in on_front):
        parts.append(_draw_point(axes, point, colour[point.family], point.name in on_front))
    if chosen is not None and chosen.latency is not None:
        x, y = _place(axes, chosen)
        parts.append(f'<circle cx="{x}" cy="{y}" r="{_RING}" fill="none" stroke="{INK}" stroke-width="2"/>')
    frame = Box(_LEFT + 2, _TOP + 2, _WIDTH - 4, _HEIGHT - _BOTTOM - 2)
    # The chosen one first, so that it gets the best place; the others from the most accurate down.
    first = sorted(front, key=lambda point: (point is not chosen, -point.top1))
    named = list({point.network.key: point for point in reversed(first)}.values())[::-1]
    labels = [(_place(axes, point), _name(point), _RING if point is chosen else _RADIUS) for point in named]
    for point, label in zip(named, place_labels(labels, taken, frame), strict=True):
        if label is None:
            continue
        if label.leader:
            (x, y), (to_x, to_y) = _place(axes, point), label.leader
            parts.append(f'<path d="M{x} {y}L{to_x:.1f} {to_y:.1f}" stroke="#999999" stroke-width="0.7"/>')
        weight = "bold" if point is chosen else ""
        parts.append(
            text(label.x, label.y, _name(point), anchor=label.anchor, weight=weight, fill=colour[point.family])
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes(points: Sequence[Candidate], limits: Limits) -> Axes:
    """With room for the points and for the limits."""
    times = [point.latency for point in points if point.latency is not None]
    times += [limits.max_latency] if limits.max_latency else []
    accuracies = [point.top1 for point in points] + ([limits.min_top1] if limits.min_top1 else [])
    times, accuracies = times or [1.0], accuracies or [50.0]
    margin = max(1.0, 0.06 * (max(accuracies) - min(accuracies)))
    return Axes(
        left=_LEFT,
        top=_TOP,
        right=_WIDTH - _RIGHT,
        bottom=_HEIGHT - _BOTTOM,
        x_low=min(times) / 1.3,
        x_high=max(times) * 1.4,
        y_low=max(0, math.floor(min(accuracies) - margin)),
        y_high=min(100, math.ceil(max(accuracies) + margin)),
    )


def _time_ticks(axes: Axes) -> list[float]:
    """The finest scale that does not crowd."""
    for digits in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 2, 3, 5, 7), (1, 2, 5), (1,)):
        ticks = axes.x_ticks(digits)
        if len(ticks) <= 12:
            break
    return ticks


def _accuracy_ticks(axes: Axes) -> list[int]:
    step = next((step for step in (1, 2, 5) if (axes.y_high - axes.y_low) / step <= 14), 10)
    return [tick for tick in range(axes.y_low, axes.y_high + 1) if tick % step == 0]


def _place(axes: Axes, point: Candidate) -> tuple[float, float]:
    assert point.latency is not None, "asked for what was measured"
    return axes.x(point.latency), axes.y(point.top1)


def _draw_limits(axes: Axes, limits: Limits) -> Iterator[tuple[str, list[Box]]]:
    """The lines of the limits with their texts, and what place they take."""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    if limits.max_latency is not None:
        x, content = axes.x(limits.max_latency), f"at most {limits.max_latency:g} ms"
        line = f'<path d="M{x} {_TOP}V{bottom}" stroke="{_LIMIT}" stroke-dasharray="5 4"/>'
        # Above the frame, where no point and no label can be.
        yield line + text(x, _TOP - 6, content, anchor="middle", fill=_LIMIT), [Box(x - 2, _TOP, x + 2, bottom)]
    if limits.min_top1 is not None:
        y, content = axes.y(limits.min_top1), f"at least {limits.min_top1:g} %"
        start = right - width_of(content)
        line = f'<path d="M{_LEFT} {y}H{right}" stroke="{_LIMIT}" stroke-dasharray="5 4"/>'
        boxes = [Box(_LEFT, y - 2, right, y + 2), Box(start, y, right, y + LINE + 4)]
        yield line + text(right, y + LINE + 2, content, anchor="end", fill=_LIMIT), boxes


def _draw_point(axes: Axes, point: Candidate, colour: str, on_front: bool) -> str:
    x, y = _place(axes, point)
    tip = escape(f"{point.label}: {point.top1:.1f} % in {point.latency:.2f} ms, {point.params / 1e6:.2f} M parameters")
    look = f'fill="{colour}" stroke="#ffffff"' if on_front else f'fill="#ffffff" stroke="{colour}"'
    return f'<g><title>{tip}</title><circle cx="{x}" cy="{y}" r="{_RADIUS}" {look}/></g>'


def _legend(colour: dict[str, str]) -> Iterator[str]:
    x = _LEFT + 6.0
    for family, fill in colour.items():
        yield f'<circle cx="{x:.1f}" cy="44" r="{_RADIUS}" fill="{fill}"/>' + text(x + 9, 48, family, size=12)
        x += 28 + 1.1 * width_of(family)
    note = "filled: on the Pareto front · ring: recommended"
    yield text(_WIDTH - _RIGHT, 24, note, anchor="end", size=12, fill="#666666")


def _name(point: Candidate) -> str:
    # Without the tag, which the table has: of one network at one size only one is on the front.
    return f"{point.name.partition('.')[0]} at {point.network.size}"


def _around(place: tuple[float, float], radius: float) -> Box:
    x, y = place
    return Box(x - radius, y - radius, x + radius, y + radius)
