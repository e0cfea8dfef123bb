"""Plots as SVG: a benchmark's bars, accuracy against latency, accuracy of published weights against their costs.

Texts stay texts, and marks have tooltips.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from effnets.bench.choose import Limits, ModelCandidate, pareto_front
from effnets.bench.report import BenchReport
from effnets.bench.variants import OURS
from effnets.report.charts import INK, MUTED, drawing_style

COLORS = ("#3366aa", "#dd7711", "#229955", "#aa3377", "#777777", "#998800", "#0099bb")
_MARKERS = ("o", "s", "^", "D")
_BARS = {"timm": "#bbbbbb", "torchvision": "#d9c38f", "effnets": "#88aacc", "effnets rewritten": "#2266aa"}
_LIMIT = "#bb2222"
_SIZE = (13.9, 8.6)  # inches of 72 pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A set of published weights in a plot.

    Attributes:
        x, y: its place. family: decides its color. publisher: decides its marker.
        name: in its tooltip. label: beside it; none if empty. line: points of the same non-empty line are joined.
    """

    x: float
    y: float
    family: str
    publisher: str
    name: str
    label: str = ""
    line: str = ""


def draw_bars(report: BenchReport) -> str:
    """Draw milliseconds per image as bars, a group for each model and batch size; the shortest is the fastest."""
    groups = list(dict.fromkeys((row.model, row.batch) for row in report.rows))
    title = f"Milliseconds per image, {report.precision}, {report.threads} threads; shorter is faster"
    with drawing_style():
        rows = [[row for row in report.rows if (row.model, row.batch) == group] for group in groups]
        heights = [len(group) + 1.6 for group in rows]
        figure = Figure(figsize=(10, 0.9 + 0.27 * sum(heights)), dpi=72, layout="constrained")
        figure.suptitle(f"{title}\n{report.machine}", x=0.01, ha="left", fontsize=13)
        plots = figure.subplots(len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        tips = {}
        for number, (plot, (model, batch), group) in enumerate(zip(plots, groups, rows, strict=True)):
            longest = max(row.milliseconds for row in group)
            for place, row in enumerate(group):
                gid = f"bar-{number}-{place}"
                plot.barh(place, row.milliseconds, 0.8, color=_BARS[row.path])[0].set_gid(gid)
                low, high = (min(quartile, longest) for quartile in row.quartiles)
                plot.plot([low, high], [place, place], color=INK, linewidth=1.2)
                over = ", ".join(f"{value:.2f}×" for value in row.speedups.values()) if row.path in OURS else ""
                text = f"{row.milliseconds:.2f}" + (f"  ({over})" if over else "")
                plot.text(max(row.milliseconds, high) + 0.01 * longest, place, text, va="center", fontsize=10)
                tips[gid] = f"{row.path}, {row.engine}: {row.milliseconds:.2f} ms"
            plot.set_yticks(range(len(group)), [f"{row.path}, {row.engine}" for row in group], color=INK)
            plot.set_title(f"{model} at {report.size_of(model)}, batch {batch}", loc="left", fontsize=11, weight="bold")
            plot.set_xlim(0, 1.18 * longest)
            plot.set_xticks([])
            plot.invert_yaxis()
            for spine in plot.spines.values():
                spine.set_visible(False)
        return to_svg(figure, title, tips)


def draw_choice(
    candidates: Sequence[ModelCandidate], limits: Limits, *, chosen: ModelCandidate | None, title: str, x_label: str
) -> str:
    """Draw accuracy against latency on a logarithmic scale, with the Pareto front, the limits and the chosen network.

    Only networks on the front have labels; tooltips name the others.

    Args:
        candidates: those without latency are left out. limits: of latency and top-1.
        chosen: gets a ring. title, x_label: what was measured, and in which unit.
    """
    measured = [(one, one.latency) for one in candidates if one.latency is not None]
    front = pareto_front([one for one, _ in measured])
    families = sorted({one.family for one, _ in measured})
    color = dict(zip(families, itertools.cycle(COLORS), strict=False))
    with drawing_style():
        figure, plot = _axes(title, x_label, "published ImageNet top-1 (%)")
        times = [latency for _, latency in measured] + ([limits.max_latency] if limits.max_latency else [])
        accuracies = [one.top1 for one, _ in measured] + ([limits.min_top1] if limits.min_top1 else [])
        _set_limits(plot, times or [1.0], accuracies or [50.0])
        if limits.max_latency is not None:
            plot.axvline(limits.max_latency, color=_LIMIT, linestyle="--", linewidth=1, gid="limit-latency")
            plot.text(limits.max_latency, 1.005, f"at most {limits.max_latency:g} ms", color=_LIMIT, ha="center",
                      va="bottom", transform=plot.get_xaxis_transform())  # fmt: skip
        if limits.min_top1 is not None:
            plot.axhline(limits.min_top1, color=_LIMIT, linestyle="--", linewidth=1, gid="limit-top1")
            plot.text(1, limits.min_top1, f"at least {limits.min_top1:g} % ", color=_LIMIT, ha="right", va="top",
                      transform=plot.get_yaxis_transform())  # fmt: skip
        plot.plot([one.latency or 0 for one in front], [one.top1 for one in front], color="#999999", lw=1, zorder=1)
        tips = {}
        for number, (one, latency) in enumerate(measured):
            tips[f"mark-{number}"] = (
                f"{one.label}: {one.top1:.1f} % in {latency:.2f} ms, {one.params / 1e6:.2f} M parameters"
            )
            _mark(plot, (latency, one.top1), color[one.family], "o", f"mark-{number}", filled=one in front)
        if chosen is not None and chosen.latency is not None:
            plot.plot(chosen.latency, chosen.top1, "o", ms=17, mfc="none", mec=INK, mew=2, gid="ring")
        # The chosen one first, so that it gets the best place; of one network at one size only one is on the front.
        named = {one.network.key: one for one in sorted(front, key=lambda one: (one is chosen, one.top1))}
        labels = [
            ((one.latency or 0, one.top1), f"{one.name.partition('.')[0]} at {one.network.size}", color[one.family])
            for one in reversed(named.values())
        ]
        note = "filled: on the Pareto front · ring: recommended"
        _legend(plot, [Line2D([], [], ls="", marker="o", color=color[name], label=name) for name in families], note)
        _place_labels(figure, plot, labels, [(latency, one.top1) for one, latency in measured])
        return to_svg(figure, title, tips)


def draw_weights(points: Sequence[Point], *, title: str, x_label: str, y_label: str) -> str:
    """Draw published weights, `x` on a logarithmic scale; labels without room are left out, lower accuracies first."""
    families, publishers = (list(dict.fromkeys(getattr(p, key) for p in points)) for key in ("family", "publisher"))
    color, marker = dict(zip(families, COLORS, strict=False)), dict(zip(publishers, _MARKERS, strict=False))
    with drawing_style():
        figure, plot = _axes(title, x_label, y_label)
        _set_limits(plot, [point.x for point in points], [point.y for point in points])
        for line in dict.fromkeys(point.line for point in points if point.line):
            members = sorted((p for p in points if p.line == line), key=lambda p: p.x)
            plot.plot(
                [p.x for p in members], [p.y for p in members], color=color[members[0].family], alpha=0.35, lw=1.2
            )
        for number, point in enumerate(points):
            _mark(plot, (point.x, point.y), color[point.family], marker[point.publisher], f"mark-{number}")
        handles = [Line2D([], [], ls="", marker="o", color=color[name], label=name) for name in families]
        handles += [Line2D([], [], ls="", marker=marker[name], mec=INK, mfc="none", label=name) for name in publishers]
        _legend(plot, handles)
        labelled = sorted((point for point in points if point.label), key=lambda point: (-point.y, point.name))
        labels = [((point.x, point.y), point.label, color[point.family]) for point in labelled]
        _place_labels(figure, plot, labels, [(point.x, point.y) for point in points], leaders=False)
        return to_svg(figure, title, {f"mark-{n}": f"{point.name}: {point.y:.1f} %" for n, point in enumerate(points)})


def _axes(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, dpi=72)
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.09, top=0.885)
    plot = figure.subplots()
    plot.set_title(title, loc="left", fontsize=14, weight="bold", pad=38)
    plot.set_xscale("log")
    plot.set_xlabel(x_label)
    plot.set_ylabel(y_label)
    plot.grid()
    return figure, plot


