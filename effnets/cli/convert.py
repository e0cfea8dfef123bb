"""``effnets convert``."""

from __future__ import annotations

from pathlib import Path

import click

from effnets.cli.format import ema_option


@click.command(name="convert")
@click.argument("source", type=click.Path(path_type=Path), metavar="IN")
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT")
@click.option("--model", required=True, help="A model of the zoo, or a YAML file of your own.")
@click.option("--to", required=True, metavar="DIALECT", help="The framework whose names and layout OUT gets.")
@click.option("--from", "dialect", default="auto", metavar="DIALECT", help="That of IN [default: told by its keys].")
@click.option(
    "--num-classes",
    type=click.IntRange(0),
    help="Outputs of OUT: 1001 keeps TensorFlow's background, 0 leaves the classifier out [default: IN's].",
)
@ema_option
def command(source: Path, target: Path, model: str, to: str, dialect: str, num_classes: int | None, ema: bool) -> None:
    """Write the weights file IN as OUT, for another framework to load.

    DIALECT is effnets, timm, torchvision, transformers, keras or clovaai. OUT is a .safetensors file, for frameworks
    that read them a .pth, .pt or .bin one, and for keras an .h5 one. An output for background is dropped unless
    --num-classes counts it in.
    """
    # Imported here: torch takes seconds, and neither --help nor a mistyped option should wait for it.
    from effnets.weights.load import convert_weights

    report = convert_weights(source, target, model=model, to=to, dialect=dialect, num_classes=num_classes, ema=ema)
    click.echo(report)
    click.echo(f"{target} ({to} names): written")
