"""``effnets bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from effnets.cli.format import DrawnFile, make_table, print_table, progress_bar, split_names

if TYPE_CHECKING:
    from effnets.bench.report import BenchReport


def _numbers(_context: click.Context, _parameter: click.Parameter, value: str) -> list[int]:
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of numbers above 0, such as 1,16")
    return [int(part) for part in parts]


@click.command(name="bench")
@click.argument("models", nargs=-1, required=True, metavar="MODEL…")
@click.option("--against", default="timm", show_default=True, help="Baselines: timm, torchvision.")
@click.option(
    "--engines",
    default="torch,onnxruntime,openvino",
    show_default=True,
    help="Of these, torch-compile (which takes minutes), litert and executorch.",
)
@click.option("--batch", "batches", default="1,16", show_default=True, callback=_numbers, help="Images at a time.")
@click.option("--threads", type=click.IntRange(1), help="[default: all cores]")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True, help="Samples of each variant.")
@click.option("--image-size", type=click.IntRange(1, 8192), help="Side of the input in pixels [default: the model's].")
@click.option("--no-memory", is_flag=True, help="Leave out peak memory, which starts a process for each variant.")
@click.option("--processor-time", is_flag=True, help="Count processor time: for busy machines, with --threads 1.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown instead of a table.")
@click.option("--svg", type=DrawnFile(".svg"), metavar="FILE", help="Draw bars into this file as well, ….svg.")
def command(
    models: tuple[str, ...],
    against: str,
    engines: str,
    no_memory: bool,
    as_json: bool,
    as_markdown: bool,
    svg: Path | None,
    **options: Any,
) -> None:
    """Measure each MODEL on this machine, as built and as rewritten, against the same network in other libraries.

    All have the same random weights, and none is timed whose logits differ. Variants take turns, and what is printed
    are medians: ratios hold on a busy machine, milliseconds on a quiet one. The exit status is 1 if a variant fails, or
    a baseline named by --against does not have a network; the others are measured all the same.
    """
    if as_json and as_markdown:
        raise click.UsageError("--json and --markdown are two forms of one report; choose one")
    # Imported here: torch takes seconds, and neither --help nor a mistyped option should wait for it.
    from effnets.bench.bench import bench
    from effnets.deploy.export.base import check_writable, write_file

    if svg is not None:
        check_writable(svg)
    with progress_bar() as progress:
        report = bench(
            models,
            against=split_names(against),
            engines=split_names(engines),
            memory=not no_memory,
            progress=progress,
            **options,
        )
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=1))
    elif as_markdown:
        click.echo(report.markdown(), nl=False)
    else:
        _print(report)
    if svg is not None:
        from effnets.bench.plots import draw_bars

        write_file(svg, draw_bars(report).encode())
    context = click.get_current_context()
    named = context.get_parameter_source("against") is not ParameterSource.DEFAULT
    excused = {*report.untold, *(() if named else report.absent)}
    context.exit(1 if set(report.missing) - excused else 0)


def _print(report: BenchReport) -> None:
    from effnets.bench.report import TEXT_COLUMNS

    columns = report.columns()
    right = [column for column in columns if column not in TEXT_COLUMNS]
    table = make_table(columns, right=right, whole=TEXT_COLUMNS)
    for cells in report.cells():
        table.add_row(*cells)
    click.echo("\n".join(report.heading()) + "\n")
    print_table(table)
    for line in report.best_lines():
        click.echo(line)
    for reason in report.missing:
        click.echo(f"not measured: {reason}", err=True)
