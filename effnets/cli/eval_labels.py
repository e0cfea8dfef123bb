"""What ``effnets eval`` measures of models of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from effnets.cli.format import make_table, print_table, printable, refuse_options

if TYPE_CHECKING:
    from effnets.engines.base import Engine
    from effnets.evaluation.multilabel import LabelEvaluation
    from effnets.nn.classifier import Classifier

# What this command's options are to a model of labels.
_MEASURED = ("batch_size", "strict", "image_column", "label_column", "decode")
_KNOWN = ("data", "data_of_run", "model", "weights", "ema", "engines", "image_size", "workers", "json_file", *_MEASURED)
_BROKEN = 5


def gives_labels(model: Classifier | Engine) -> bool:
    """Return whether a model gives images any number of labels."""
    described: Any = getattr(model, "description", model)
    return bool(described.classifier_activation == "sigmoid")


def measure(
    model: Classifier | Engine,
    data: str,
    image_size: int | None,
    workers: int | None,
    options: Mapping[str, Any],
    progress: Callable[[float], object],
) -> LabelEvaluation:
    """Measure a model of labels on `data`; raises a UsageError for options that are about classes."""
    from effnets.evaluation.multilabel import evaluate_labels

    refuse_options(_KNOWN, "a model of labels")
    chosen = {name: options[name] for name in _MEASURED}
    return evaluate_labels(model, data, image_size=image_size, workers=workers, progress=progress, **chosen)


def print_labels(names: Sequence[str], found: Sequence[LabelEvaluation]) -> None:
    """Print the labels of the first model, and the means of all."""
    from effnets.evaluation.multilabel import LABEL_COLUMNS

    first = found[0]
    images = {"given": "images", "all": "images"}.get(first.split, f"{first.split} images")
    click.echo(f"{printable(first.data)}: {first.count:,} {images}, {len(first.label_names):,} labels\n")
    table = make_table(list(LABEL_COLUMNS), right=list(LABEL_COLUMNS[1:]))
    for row in first.rows():
        table.add_row(*map(printable, row))
    print_table(table)
    click.echo()
    table = make_table(["weights", "mAP in %", "mean F1 in %", "loss"], right=["mAP in %", "mean F1 in %", "loss"])
    for name, one in zip(names, found, strict=True):
        means = ("–" if mean is None else f"{mean:.1f}" for mean in (one.mean_ap, one.mean_f1))
        table.add_row(printable(name), *means, f"{one.loss:.3f}")
    print_table(table)
    for note in first.notes:
        click.echo(printable(note), err=True)
    for broken in first.broken[:_BROKEN]:
        click.echo(printable(f"left out: {broken.reason}"), err=True)
