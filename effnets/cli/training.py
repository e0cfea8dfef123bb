"""``effnets finetune`` and ``effnets train``."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effnets.cli.format import (
    class_names_option,
    image_column_option,
    label_column_option,
    printable,
    progress_bar,
)
from effnets.errors import TrainingInterruptedError
from effnets.train.callbacks import LOGGERS, ProgressCallback

if TYPE_CHECKING:
    from effnets.report.write import EpochRow


class ConsoleCallback(ProgressCallback):
    """Print messages, and a line for each epoch, beside the progress bar."""

    def on_message(self, text: str) -> None:
        click.echo(f"note: {printable(text)}", err=True)

    def on_epoch_end(self, row: EpochRow) -> None:
        parts = []
        if row.train_loss is not None:
            parts.append(f"loss {row.train_loss:.3f}")
        if row.val_top1 is not None:
            parts.append(f"validation {row.val_top1:.1f} %")
        if row.average_top1 is not None:
            parts.append(f"average {row.average_top1:.1f} %")
        if row.val_mean_ap is not None:
            parts.append(f"validation mAP {row.val_mean_ap:.1f} %")
        if row.average_mean_ap is not None:
            parts.append(f"average {row.average_mean_ap:.1f} %")
        if row.seconds and row.phase == "all":
            parts.append(f"{row.images / row.seconds:.0f} images/s")
        # The head start counts its own epochs, without validation.
        alone = "classifier alone, " if row.phase == "head" and row.val_top1 is None else ""
        if parts:
            click.echo(f"{alone}epoch {row.epoch}: {', '.join(parts)}")


def _settings(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    import yaml

    settings: dict[str, Any] = {}
    for value in values:
        key, separator, text = value.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"{value!r} is not a setting; write it like ema_decay=0 or augmentation.mixup=0.2")
        try:
            settings[key] = _with_numbers(yaml.safe_load(text))
        except (yaml.YAMLError, ValueError):  # the latter of an impossible date
            raise click.BadParameter(f"{value!r}: {text!r} is not a YAML value") from None
    return settings


def _with_numbers(value: Any) -> Any:
    """Turn texts into numbers where possible: YAML 1.1 reads 1e-3 as text."""
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


_RUN_OPTIONS = (
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_settings,
        help="Any other setting of the recipe; may be repeated.",
    ),
    click.option(
        "--strict", is_flag=True, help="Stop at an image that is broken or unlabeled, instead of leaving it out."
    ),
    click.option(
        "--check",
        type=click.Choice(["quick", "full", "none"]),
        default="quick",
        show_default=True,
        help="Check the images before training: their headers, whole, or not at all.",
    ),
    image_column_option,
    label_column_option,
    class_names_option,
    click.option(
        "--log-with",
        type=click.Choice(LOGGERS),
        multiple=True,
        help="Log every epoch into the folder of the run; may be repeated.",
    ),
    click.option("--resume", is_flag=True, help="Continue from the last checkpoint, if there is one."),
)
# Of a command's options those that `effnets.finetune` takes; the others are settings of the recipe.
_ARGUMENTS = ("strict", "check", "image_column", "label_column", "class_names", "log_with", "resume")


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every training to a command."""
    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return command


def _train(recipe: str, data: str, output: Path, options: dict[str, Any]) -> None:
    """Train, report progress, and exit with status 143 after SIGTERM and 130 after Ctrl-C, with everything saved.

    A command's own options precede ``--set``; None leaves the recipe's value.
    """
    from effnets.train.recipe import find_recipe, read_recipe
    from effnets.train.run import finetune
    from effnets.utils.machine import keep_freed_memory

    keep_freed_memory()
    changes, arguments = options.pop("settings"), {name: options.pop(name) for name in _ARGUMENTS}
    changes |= {key: value for key, value in options.items() if value is not None}
    settings = read_recipe(find_recipe(recipe), changes)
    first = os.environ.get("RANK", "0") == "0"
    warnings.showwarning = _show_warning
    command = shlex.join(["effnets", *sys.argv[1:]])
    try:
        with progress_bar() as bar:
            callbacks = [ConsoleCallback(bar)] if first else []
            trained = finetune(settings, data, output, callbacks=callbacks, command=command, **arguments)
    except TrainingInterruptedError as interruption:
        click.echo(str(interruption), err=True)
        sys.exit(128 + interruption.signal)
    if first:
        _print_result(trained.metrics, output)


def _show_warning(message: Warning | str, *_where: object, **_how: object) -> None:
    """Print a warning without the place in this library that it comes from."""
    click.echo(f"warning: {printable(str(message))}", err=True)


def _print_result(metrics: dict[str, Any], output: Path) -> None:
    top1 = "recall@1" if metrics["recipe"].get("task") == "embed" else "top-1"
    figures = [
        f"{split} {name} {metrics[f'{key}_{metric}']:.2f} %"
        for metric, name in (("top1", top1), ("mean_ap", "mAP"))
        for key, split in (("best", "validation"), ("test", "test"))
        if metrics.get(f"{key}_{metric}") is not None
    ]
    click.echo(f"{printable(str(output))}: {', '.join(figures) or 'trained'}, after {metrics['seconds']:.0f} s")


@click.command(name="finetune")
@click.argument("data")
@click.option("--model", required=True, help="A model's name, or a YAML file.")
@click.option("--weights", help="A file, a folder, a tag, or random [default: the published weights].")
@click.option(
    "--task",
    type=click.Choice(["classify", "multilabel", "embed", "detect"]),
    help="A class for each image, any number of labels, vectors to compare, or boxes [default: the recipe's].",
)
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
@click.option(
    "--teacher", help="A network to learn from as well: a name, the folder of a run, timm:NAME, or an ONNX file."
)
@click.option(
    "--distillation-type",
    type=click.Choice(["logits", "embedding", "features"]),
    help="What is learned of the teacher [default: logits].",
)
@click.option("--balance", type=click.Choice(["none", "weights", "sampler"]), help="Of classes of different sizes.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    help="[default: bfloat16 if the device computes in it natively]",
)
@click.option("--seed", type=click.IntRange(0), help="Of all random numbers [default: 0].")
@click.option("--workers", type=click.IntRange(0), help="Processes that load images [default: by the cores].")
@_run_options
def finetune_command(data: str, output: Path, recipe: str, **options: Any) -> None:
    """Fine-tune a pretrained network on the images in DATA: a folder by class, a CSV file, an archive, ….

    OUTPUT then holds model.safetensors, which create_model loads, metrics.json, and last/, from which --resume
    continues after any interruption. SIGTERM and Ctrl-C save everything and exit with status 143 and 130.
    """
    _train(recipe, data, output, options)


@click.command(name="train")
@click.argument("recipe")
@click.argument("data")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the run.")
@click.option("--model", help="Instead of the recipe's model.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the images [default: the recipe's].")
@click.option("--seed", type=click.IntRange(0), help="Of all random numbers [default: the recipe's].")
@click.option("--workers", type=click.IntRange(0), help="Processes that load images [default: by the cores].")
@_run_options
def train_command(recipe: str, data: str, output: Path, **options: Any) -> None:
    """Train a network on DATA by RECIPE: a name in configs/recipes, or a YAML file."""
    _train(recipe, data, output, options)
