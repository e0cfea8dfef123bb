"""Plots of a search: the front, the kernels and the channels at each depth."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from effnets.bench.plots import COLORS, to_svg
from effnets.report.charts import INK, MUTED, drawing_style
from effnets.search.evaluations import CostName, Evaluation
from effnets.spec.plan import make_plan
from effnets.spec.specs import ModelSpec

_LABELS = {"madds": "multiply-adds (M)", "params": "parameters (M)", "latency": "predicted latency (ms)"}
_SIZE = (8.3, 5.2)  # inches of 72 pixels


def draw_front(
    evaluated: Sequence[Evaluation], front: Sequence[Evaluation], random: Sequence[Evaluation], cost: CostName
) -> str:
    """Draw accuracy against `cost` as SVG; pruned trainings are left out."""
    scale = 1.0 if cost == "latency" else 1e6
    title = "Candidates and their front"
    with drawing_style():
        figure, plot = _axes(title, _LABELS[cost], "top-1 on validation (%)")
        for label, ones, color, marker in (
            ("random", random, MUTED, "x"),
            ("search", evaluated, COLORS[0], "o"),
        ):
            whole = [one for one in ones if not one.pruned]
            if whole:
                plot.scatter(
                    [one.candidate.cost(cost) / scale for one in whole],
                    [one.accuracy for one in whole],
                    color=color,
                    marker=marker,
                    s=22,
                    label=label,
                )
        plot.plot(
            [one.candidate.cost(cost) / scale for one in front],
            [one.accuracy for one in front],
            color=COLORS[1],
            marker="o",
            drawstyle="steps-post",
            label="front",
        )
        plot.legend(loc="lower right")
        return to_svg(figure, title, {})


def draw_kernels(best: ModelSpec, front: Sequence[ModelSpec]) -> str:
    """Draw which kernels the channels of each block have: of the best network, and on average of the front."""
    title = "Kernels at each depth (MixConv, arXiv:1907.09595, figure 8 is alike)"
    panels = {"best network": [best], f"mean of the {len(front)} networks of the front": front}
    shares = {name: _kernel_shares(specs) for name, specs in panels.items()}
    sizes = sorted({size for rows in shares.values() for row in rows for size in row})
    with drawing_style():
        figure = Figure(figsize=(_SIZE[0], 2 * 3.2), dpi=72, layout="constrained")
        for plot, (name, rows) in zip(figure.subplots(2, 1, sharex=True), shares.items(), strict=True):
            _stack(plot, rows, sizes)
            plot.set_title(name, loc="left", fontsize=11)
            plot.set(ylabel="share of channels", ylim=(0, 1))
        figure.axes[-1].set_xlabel("block")
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        return to_svg(figure, title, {})


def draw_channels(best: ModelSpec, others: Sequence[ModelSpec]) -> str:
    """Draw the output channels of each block (the subject of ReXNet, arXiv:2007.00992, section 4)."""
    title = "Output channels of each block"
    with drawing_style():
        figure, plot = _axes(title, "block", "channels")
        for spec in others:
            channels = [block.out_channels for block in make_plan(spec).blocks]
            plot.plot(range(1, len(channels) + 1), channels, color=MUTED, linewidth=1)
        channels = [block.out_channels for block in make_plan(best).blocks]
        plot.plot(range(1, len(channels) + 1), channels, color=COLORS[0], marker="o", label="best")
        plot.legend(loc="upper left")
        return to_svg(figure, title, {})


def _axes(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, dpi=72, layout="constrained")
    plot = figure.subplots()
    plot.set_title(title, loc="left", fontsize=13, fontweight="bold")
    plot.set(xlabel=x_label, ylabel=y_label)
    plot.grid(axis="y")
    return figure, plot


def _kernel_shares(specs: Sequence[ModelSpec]) -> list[dict[int, float]]:
    """Return for each block the share of channels of each kernel size, the mean over the networks that are as deep."""
    rows: list[dict[int, float]] = []
    for spec in specs:
        for number, block in enumerate(make_plan(spec).blocks):
            if number == len(rows):
                rows.append({})
            for conv in block.convolution:
                share = conv.out_channels / sum(one.out_channels for one in block.convolution)
                rows[number][conv.kernel_size] = rows[number].get(conv.kernel_size, 0.0) + share
    return [{size: share / sum(row.values()) for size, share in row.items()} for row in rows]


def _stack(plot: Axes, rows: Sequence[dict[int, float]], sizes: Sequence[int]) -> None:
    places = range(1, len(rows) + 1)
    below = [0.0] * len(rows)
    for number, size in enumerate(sizes):
        heights = [row.get(size, 0.0) for row in rows]
        color = COLORS[number % len(COLORS)]
        plot.bar(places, heights, 0.8, bottom=below, color=color, edgecolor=INK, linewidth=0.3, label=f"{size}×{size}")
        below = [start + height for start, height in zip(below, heights, strict=True)]
    plot.set_xticks([*places])
