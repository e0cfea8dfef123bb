"""``effnets choose``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effnets.cli.format import (
    COUNT,
    LATENCY,
    PER_CENT,
    SECONDS,
    DrawnFile,
    make_table,
    print_table,
    printable,
    progress_bar,
    short,
)

if TYPE_CHECKING:
    from effnets.bench.choose import Limits, ModelCandidate, Nearest, Recommendation
    from effnets.bench.latency import LatencyProfiler, Outcome


_BUDGET = 300.0
_SHOWN = 5


@click.command(name="choose")
@click.option("--max-latency", type=LATENCY, help="Of one call, as 5ms or 0.005s.")
@click.option("--max-params", type=COUNT, help="Parameters, as 4M.")
@click.option("--max-madds", type=COUNT, help="Multiply-adds for an image, as 300M.")
@click.option("--min-top1", type=PER_CENT, help="Published accuracy on ImageNet-1k in per cent, as 75.")
@click.option("--engine", default="auto", help="onnxruntime, openvino, torch … [default: the first installed of them].")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Images in a call.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the engine [default: its own choice].")
@click.option("--budget", type=SECONDS, default=_BUDGET, help=f"Seconds to measure for [default: {_BUDGET:.0f}].")
@click.option("--models", "pattern", default="*", metavar="PATTERN", help="Only these, such as 'mixnet_*'.")
@click.option("--remeasure", is_flag=True, help="Measure again what was measured before.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--svg", type=DrawnFile(".svg"), metavar="FILE", help="Draw the plot there, into ….svg.")
def command(
    max_latency: float | None,
    max_params: float | None,
    max_madds: float | None,
    min_top1: float | None,
    engine: str,
    batch: int,
    threads: int | None,
    budget: float,
    pattern: str,
    remeasure: bool,
    as_json: bool,
    svg: Path | None,
) -> None:
    """Choose the most accurate published network for a budget of latency, parameters and multiply-adds.

    Latency is measured on this machine, as far as the answer depends on it, and kept for the next time; accuracy is the
    published one. What breaks another limit is not measured. The exit status is 1 if nothing keeps all limits.
    """
    # Imported here: NumPy and the tables of weights, which --help needs not.
    from rich.progress import BarColumn, TimeElapsedColumn

    from effnets.bench.choose import Limits, list_candidates, nearest, recommend
    from effnets.bench.latency import LatencyProfiler, measure_candidates, pick_engine
    from effnets.deploy.export.base import check_writable

    if svg is not None:
        check_writable(svg)
    limits = Limits(max_latency=max_latency, max_params=max_params, max_madds=max_madds, min_top1=min_top1)
    candidates, unrated = list_candidates(pattern)
    profiler = LatencyProfiler(pick_engine(engine), batch=batch, threads=threads)
    columns = ("measuring {task.description}", BarColumn(), TimeElapsedColumn(), f"of at most {budget:.0f} s")
    with progress_bar(*columns) as progress:
        outcome = measure_candidates(candidates, limits, profiler, anew=remeasure, budget=budget, progress=progress)
    recommendation = recommend(outcome.candidates, limits)
    missed = [] if recommendation else nearest(outcome.candidates, limits)
    if as_json:
        click.echo(json.dumps(_as_json(outcome, limits, recommendation, missed, profiler, unrated), indent=1))
    else:
        _print(outcome, recommendation, missed, profiler)
    _remark(outcome, recommendation, unrated)
    if svg is not None:
        _draw(svg, outcome, limits, recommendation, profiler)
    if recommendation is None:
        click.get_current_context().exit(1)


def _print(
    outcome: Outcome, recommendation: Recommendation | None, missed: Sequence[Nearest], profiler: LatencyProfiler
) -> None:
    from effnets.bench.choose import pareto_front

    front = pareto_front(outcome.candidates)
    if front:
        right = ["top-1", "latency", "middle half", "parameters", "multiply-adds", "input"]
        table = make_table(["", "weights", *right], right=right, whole=["weights"], title=_conditions(profiler))
        for candidate in front:
            low, high = outcome.timings[candidate.network.key].quartiles
            table.add_row(
                "→" if recommendation and candidate is recommendation.chosen else "",
                candidate.name,
                f"{candidate.top1:.1f} %",
                f"{candidate.latency:.2f} ms",
                f"{low:.2f}–{high:.2f}",
                short(candidate.params),
                short(candidate.madds),
                f"{candidate.network.size}×{candidate.network.size}",
            )
        print_table(table)
        click.echo()
    if recommendation is not None:
        click.echo(recommendation)
        return
    click.echo("Nothing that was measured keeps all limits." if front else "Nothing keeps all limits.")
    for entry in missed:
        click.echo(f"  --{entry.limit.replace('_', '-')}: {_describe(entry)}")


def _conditions(profiler: LatencyProfiler) -> str:
    images = "1 image" if profiler.batch == 1 else f"{profiler.batch} images"
    threads = "" if profiler.threads is None else f", {profiler.threads} thread{'s' if profiler.threads > 1 else ''}"
    return f"Pareto front: published top-1 against the median latency of {images} on {profiler.engine}{threads}"


def _describe(entry: Nearest) -> str:
    candidate = entry.candidate
    if candidate is None:
        return "nothing breaks this limit alone"
    value = {
        "max_latency": f"{candidate.latency:.2f} ms" if candidate.latency is not None else "",
        "max_params": f"{short(candidate.params)} parameters",
        "max_madds": f"{short(candidate.madds)} multiply-adds",
        "min_top1": f"{candidate.top1:.1f} %",
    }[entry.limit]
    unknown = " (latency not measured)" if candidate.latency is None else ""
    return f"nearest is {candidate.label} with {value}{unknown}"


def _remark(outcome: Outcome, recommendation: Recommendation | None, unrated: Sequence[str]) -> None:
    """What the answer does not rest on, on the error stream."""
    for note in outcome.notes:
        click.echo(printable(note), err=True)
    if outcome.open:
        names = _few([candidate.label for candidate in outcome.open])
        best = recommendation.chosen.top1 if recommendation else 0
        better = any(candidate.top1 > best for candidate in outcome.open)
        what = "the recommendation may change with" if better else "the recommendation stands, the front may lack"
        click.echo(f"time was up (--budget) before all was measured; {what} {names}", err=True)
    if outcome.skipped:
        names = _few([candidate.label for candidate in outcome.skipped])
        click.echo(f"not measured, too slow to matter by estimate: {names}", err=True)
    if unrated:
        click.echo(f"left out, without published accuracy on ImageNet-1k: {_few(unrated)}", err=True)
    spreads = [(timing.quartiles[1] - timing.quartiles[0]) / timing.median for timing in outcome.timings.values()]
    unsteady = sum(spread > 1 / 4 for spread in spreads)
    if unsteady:
        click.echo(
            f"{unsteady} measurements varied by more than a quarter: the machine does other work; see --remeasure",
            err=True,
        )
    click.echo(f"latencies: {outcome.measured} measured now, {outcome.reused} known from before", err=True)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _draw(
    path: Path, outcome: Outcome, limits: Limits, recommendation: Recommendation | None, profiler: LatencyProfiler
) -> None:
    from effnets.bench.plots import draw_choice
    from effnets.deploy.export.base import write_file
    from effnets.utils.machine import describe_machine

    machine = describe_machine()
    text = draw_choice(
        outcome.candidates,
        limits,
        chosen=recommendation.chosen if recommendation else None,
        title=f"Published accuracy against latency on {profiler.engine}",
        x_label=f"ms for a batch of {profiler.batch}, {machine.processor}, {machine.cores} cores",
    )
    write_file(path, text.encode())


def _as_json(
    outcome: Outcome,
    limits: Limits,
    recommendation: Recommendation | None,
    missed: Sequence[Nearest],
    profiler: LatencyProfiler,
    unrated: Sequence[str],
) -> dict[str, Any]:
    from effnets.bench.choose import pareto_front
    from effnets.utils.machine import describe_machine

    def name(candidate: ModelCandidate | None) -> str | None:
        return None if candidate is None else candidate.name

    rows = []
    for candidate in outcome.candidates:
        timing = outcome.timings.get(candidate.network.key)
        row = {key: value for key, value in asdict(candidate).items() if key not in ("network", "latency")}
        times = {"latency_ms": timing and timing.median, "quartiles_ms": timing and timing.quartiles}
        rows.append({**row, "size": candidate.network.size, **times})
    return {
        "machine": describe_machine().to_dict(),
        "engine": profiler.engine,
        "batch": profiler.batch,
        "threads": profiler.threads,
        "limits": {field.name: getattr(limits, field.name) for field in fields(limits)},
        "recommended": name(recommendation.chosen if recommendation else None),
        "reason": str(recommendation) if recommendation else None,
        "step_up": name(recommendation.above if recommendation else None),
        "step_down": name(recommendation.below if recommendation else None),
        "nearest": {entry.limit: name(entry.candidate) for entry in missed},
        "front": [candidate.name for candidate in pareto_front(outcome.candidates)],
        "candidates": rows,
        "without_accuracy": list(unrated),
        "measured": outcome.measured,
        "reused": outcome.reused,
        "time_was_up": [candidate.name for candidate in outcome.open],
        "too_slow_by_estimate": [candidate.name for candidate in outcome.skipped],
        "notes": outcome.notes,
    }
