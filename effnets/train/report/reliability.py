"""Whether the network's probabilities mean what they say."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from effnets.evaluation.metrics import BINS, Calibration
from effnets.train.report.drawing import ACCENT, INK, LINE, MUTED, SECOND, Drawing, drawing_style, finish

__all__ = ["reliability_diagram"]

_WIDTH, _HEIGHT = 400, 430


def reliability_diagram(calibration: Calibration) -> Drawing:
    """Share of right answers over confidence (DeGroot and Fienberg 1983), above how many answers were so confident."""
    edges = np.linspace(0, 1, BINS + 1)
    filled = calibration.counts > 0
    with drawing_style():
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72, layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
        above.plot([0, 1], [0, 1], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=3)
        above.bar(
            edges[:-1][filled] + 0.5 / BINS,
            calibration.accuracy[filled],
            0.9 / BINS,
            color=ACCENT,
            alpha=0.75,
            label="as answered",
        )
        if calibration.temperature is not None:
            scaled = calibration.scaled_counts > 0
            above.plot(
                calibration.scaled_confidence[scaled],
                calibration.scaled_accuracy[scaled],
                "o-",
                color=SECOND,
                markersize=4.5,
                linewidth=1.5,
                label=f"at temperature {calibration.temperature:.2f}",
                zorder=4,
            )
        above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
        above.legend(loc="upper left", fontsize=10, labelcolor=INK)
        above.grid(axis="y")
        below.bar(edges[:-1] + 0.5 / BINS, calibration.counts, 0.9 / BINS, color=MUTED, alpha=0.6)
        below.set(xlabel="probability of the answer", ylabel="answers")
        below.locator_params(axis="y", nbins=2)
        below.tick_params(axis="x", pad=7)
        for plot in (above, below):
            plot.spines["left"].set_color(LINE)
        return finish(figure, "reliability", _in_words(calibration))


def _in_words(calibration: Calibration) -> str:
    text = f"Reliability diagram: expected calibration error {100 * calibration.error:.1f} %"
    if calibration.temperature is None:
        return text
    return f"{text}, {100 * calibration.scaled_error:.1f} % at temperature {calibration.temperature:.2f}"
