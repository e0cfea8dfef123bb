"""Shared by ``effnets finetune`` and ``effnets train``: their options, and the training."""

from __future__ import annotations

import functools
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import click

from effnets.cli.callbacks import ConsoleCallback
from effnets.cli.format import printable, progress_bar
from effnets.cli.options import class_names_option, image_column_option, label_column_option
from effnets.errors import TrainingInterruptedError
from effnets.train.callbacks import LOGGERS


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


_settings_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_settings,
    help="Any other setting of the recipe; may be repeated.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The values of `run_options`: settings of the recipe, and arguments of `effnets.finetune`."""

    settings: dict[str, Any]
    strict: bool
    check: Literal["quick", "full", "none"]
    image_column: str | None
    label_column: str | None
    class_names: tuple[str, ...] | None
    log_with: tuple[str, ...]
    resume: bool


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every training to a command, which receives them together as `options`."""

    @_settings_option
    @click.option("--strict", is_flag=True, help="Stop at an image that cannot be read, instead of leaving it out.")
    @click.option(
        "--check",
        type=click.Choice(["quick", "full", "none"]),
        default="quick",
        show_default=True,
        help="Check the images before training: their headers, whole, or not at all.",
    )
    @image_column_option
    @label_column_option
    @class_names_option
    @click.option(
        "--log-with",
        type=click.Choice(LOGGERS),
        multiple=True,
        help="Log every epoch into the folder of the run; may be repeated.",
    )
    @click.option("--resume", is_flag=True, help="Continue from the last checkpoint, if there is one.")
    @functools.wraps(command)
    def gathered(**values: Any) -> None:
        shared = {field.name: values.pop(field.name) for field in fields(RunOptions)}
        command(options=RunOptions(**shared), **values)

    return gathered


def train(recipe: str, overrides: dict[str, Any], data: str, output: Path, options: RunOptions) -> None:
    """Train, report progress, and exit with status 143 after SIGTERM and 130 after Ctrl-C, with everything saved.

    The `overrides` by options of the command precede ``--set``; None leaves the recipe's value.
    """
    from effnets.train.recipe import find_recipe, read_recipe
    from effnets.train.run import finetune

    changes = options.settings | {key: value for key, value in overrides.items() if value is not None}
    settings = read_recipe(find_recipe(recipe), changes)
    first = os.environ.get("RANK", "0") == "0"
    warnings.showwarning = _show_warning
    command = shlex.join(["effnets", *sys.argv[1:]])
    try:
        with progress_bar() as bar:
            trained = finetune(
                settings,
                data,
                output,
                resume=options.resume,
                strict=options.strict,
                check=options.check,
                image_column=options.image_column,
                label_column=options.label_column,
                class_names=options.class_names,
                callbacks=[ConsoleCallback(bar)] if first else [],
                log_with=options.log_with,
                command=command,
            )
    except TrainingInterruptedError as interruption:
        click.echo(str(interruption), err=True)
        sys.exit(128 + interruption.signal)
    if first:
        _print_result(trained.metrics, output)


def _show_warning(message: Warning | str, *_where: object, **_how: object) -> None:
    """Print a warning without the place in this library that it comes from."""
    click.echo(f"warning: {printable(str(message))}", err=True)


def _print_result(metrics: dict[str, Any], output: Path) -> None:
    shown = {"validation": metrics["best_top1"], "test": metrics["test_top1"]}
    figures = [f"{name} top-1 {value:.2f} %" for name, value in shown.items() if value is not None]
    click.echo(f"{printable(str(output))}: {', '.join(figures) or 'trained'}, after {metrics['seconds']:.0f} s")
