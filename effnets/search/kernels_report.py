"""A study of kernels as files: a row for every training, plots, and a summary with the paper's claims."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from effnets.bench.plots import COLORS, to_svg
from effnets.report.charts import INK, MUTED, drawing_style
from effnets.search.kernel_claims import RULE, Claim, check_claims, pooled_deviation
from effnets.search.kernels import FIGURES, REPLACEMENTS, SIZES, KernelRun, KernelSettings, Variant, left_out
from effnets.search.study_folder import csv_text, markdown_table
from effnets.train.recipe import Recipe
from effnets.utils.machine import describe_machine

_PANEL = (6.4, 4.3)  # inches of 72 pixels
_KINDS = ("plain", "mixed", "exponential", "dilated")

# Of every network its trainings, one for each seed.
Groups = dict[str, list[KernelRun]]


def kernel_study_files(
    settings: KernelSettings, runs: Sequence[KernelRun], *, recipe: Recipe, data: str, command: str
) -> dict[str, str]:
    """Return the files of a study, by name: kernels.csv, kernels.json, README.md, and a plot for each figure."""
    claims = check_claims(runs)
    rows = [_row(run) for run in runs]
    document = {
        "command": command,
        "data": data,
        "machine": describe_machine().to_dict(),
        "settings": asdict(settings),
        "recipe": asdict(recipe),
        "claims": [asdict(claim) for claim in claims],
        "runs": rows,
    }
    plots = draw_figures(settings, runs)
    return {
        "kernels.csv": csv_text(rows),
        "kernels.json": json.dumps(document, indent=1) + "\n",
        **plots,
        "README.md": _summary(settings, runs, claims, list(plots), command=command, recipe=recipe, data=data),
    }


def _row(run: KernelRun) -> dict[str, object]:
    variant = run.variant
    return {
        "name": variant.name,
        "network": variant.network,
        "kernels": variant.kernels,
        "layer": "" if variant.layer is None else variant.layer,
        "seed": run.seed,
        **asdict(run.result),
    }


def _groups(runs: Sequence[KernelRun]) -> Groups:
    groups: Groups = {}
    for run in runs:
        groups.setdefault(run.variant.name, []).append(run)
    return groups


def _kind(variant: Variant) -> str:
    kernels, _, flag = variant.kernels.partition("_")
    return flag or ("mixed" if "." in kernels else "plain")


def draw_figures(settings: KernelSettings, runs: Sequence[KernelRun]) -> dict[str, str]:
    """Return the plots of the study as SVG, by the names of their files."""
    groups = list(_groups(runs).values())
    plots = {}
    for name, wanted, kinds in (
        ("figure-1.svg", {1}, ("plain",)),
        ("figure-4.svg", {4}, ("plain", "mixed")),
        ("figure-6.svg", {6}, ("mixed", "exponential", "dilated")),
    ):
        if wanted & set(settings.figures):
            plots[name] = _draw_sizes(settings, groups, kinds, FIGURES[min(wanted)])
    if 5 in settings.figures:
        plots["figure-5.svg"] = _draw_layers(groups)
    return dict(sorted(plots.items()))


def _draw_sizes(settings: KernelSettings, groups: Sequence[list[KernelRun]], kinds: Sequence[str], title: str) -> str:
    """Top-1 against the largest kernel, and against multiply-adds; a row for each network."""
    count = len(settings.networks)
    with drawing_style():
        figure = Figure(figsize=(2 * _PANEL[0], count * _PANEL[1] + 0.9), dpi=72, layout="constrained")
        panels = figure.subplots(count, 2, squeeze=False, sharey="row")
        for network, (by_size, by_cost) in zip(settings.networks, panels, strict=True):
            for kind in kinds:
                line = [group for group in groups if _belongs(group[0].variant, network, kind, kinds)]
                line.sort(key=lambda group: group[0].variant.largest)
                sizes = [float(group[0].variant.largest) for group in line]
                _draw_line(by_size, sizes, line, kind)
                _draw_line(by_cost, [group[0].result.madds / 1e6 for group in line], line, kind)
            by_size.set(xlabel="largest kernel", ylabel="top-1, %")
            by_size.set_xticks([size for size in SIZES if size <= settings.largest])
            by_cost.set(xlabel="million multiply-adds")
            by_size.set_title(network, loc="left", fontsize=12, fontweight="bold")
            by_cost.grid(axis="y")
        _finish(figure, f"{title[0].upper()}{title[1:]}; bars: standard deviation of seeds")
        return to_svg(figure, title, {})


def _belongs(variant: Variant, network: str, kind: str, kinds: Sequence[str]) -> bool:
    """Whether a network is a point of a line; 3×3 is where mixed ones begin, too."""
    if variant.network != network or variant.layer is not None:
        return False
    begins = variant.kernels == "k3" and kind == "mixed" and "plain" not in kinds
    return begins or _kind(variant) == kind


def _draw_line(plot: Axes, places: Sequence[float], line: Sequence[list[KernelRun]], kind: str) -> None:
    number = _KINDS.index(kind)
    plot.errorbar(
        places,
        [fmean(run.result.top1 for run in group) for group in line],
        [_spread(group) or 0.0 for group in line],
        color=COLORS[number],
        marker="os^D"[number],
        markersize=5,
        capsize=2.5,
        linewidth=1.6,
        label=kind,
    )
    plot.grid(axis="y")


def _draw_layers(groups: Sequence[list[KernelRun]]) -> str:
    """Top-1 with other kernels in one layer, against that layer's number."""
    title = "Kernels of one layer"
    (base,) = [group for group in groups if group[0].variant.name == "mobilenetv2_k3"]
    layers = [group for group in groups if group[0].variant.layer is not None]
    with drawing_style():
        figure = Figure(figsize=(_PANEL[0] * 1.6, _PANEL[1] + 0.9), dpi=72, layout="constrained")
        plot = figure.subplots()
        numbers = sorted({group[0].variant.layer or 0 for group in layers})
        for place, kernels in enumerate(REPLACEMENTS):
            line = [group for group in layers if group[0].variant.kernels == kernels]
            places = [numbers.index(group[0].variant.layer or 0) + 0.16 * (2 * place - 1) for group in line]
            plot.errorbar(places, [fmean(run.result.top1 for run in group) for group in line],
                          [_spread(group) or 0.0 for group in line], linestyle="none", marker="os"[place],
                          capsize=2.5, color=COLORS[place], label=kernels)  # fmt: skip
        plot.axhline(fmean(run.result.top1 for run in base), color=INK, linewidth=1, label="3×3 everywhere")
        strided = {group[0].variant.layer for group in layers if group[0].variant.strided}
        plot.set_xticks(range(len(numbers)), [f"{n}{', stride 2' if n in strided else ''}" for n in numbers])
        plot.set(xlabel="layer of mobilenetv2", ylabel="top-1, %")
        plot.grid(axis="y")
        _finish(figure, f"{title}; bars: standard deviation of seeds")
        return to_svg(figure, title, {})


