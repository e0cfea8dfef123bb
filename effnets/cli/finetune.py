"""``effnets finetune``."""

from __future__ import annotations

from pathlib import Path

import click

from effnets.cli.training import RunOptions, run_options, train


@click.command(name="finetune")
@click.argument("data")
@click.option("--model", required=True, help="A model's name, or a YAML file.")
@click.option("--weights", help="A file, a folder, a tag, or random [default: the published weights].")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the run.")
@click.option("--recipe", default="finetune", show_default=True, help="A recipe's name or YAML file.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the images [default: the recipe's].")
@click.option("--batch-size", type=click.IntRange(1), help="Images in a forward pass [default: the recipe's].")
@click.option("--image-size", type=click.IntRange(8, 8192), help="Side of the input in pixels [default: the weights'].")
@click.option(
    "--lr",
    "learning_rate",
    type=click.FloatRange(0, min_open=True),
    help="Learning rate of the last layer [default: by the network's width].",
)
@click.option(
    "--freeze", help="stem, a number of stages, stages, or backbone: a linear probe on cached features [default: none]."
)
@click.option("--teacher", help="A network to learn from as well: a name, or the folder of a run.")
@click.option("--balance", type=click.Choice(["none", "weights", "sampler"]), help="Of classes of different sizes.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    help="[default: bfloat16 if the device computes in it natively]",
)
@click.option("--seed", type=click.IntRange(0), help="Of all random numbers [default: 0].")
@click.option("--workers", type=click.IntRange(0), help="Processes that load images [default: by the cores].")
@run_options
def command(
    data: str,
    output: Path,
    recipe: str,
    model: str,
    weights: str | None,
    epochs: int | None,
    batch_size: int | None,
    image_size: int | None,
    learning_rate: float | None,
    freeze: str | None,
    teacher: str | None,
    balance: str | None,
    precision: str | None,
    seed: int | None,
    workers: int | None,
    options: RunOptions,
) -> None:
    """Fine-tune a pretrained network on the images in DATA: a folder by class, a CSV file, an archive, ….

    OUTPUT then holds model.safetensors, which create_model loads, metrics.json, and last/, from which --resume
    continues after any interruption. SIGTERM and Ctrl-C save everything and exit with status 143 and 130.
    """
    overrides = {
        "model": model,
        "weights": weights,
        "epochs": epochs,
        "batch_size": batch_size,
        "image_size": image_size,
        "learning_rate": learning_rate,
        "freeze": freeze,
        "teacher": teacher,
        "balance": balance,
        "precision": precision,
        "seed": seed,
        "workers": workers,
    }
    train(recipe, overrides, data, output, options)
