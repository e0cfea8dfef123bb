"""``effnets train``."""

from __future__ import annotations

from pathlib import Path

import click

from effnets.cli.training import RunOptions, run_options, train


@click.command(name="train")
@click.argument("recipe")
@click.argument("data")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the run.")
@click.option("--model", help="Instead of the recipe's model.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the images [default: the recipe's].")
@click.option("--seed", type=click.IntRange(0), help="Of all random numbers [default: the recipe's].")
@click.option("--workers", type=click.IntRange(0), help="Processes that load images [default: by the cores].")
@run_options
def command(
    recipe: str,
    data: str,
    output: Path,
    model: str | None,
    epochs: int | None,
    seed: int | None,
    workers: int | None,
    options: RunOptions,
) -> None:
    """Train a network on DATA by RECIPE: a name in configs/recipes, or a YAML file."""
    overrides = {"model": model, "epochs": epochs, "seed": seed, "workers": workers}
    train(recipe, overrides, data, output, options)