def _set_limits(plot: Axes, xs: Sequence[float], ys: Sequence[float]) -> None:
    plot.set_xlim(min(xs) / 1.25, max(xs) * 1.4)
    margin = max(1.0, 0.06 * (max(ys) - min(ys)))
    plot.set_ylim(math.floor(min(ys) - margin), min(100.0, math.ceil(max(ys) + margin)))
    # The finest scale that does not crowd.
    for digits in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,)):
        locator = LogLocator(subs=digits)
        low, high = plot.get_xlim()
        if sum(low <= tick <= high for tick in locator.tick_values(low, high)) <= 12:
            break
    plot.xaxis.set_major_locator(locator)
    plot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    plot.xaxis.set_minor_formatter(NullFormatter())
    plot.yaxis.set_major_locator(MaxNLocator(10, integer=True))


def _mark(plot: Axes, at: tuple[float, float], color: str, marker: str, gid: str, *, filled: bool = True) -> None:
    face, edge = (color, "white") if filled else ("white", color)
    plot.plot(*at, marker, ms=8, mfc=face, mec=edge, mew=0.9, gid=gid, zorder=3 if filled else 2)


def _legend(plot: Axes, handles: Sequence[Line2D], note: str = "") -> None:
    style: dict[str, Any] = {"borderaxespad": 0.0, "handletextpad": 0.1, "columnspacing": 1.2, "fontsize": 11}
    plot.legend(handles=handles, ncols=max(len(handles), 1), loc="lower left", bbox_to_anchor=(0, 1.03), **style)
    if note:
        plot.text(1, 1.09, note, transform=plot.transAxes, ha="right", color=MUTED, fontsize=11)


