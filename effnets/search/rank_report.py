"""A study of ranks as files: tables, a plot, and a summary with its conclusions and its command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from effnets.bench.plots import COLORS, to_svg
from effnets.report.charts import INK, MUTED, drawing_style
from effnets.search.rank import LAYERS, RankPoint, RankSettings
from effnets.search.rank_conclusions import SIXFOLD, Conclusion, check_conclusions
from effnets.search.study_folder import csv_text, markdown_table
from effnets.search.trained_rank import LayerRank
from effnets.utils.machine import describe_machine

# Variants of a layer serve the conclusions; their curves would only crowd the plot.
_DRAWN = ("conv1x1", "conv3x3", "depthwise", "inverted_bottleneck")
_PANEL = (6.4, 4.3)  # inches of 72 pixels
_LINES = ("-", "--", "-.", ":")


def random_study_files(
    settings: RankSettings, points: Sequence[RankPoint], *, command: str, seconds: float, processor_seconds: float
) -> dict[str, str]:
    """Return the files of a study of random networks, by name: rank.csv, rank.json, rank.svg and README.md."""
    conclusions = {threshold: check_conclusions(points, threshold) for threshold in settings.all_thresholds}
    document = {
        "command": command,
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor_seconds, 1),
        "machine": describe_machine().to_dict(),
        "settings": asdict(settings),
        "conclusions": {f"{t:g}": [asdict(entry) for entry in found] for t, found in conclusions.items()},
        "points": [asdict(point) for point in points],
    }
    return {
        "rank.csv": csv_text([asdict(point) for point in points]),
        "rank.json": json.dumps(document, indent=1) + "\n",
        "rank.svg": draw_ranks(settings, points),
        "README.md": _summary(settings, points, conclusions, command, (seconds, processor_seconds)),
    }


def trained_study_files(
    name: str, ranks: Sequence[LayerRank], thresholds: Sequence[float], *, images: int, command: str, seconds: float
) -> dict[str, str]:
    """Return the files of a study of a trained network, by name: rank.csv, rank.json and README.md."""
    rows = [layer_row(rank, thresholds) for rank in ranks]
    document = {
        "command": command,
        "seconds": round(seconds, 1),
        "machine": describe_machine().to_dict(),
        "model": name,
        "images": images,
        "layers": rows,
    }
    lines = [
        f"# Ranks of the features of {name}",
        "",
        f"`{command}`, over {images} images, in {seconds:.0f} s. A rank is the number of singular values above the",
        "threshold times the largest; the ratio is its share of the layer's channels.",
        "",
        *markdown_table(rows),
    ]
    if any(rank.limited for rank in ranks):
        lines += ["", "Limited: with fewer places in all images than channels, the ratio cannot reach 1; add images."]
    return {
        "rank.csv": csv_text(rows),
        "rank.json": json.dumps(document, indent=1) + "\n",
        "README.md": "\n".join(lines) + "\n",
    }


def layer_row(rank: LayerRank, thresholds: Sequence[float]) -> dict[str, object]:
    """Return a layer's figures by the names of their columns."""
    ratios = {f"rank_ratio_{t:g}": round(value, 4) for t, value in zip(thresholds, rank.ranks, strict=True)}
    return {
        "layer": rank.name,
        "in_channels": rank.in_channels,
        "channels": rank.channels,
        "channel_ratio": round(rank.channel_ratio, 4),
        "samples": rank.samples,
        "limited": rank.limited,
        **ratios,
    }


def draw_ranks(settings: RankSettings, points: Sequence[RankPoint]) -> str:
    """Draw the curves at the study's threshold as SVG, a panel for each layer."""
    layers = [layer for layer in settings.layers if layer in _DRAWN] or list(settings.layers)
    columns = min(2, len(layers))
    rows = -(-len(layers) // columns)
    title = f"Mean rank ratio over {settings.networks} random networks, singular values above {settings.threshold:g} σ₁"
    with drawing_style():
        figure = Figure(figsize=(columns * _PANEL[0], rows * _PANEL[1] + 0.9), dpi=72, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
        for layer, plot in zip(layers, panels, strict=False):
            _draw_layer(plot, layer, settings, points)
        figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
        handles, labels = next(iter(figure.axes)).get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=11)
        return to_svg(figure, title, {})


def _draw_layer(plot: Axes, layer: str, settings: RankSettings, points: Sequence[RankPoint]) -> None:
    for number, activation in enumerate(settings.activations):
        curve = [
            point
            for point in points
            if (point.layer, point.activation, point.threshold) == (layer, activation, settings.threshold)
        ]
        curve.sort(key=lambda point: point.ratio)
        plot.errorbar(
            [point.ratio for point in curve],
            [point.mean for point in curve],
            [point.error for point in curve],
            color=INK if activation == "linear" else COLORS[number % len(COLORS)],
            linestyle=_LINES[number % len(_LINES)],
            marker="o",
            markersize=3.5,
            linewidth=1.6,
            label=activation,
        )
    plot.axvline(SIXFOLD, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    plot.set(xlim=(0, 1.03), ylim=(0, 1.04), xlabel="channel ratio d_in / d_out", ylabel="rank / d_out")
    plot.set_title(LAYERS[layer], loc="left", fontsize=12, fontweight="bold")
    plot.grid(axis="y")


def _summary(
    settings: RankSettings,
    points: Sequence[RankPoint],
    conclusions: dict[float, list[Conclusion]],
    command: str,
    seconds: tuple[float, float],
) -> str:
    low, high = settings.channels
    cores = describe_machine().cores
    lines = [
        "# Ranks of random layers",
        "",
        f"`{command}`: {seconds[0]:.0f} s on {cores} cores, {seconds[1]:.0f} s of processor time.",
        "",
        f"{settings.networks} random networks for each layer and channel ratio d_in / d_out (arXiv:2007.00992,",
        f"section 3): d_out drawn from {low} to {high}, normal weights and inputs, batch normalization after every",
        f"convolution. The rank is the number of singular values of the features above {settings.threshold:g} times",
        "the largest, over d_out. The paper's threshold is not known here; others are in rank.csv. The dotted line is",
        "expansion by six.",
        "",
        "![Curves](rank.svg)",
        "",
        "## The paper's conclusions",
        "",
    ]
    for conclusion in conclusions[settings.threshold]:
        verdict = "holds" if conclusion.holds else "does not hold"
        others = [
            f"{threshold:g} {'holds' if other.holds else 'does not'}"
            for threshold, found in conclusions.items()
            if threshold != settings.threshold
            for other in found
            if other.claim == conclusion.claim
        ]
        lines += [f"- **{conclusion.claim}: {verdict}.** {conclusion.found}."]
        if others:
            lines += [f"  At other thresholds: {', '.join(others)}."]
    for layer in settings.layers:
        lines += ["", f"## {LAYERS[layer]}", ""]
        rows = []
        for activation in settings.activations:
            means = {
                f"{point.ratio:.2f}": f"{point.mean:.3f}"
                for point in points
                if (point.layer, point.activation, point.threshold) == (layer, activation, settings.threshold)
            }
            rows.append({"activation": activation, **means})
        lines += markdown_table(rows)
    largest = max(point.error for point in points if point.threshold == settings.threshold)
    return "\n".join(
        [*lines, "", f"Mean rank ratio by channel ratio; the largest standard error is {largest:.3f}.", ""]
    )
