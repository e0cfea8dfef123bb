"""``effnets tune``."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effnets.cli.format import ema_option, make_table, print_table, printable, progress_bar, split_names

if TYPE_CHECKING:
    from effnets.deploy.tune import TuneReport
    from effnets.nn.classifier import Classifier


@click.command(name="tune")
@click.argument("model")
@click.option("--weights", help="A weights file, a tag, or random [default: the published weights].")
@ema_option
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Images at a time.")
@click.option("--image-size", type=click.IntRange(1, 8192), help="Side of the input in pixels [default: the weights'].")
@click.option("--budget", type=click.FloatRange(0, min_open=True), default=120.0, show_default=True, help="Seconds.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, min_open=True),
    default=1e-3,
    show_default=True,
    help="Largest difference of logits, as a share of the largest; bfloat16 needs about 0.02.",
)
@click.option(
    "--engines", help="Of onnxruntime, openvino, torch, torch-compile, with commas [default: all but torch-compile]."
)
@click.option("--threads", type=click.IntRange(1), help="[default: the engines' own choice]")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Keep the result, and use it again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(model: str, weights: str | None, ema: bool, engines: str | None, as_json: bool, **options: Any) -> None:
    """Find the fastest way to execute MODEL on this machine: rewrites, engine, precision and layout.

    Programs take turns, and slower ones drop out. What is chosen beats the default by 3 % or is the default.
    """
    # Imported here: torch takes seconds, and neither --help nor a mistyped option should wait for it.
    from effnets.deploy.tune import tune

    network = _load(model, weights, ema)
    with progress_bar() as progress:
        found = tune(network, engines=split_names(engines) if engines else None, progress=progress, **options)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        print_report(found)


def _load(model: str, weights: str | None, ema: bool) -> Classifier:
    from effnets.factory import create_model

    if weights == "random":
        if ema:
            raise click.UsageError("--ema chooses among the weights in a file; give one by --weights")
        import torch

        from effnets.bench.variants import shake

        torch.manual_seed(0)  # the same values each time, so that a report is found again
        network = create_model(model)
        shake(network)
        return network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fresh classifier takes as long as a trained one
        return create_model(model, pretrained=weights is None, weights=weights, ema=ema)


def print_report(found: TuneReport) -> None:
    """The candidates, fastest first, and the choice."""
    numbers = ["ms/image", "quartiles", "rounds", "difference"]
    table = make_table(["program", *numbers, "note"], right=numbers, whole=["program"])
    for measured in sorted(found.candidates, key=lambda one: one.milliseconds or float("inf")):
        low, high = measured.quartiles or (0.0, 0.0)
        timed = measured.milliseconds is not None
        table.add_row(
            measured.candidate.name,
            f"{measured.milliseconds:.2f}" if timed else "",
            f"{low:.2f}–{high:.2f}" if timed else "",
            str(measured.rounds or ""),
            "" if measured.difference is None else f"{measured.difference:.0e}",
            printable(measured.note),
        )
    print_table(table)
    click.echo(printable(str(found)))
    if found.reused:
        click.echo("measured earlier on this machine; remove the report to measure again")
