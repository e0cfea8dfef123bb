"""``effnets train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from effnets.cli.data_options import class_names_option, image_column_option, label_column_option
from effnets.cli.training import check_option, settings_option, strict_option, train

__all__ = ["command"]


@click.command(name="train")
@click.argument("recipe")
@click.argument("data")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the run.")
@click.option("--model", help="Another model than the recipe's.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the pictures [default: the recipe's].")
@click.option("--seed", type=click.IntRange(0), help="Of everything drawn [default: the recipe's].")
@click.option("--workers", type=click.IntRange(0), help="Processes that load pictures [default: by the cores].")
@settings_option
@strict_option
@check_option
@image_column_option
@label_column_option
@class_names_option
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint; start where there is none.")
def command(
    recipe: str,
    data: str,
    output: Path,
    model: str | None,
    epochs: int | None,
    seed: int | None,
    workers: int | None,
    settings: dict[str, Any],
    strict: bool,
    check: Literal["quick", "full", "none"],
    image_column: str | None,
    label_column: str | None,
    class_names: tuple[str, ...] | None,
    resume: bool,
) -> None:
    """Train a network by RECIPE, a name of configs/recipes or a YAML file, on DATA; from scratch where it says so."""
    stated = {"model": model, "epochs": epochs, "seed": seed, "workers": workers}
    changes = {key: value for key, value in stated.items() if value is not None}
    train(
        recipe,
        {**settings, **changes},
        data,
        output,
        resume=resume,
        strict=strict,
        check=check,
        image_column=image_column,
        label_column=label_column,
        class_names=class_names,
    )
