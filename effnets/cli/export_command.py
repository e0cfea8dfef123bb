"""``effnets export``."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from effnets.cli.text import printable

__all__ = ["command"]


@click.command(name="export")
@click.argument("model")
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT.onnx")
@click.option("--weights", help="A weights file, or a tag [default: the published weights].")
@click.option("--image-size", type=click.IntRange(1, 8192), help="Side of the input in pixels [default: the weights'].")
@click.option("--dynamic-size", is_flag=True, help="Take images of any size.")
@click.option("--preprocess", is_flag=True, help="Take uint8 photos, and resize, crop and normalise in the graph.")
@click.option("--topk", type=click.IntRange(1), help="Give the K likeliest classes as well, with probabilities.")
@click.option("--no-optimize", is_flag=True, help="Leave the network as it is, instead of rewriting it faster.")
def command(
    model: str,
    target: Path,
    weights: str | None,
    image_size: int | None,
    dynamic_size: bool,
    preprocess: bool,
    topk: int | None,
    no_optimize: bool,
) -> None:
    """Write MODEL, a name of the zoo or a YAML file of your own, as the ONNX file OUT.onnx.

    It is compared with the network before it is written, on ONNX Runtime and, where installed, on OpenVINO; if it
    computes anything else there is no file, and the exit status is 1.
    """
    # Imported here: torch takes seconds, and neither --help nor a mistyped option should wait for it.
    from effnets.deploy.onnx import export_onnx
    from effnets.zoo import create_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the loader warns of is an error here
        network = create_model(model, pretrained=weights is None, weights=weights)
    if network.load_report and network.load_report.reinitialised:
        raise click.ClickException(f"{network.load_report.source}: has no classifier, so that outputs would be chance")
    report = export_onnx(
        network,
        target,
        image_size=image_size,
        dynamic_size=dynamic_size,
        preprocess=preprocess,
        optimize=not no_optimize,
        topk=topk,
    )
    click.echo(printable(str(report)))
