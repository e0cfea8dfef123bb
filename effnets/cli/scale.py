"""``effnets scale``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effnets.cli.format import COUNT, LATENCY, MEMORY, make_table, print_table, printable, progress_bar, short

if TYPE_CHECKING:
    from effnets.search.scale import ScaleReport


def _sizes(_context: click.Context, _parameter: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of sides in pixels, such as 128,160,192")
    return [int(part) for part in parts]


@click.command(name="scale")
@click.argument("model")
@click.option("--max-madds", type=COUNT, help="Multiply-adds for an image, as 150M or 1.2G.")
@click.option("--max-params", type=COUNT, help="Parameters, as 2.5M.")
@click.option("--max-memory", type=MEMORY, help="Feature maps of an image in float32, at their peak, as 2MB.")
@click.option("--max-latency", type=LATENCY, help="Of one call on this machine, measured, as 5ms or 0.005s.")
@click.option("--sizes", callback=_sizes, help="Input sizes, as 128,160 [default: multiples of 32 up to the model's].")
@click.option("--num-classes", type=click.IntRange(1), help="Outputs of the classifier [default: the model's].")
@click.option("--output", type=click.Path(path_type=Path), help="New file ….yaml, for create_model and all commands.")
@click.option("--measure", is_flag=True, help="Measure the latency of every candidate.")
@click.option("--engine", default="auto", help="For latency: onnxruntime, openvino … [default: the first installed].")
@click.option("--threads", type=click.IntRange(1), help="Threads of the engine [default: its own choice].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(model: str, as_json: bool, output: Path | None, **options: Any) -> None:
    """Scale MODEL to a budget by width multiplier α and input size (MobileNets, arXiv:1704.04861, 3.3 and 3.4).

    For each input size the widest network within all limits is found by arithmetic. Taken is the one with the most
    multiply-adds, which stand for accuracy; of those within 15 % of the most, the one that shrinks width and resolution
    most alike. Latency, with --max-latency, is measured for a few networks; kept for the next time.
    """
    from rich.progress import BarColumn, TimeElapsedColumn

    from effnets.search.scale import scale

    with progress_bar("measuring {task.description}", BarColumn(), TimeElapsedColumn()) as progress:
        report = scale(model, output=output, progress=progress, **options)
    if as_json:
        click.echo(json.dumps(_as_json(report, output), indent=1))
    else:
        _print(report)
    for note in report.notes:
        click.echo(printable(note), err=True)
    if output is not None:
        click.echo(printable(f"written: {output}; effnets show {output}"), err=True)


def _print(report: ScaleReport) -> None:
    right = ["width α", "input", "ρ", "parameters", "multiply-adds", "feature maps", "latency", "of the limit"]
    table = make_table(["", *right], right=right)
    for model in report.candidates:
        shares = report.limits.shares(model)  # none, where latency is the only limit and this was not measured
        table.add_row(
            "→" if model is report.chosen else "",
            f"{model.width:g}",
            f"{model.input_size}×{model.input_size}",
            f"{model.resolution:.2f}",
            short(model.params),
            short(model.madds),
            f"{model.memory / 1e6:.2f} MB",
            "–" if model.latency is None else f"{model.latency:.2f} ms",
            f"{100 * max(shares.values()):.1f} %" if shares else "–",
        )
    print_table(table)
    click.echo(f"\n{report}" + (f" ({report.engine})" if report.engine else ""))


def _as_json(report: ScaleReport, output: Path | None) -> dict[str, Any]:
    rows = [
        {
            "width": model.width,
            "input_size": model.input_size,
            "resolution": model.resolution,
            "params": model.params,
            "madds": model.madds,
            "memory": model.memory,
            "latency_ms": model.latency,
        }
        for model in report.candidates
    ]
    limit, share = report.tightest
    return {
        "model": report.original.name,
        "limits": asdict(report.limits),
        "chosen": rows[report.candidates.index(report.chosen)],
        "tightest": limit,
        "share": share,
        "candidates": rows,
        "engine": report.engine,
        "notes": list(report.notes),
        "output": None if output is None else str(output),
    }