def _place_labels(
    figure: Figure,
    plot: Axes,
    labels: Iterable[tuple[tuple[float, float], str, str]],
    marks: Iterable[tuple[float, float]],
    *,
    leaders: bool = True,
) -> None:
    """Place each label (point, text, color) at the nearest free place; the first chooses first.

    Labels keep clear of marks and of each other. One that finds no place beside its point moves away from it, with a
    leading line, or is left out without `leaders`.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in plot.transData.transform([*marks] or np.empty((0, 2)))]
    frame = plot.get_window_extent()
    offsets = [(8, 0), (-8, 0), (5, -9), (-5, -9), (5, 9), (-5, 9), (0, 12), (0, -12)]
    if leaders:
        turns = np.radians(45 + 22.5 * np.arange(16))
        offsets += [(r * np.cos(turn), r * np.sin(turn)) for r in range(22, 240, 12) for turn in turns]
    for point, content, color in labels:
        for x, y in offsets:
            far = math.hypot(x, y) > 20
            text = plot.annotate(
                content, point, (x, y), textcoords="offset points", color=color, fontsize=10, va="center",
                ha="center" if not x else "left" if x > 0 else "right", annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": "#999999", "lw": 0.7} if far else None,
            )  # fmt: skip
            text.set_gid(f"label-{content}")
            text.update_positions(renderer)
            box = Text.get_window_extent(text)  # without the leading line
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not box.count_overlaps(taken):
                taken.append(box)
                break
            text.remove()


def to_svg(figure: Figure, title: str, tips: Mapping[str, str]) -> str:
    """Return the figure as SVG with a title, and a tooltip for the parts that `tips` names by their gid."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "effnets"}):
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'"([\d.]+)pt"', r'"\1"', svg, count=2)  # of width and height: a point here is a pixel
    svg = re.sub(r"<svg[^>]*>", lambda tag: f"{tag[0]}\n <title>{escape(title)}</title>", svg, count=1)

    def with_tip(group: re.Match[str]) -> str:
        tip = tips.get(group[1])
        return group[0] if tip is None else f"{group[0]}<title>{escape(tip)}</title>"

    return re.sub(r'<g id="([^"]+)">', with_tip, svg)
