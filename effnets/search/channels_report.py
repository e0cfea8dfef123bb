"""A study of channels as files: tables, plots, and whether a straight line is the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from matplotlib.figure import Figure

from effnets.bench.plots import COLORS, to_svg
from effnets.report.charts import drawing_style
from effnets.search.channels import KINDS, ChannelRun, ChannelSettings
from effnets.search.kernel_claims import Verdict, pooled_deviation
from effnets.search.study_folder import csv_text, markdown_table
from effnets.spec.plan import make_plan

CLAIM = "the best channels are linear"
RULE = (
    "Supported: the line's mean top-1 is above that of every other configuration by more than two standard errors of "
    "the difference. Not supported: some other's is above the line's by more than that. Else undecided. The standard "
    "error comes from the spread of seeds, pooled over all configurations."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelVerdict:
    """Whether a straight line is the best.

    Attributes:
        verdict: see `RULE`. rival: the other configuration with the highest mean.
        difference: of the line's mean top-1 to the rival's, in points. error: its standard error; None: one seed.
    """

    verdict: Verdict
    rival: str
    difference: float
    error: float | None

    def __str__(self) -> str:
        spread = "" if self.error is None else f" ± {2 * self.error:.2f}"
        return (
            f"“{CLAIM}” is {self.verdict} by these data: linear against the best other, {self.rival}: "
            f"{self.difference:+.2f}{spread} points"
        )


def judge_channels(runs: Sequence[ChannelRun]) -> ChannelVerdict:
    """Try the claim of ReXNet's section 4 on a study's trainings; see `RULE`."""
    groups: dict[str, list[float]] = {}
    for run in runs:
        groups.setdefault(run.configuration.name, []).append(run.result.top1)
    line = groups.pop("linear")
    rival = max(groups, key=lambda name: fmean(groups[name]))
    difference = fmean(line) - fmean(groups[rival])
    deviation = pooled_deviation([line, *groups.values()])
    error = None if deviation is None else deviation * math.sqrt(1 / len(line) + 1 / len(groups[rival]))
    verdict: Verdict = "undecided"
    if error is not None and difference > 2 * error:
        verdict = "supported"
    elif error is not None and difference < -2 * error:
        verdict = "not supported"
    return ChannelVerdict(verdict=verdict, rival=rival, difference=difference, error=error)


def channel_study_files(
    settings: ChannelSettings, runs: Sequence[ChannelRun], *, epochs: int, data: str, command: str
) -> dict[str, str]:
    """Return the files of a study, by name: channels.csv, channels.svg, README.md."""
    rows = [
        {
            "name": run.configuration.name,
            "kind": run.configuration.kind,
            "seed": run.seed,
            "val_top1": run.result.val_top1,
            "test_top1": "" if run.result.test_top1 is None else run.result.test_top1,
            "params": run.result.params,
            "madds": run.result.madds,
            "channels": " ".join(map(str, _channels(run))),
        }
        for run in runs
    ]
    return {
        "channels.csv": csv_text(rows),
        "channels.svg": draw_channel_study(runs),
        "README.md": _summary(settings, runs, epochs, data, command),
    }


def draw_channel_study(runs: Sequence[ChannelRun]) -> str:
    """Draw the channels of each block, and the top-1 of each configuration, as SVG."""
    title = "Channels within one budget"
    groups = _groups(runs)
    with drawing_style():
        figure = Figure(figsize=(11, 4.8), dpi=72, layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, (name, group) in enumerate(groups.items()):
            color = COLORS[number % len(COLORS)]
            channels = _channels(group[0])
            left.plot(range(1, len(channels) + 1), channels, color=color, label=name, linewidth=1.6)
            top1 = [run.result.top1 for run in group]
            right.scatter(top1, [number] * len(top1), color=color, s=18)
            right.plot([fmean(top1)], [number], color=color, marker="|", markersize=18)
        left.set(xlabel="block", ylabel="channels")
        left.legend(loc="upper left")
        right.set_yticks(range(len(groups)), [*groups])
        right.set(xlabel="top-1 (%), a dot for each seed, the mean a bar")
        right.invert_yaxis()
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        return to_svg(figure, title, {})


def _groups(runs: Sequence[ChannelRun]) -> dict[str, list[ChannelRun]]:
    groups: dict[str, list[ChannelRun]] = {}
    for run in runs:
        groups.setdefault(run.configuration.name, []).append(run)
    return groups


def _channels(run: ChannelRun) -> list[int]:
    return [block.out_channels for block in make_plan(run.configuration.spec).blocks]


def _summary(settings: ChannelSettings, runs: Sequence[ChannelRun], epochs: int, data: str, command: str) -> str:
    on = "validation" if runs[0].result.test_top1 is None else "test"
    budget = settings.budget
    table = []
    for name, group in _groups(runs).items():
        top1 = [run.result.top1 for run in group]
        table.append(
            {
                "channels": name,
                "what": KINDS[group[0].configuration.kind],
                "top-1 %, mean": f"{fmean(top1):.2f}",
                "± of seeds": f"{stdev(top1):.2f}" if len(top1) > 1 else "–",
                "parameters (M)": f"{group[0].result.params / 1e6:.3f}",
                "MAdds (M)": f"{group[0].result.madds / 1e6:.2f}",
                "of blocks": " ".join(map(str, _channels(group[0]))),
            }
        )
    return "\n".join(
        [
            "# Channels within one budget",
            "",
            f"`{command}`",
            "",
            f"ReXNet (arXiv:2007.00992, section 4) on {data}: {settings.model} at width {settings.width:g}, budget",
            f"{budget.madds / 1e6:.2f} M multiply-adds and {budget.params / 1e6:.3f} M parameters;",
            f"{settings.seeds} trainings of {epochs} epochs each, top-1 on {on} images. Multiply-adds are fitted",
            "first, parameters as far as that leaves a choice.",
            "",
            *markdown_table(table),
            "",
            "![Channels of each block, and top-1](channels.svg)",
            "",
            f"**{judge_channels(runs)}.** {RULE}",
            "",
        ]
    )