def _finish(figure: Figure, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=11, labelcolor=MUTED)


def _spread(group: Sequence[KernelRun]) -> float | None:
    return stdev(run.result.top1 for run in group) if len(group) > 1 else None


def _summary(
    settings: KernelSettings,
    runs: Sequence[KernelRun],
    claims: Sequence[Claim],
    plots: Sequence[str],
    *,
    command: str,
    recipe: Recipe,
    data: str,
) -> str:
    groups = list(_groups(runs).values())
    seconds = sum(run.result.seconds for run in runs)
    tested = all(run.result.test_top1 is not None for run in runs)
    seeds = f"{settings.seeds} seed{'s' if settings.seeds > 1 else ''}"
    deviation = pooled_deviation([[run.result.top1 for run in group] for group in groups])
    spread = "" if deviation is None else f" The standard deviation of seeds, pooled, is {deviation:.2f} points."
    lines = [
        "# Kernels",
        "",
        f"`{command}`: {len(groups)} networks of width {settings.width:g}, {seeds}, {recipe.epochs} epochs of {data};",
        f"{seconds / 60:.0f} minutes of training on {describe_machine().cores} cores. Top-1 is of "
        f"{'test' if tested else 'validation'} images.{spread}",
        "",
        "## The paper's claims (arXiv:1907.09595), in our words",
        "",
        RULE,
        "",
        *[
            f"- Figure {claim.figure}, {claim.network}: {claim.text}: **{claim.verdict}** ({claim.found})."
            for claim in claims
        ],
    ]
    for name in plots:
        lines += ["", f"![{name.partition('.')[0].replace('-', ' ').capitalize()}]({name})"]
    lines += ["", "## Networks", "", *markdown_table([_summary_row(group) for group in groups])]
    if narrow := left_out(settings):
        names = ", ".join(variant.name for variant in narrow)
        lines += ["", f"Left out, since their narrowest block has fewer channels than the kernels need: {names}."]
    return "\n".join(lines) + "\n"


def _summary_row(group: Sequence[KernelRun]) -> dict[str, object]:
    variant, result, spread = group[0].variant, group[0].result, _spread(group)
    return {
        "network": variant.network,
        "kernels": variant.kernels.replace("_", ", "),
        "layer": "all" if variant.layer is None else f"{variant.layer}{', stride 2' if variant.strided else ''}",
        "params (M)": f"{result.params / 1e6:.3f}",
        "MAdds (M)": f"{result.madds / 1e6:.2f}",
        "top-1": f"{fmean(run.result.top1 for run in group):.2f}",
        "± seeds": "–" if spread is None else f"{spread:.2f}",
        "of each seed": ", ".join(f"{run.result.top1:.2f}" for run in group),
    }
