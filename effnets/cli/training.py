"""What ``effnets finetune`` and ``effnets train`` share: settings given by hand, and progress on the terminal."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from effnets.cli.progress import progress_bar
from effnets.cli.text import printable
from effnets.errors import TrainingInterruptedError

if TYPE_CHECKING:
    from effnets.train.progress import EpochRow

__all__ = ["check_option", "settings_option", "strict_option", "train"]


def _settings(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    import yaml

    settings: dict[str, Any] = {}
    for value in values:
        key, separator, text = value.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"{value!r} is no setting; write it like ema_decay=0 or augmentation.mixup=0.2")
        try:
            settings[key] = _number(yaml.safe_load(text))
        except yaml.YAMLError:
            raise click.BadParameter(f"{value!r}: {text!r} is no YAML value") from None
    return settings


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


settings_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_settings,
    help="Any other setting of the recipe; again for several.",
)


class _Terminal:
    """Tells a person: notes, a bar, a line for each epoch."""

    def __init__(self, bar: Callable[[str, float], None] | None) -> None:
        self.bar = bar

    def note(self, text: str) -> None:
        click.echo(f"note: {printable(text)}", err=True)

    def step(self, what: str, share: float) -> None:
        if self.bar is not None:
            self.bar(what, share)

    def row(self, row: EpochRow) -> None:
        parts = []
        if row.train_loss is not None:
            parts.append(f"loss {row.train_loss:.3f}")
        if row.val_top1 is not None:
            parts.append(f"validation {row.val_top1:.1f} %")
        if row.average_top1 is not None:
            parts.append(f"average {row.average_top1:.1f} %")
        if row.seconds and row.phase == "all":
            parts.append(f"{row.images / row.seconds:.0f} images/s")
        if row.val_top1 is not None:
            click.echo(f"epoch {row.epoch}: {', '.join(parts)}")


class _Nobody(_Terminal):
    """For all processes but the first."""

    def __init__(self) -> None:
        super().__init__(None)

    def note(self, text: str) -> None: ...

    def row(self, row: EpochRow) -> None: ...


strict_option = click.option("--strict", is_flag=True, help="Let a picture that cannot be read be an error.")
check_option = click.option(
    "--check",
    type=click.Choice(["quick", "full", "none"]),
    default="quick",
    show_default=True,
    help="Look at the pictures beforehand: at their headers, whole, or not.",
)


def train(
    recipe: str,
    changes: dict[str, Any],
    data: str,
    output: Path,
    *,
    resume: bool,
    strict: bool,
    check: Literal["quick", "full", "none"],
    image_column: str | None,
    label_column: str | None,
    class_names: tuple[str, ...] | None,
) -> None:
    """Train, say how it goes, and end with status 143 after SIGTERM and 130 after Ctrl-C, saved."""
    import os

    from effnets.train.finetune import finetune
    from effnets.train.recipe_file import find_recipe, read_recipe

    settings = read_recipe(find_recipe(recipe), changes)
    first = os.environ.get("RANK", "0") == "0"
    command = shlex.join(["effnets", *sys.argv[1:]])
    try:
        with progress_bar() as bar:
            listener = _Terminal(bar) if first else _Nobody()
            trained = finetune(
                settings,
                data,
                output,
                resume=resume,
                strict=strict,
                check=check,
                image_column=image_column,
                label_column=label_column,
                class_names=class_names,
                listener=listener,
                command=command,
            )
    except TrainingInterruptedError as interruption:
        click.echo(str(interruption), err=True)
        sys.exit(128 + interruption.signal)
    if first:
        _conclude(trained.metrics, output)


def _conclude(metrics: dict[str, Any], output: Path) -> None:
    shown = {"validation": metrics["best_top1"], "test": metrics["test_top1"]}
    figures = [f"{name} top-1 {value:.2f} %" for name, value in shown.items() if value is not None]
    click.echo(f"{printable(str(output))}: {', '.join(figures) or 'trained'}, after {metrics['seconds']:.0f} s")
