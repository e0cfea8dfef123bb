"""How the learning went."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from effnets.train.report.drawing import ACCENT, LINE, MUTED, SECOND, Drawing, axes, drawing_style, finish
from effnets.train.report.summary import EpochRow

__all__ = ["learning_curves"]

_WIDTH, _HEIGHT = 330, 240


def learning_curves(history: Sequence[EpochRow]) -> dict[str, Drawing]:
    """Loss, accuracy and learning rate over the epochs, those of them that were measured."""
    drawings = {
        "loss": _lines(history, "loss", "Loss", {"training": "train_loss", "validation": "val_loss"}),
        "accuracy": _lines(
            history,
            "accuracy",
            "Top-1 on validation, %",
            {"weights": "val_top1", "moving average": "ema_top1"},
        ),
        "learning-rate": _lines(history, "learning-rate", "Learning rate", {"learning rate": "learning_rate"}),
    }
    return {name: drawing for name, drawing in drawings.items() if drawing}


def _lines(history: Sequence[EpochRow], name: str, title: str, columns: dict[str, str]) -> Drawing | None:
    series = {
        label: [(row.epoch, value) for row in history if (value := getattr(row, column)) is not None]
        for label, column in columns.items()
    }
    series = {label: points for label, points in series.items() if points}
    if not series:
        return None
    with drawing_style():
        figure, plot = axes(_WIDTH, _HEIGHT)
        for (label, points), colour in zip(series.items(), (ACCENT, SECOND), strict=False):
            epochs, values = zip(*points, strict=True)
            # A line of few points shows them: one epoch alone would be invisible.
            plot.plot(
                epochs, values, color=colour, label=label, marker="o" if len(points) <= 30 else "", markersize=3.5
            )
        if name == "accuracy":
            _mark_best(plot, series)
        _mark_phases(plot, history)
        plot.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=24 if len(series) > 1 else 10)
        if len(series) > 1:
            plot.legend(
                loc="lower left",
                bbox_to_anchor=(-0.02, 0.98),
                ncols=2,
                fontsize=10,
                labelcolor=MUTED,
                handlelength=1.2,
                borderpad=0,
                columnspacing=1.2,
            )
        plot.set_xlabel("epoch")
        plot.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        plot.yaxis.set_major_locator(MaxNLocator(5))
        if name != "accuracy":
            plot.set_ylim(bottom=0)
        last = ", ".join(f"{label} {points[-1][1]:.4g}" for label, points in series.items())
        return finish(figure, name, f"{title} over {len(history)} epochs; at the end: {last}")


def _mark_best(plot: Axes, series: dict[str, list[tuple[int, float]]]) -> None:
    (epoch, value), colour = max(
        (
            (max(points, key=lambda point: point[1]), colour)
            for points, colour in zip(series.values(), (ACCENT, SECOND), strict=False)
        ),
        key=lambda best: best[0][1],
    )
    plot.plot([epoch], [value], "o", color=colour, markersize=7, clip_on=False, zorder=5)
    plot.margins(y=0.18)
    plot.annotate(
        f"{value:.1f}",
        (epoch, value),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        color=colour,
        fontweight="bold",
    )


def _mark_phases(plot: Axes, history: Sequence[EpochRow]) -> None:
    """A line where something else begins to be trained, with its name."""
    for before, row in pairwise(history):
        if row.phase != before.phase:
            plot.axvline(row.epoch - 0.5, color=LINE, linewidth=1.2, linestyle=(0, (3, 3)))
            plot.text(
                row.epoch - 0.4,
                0.02,
                row.phase,
                transform=plot.get_xaxis_transform(),
                color=MUTED,
                fontsize=9,
                va="bottom",
            )
