"""``effnets doctor``."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from effnets.cli.eval import is_exported
from effnets.cli.format import (
    class_names_option,
    image_column_option,
    label_column_option,
    make_table,
    print_table,
    printable,
    progress_bar,
    short,
)

if TYPE_CHECKING:
    from effnets.data.inspect import DataSummary
    from effnets.weights.inspect import CheckpointSummary

_CLASSES, _SHOWN = 12, 5


@click.command(name="doctor")
@click.argument("subject", metavar="DATA|CHECKPOINT")
@click.option(
    "--check",
    type=click.Choice(["quick", "full", "none"]),
    default="quick",
    show_default=True,
    help="Of the images of data: their first and last bytes, whole, or not at all.",
)
@image_column_option
@label_column_option
@class_names_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(subject: str, as_json: bool, **options: Any) -> None:
    """Say what a folder, table, archive or checkpoint is for effnets, and which command to use it with.

    Of data: how it is stored, splits, classes, sizes, corrupt images, duplicates across splits, what is passed over. Of
    a weights file: where in it the weights were found, whose names they have, which networks of the zoo they fit, its
    classes. It reads with the very functions that train, evaluate and load.
    """
    if is_exported(subject):
        raise click.UsageError(f"{subject} is an exported model: effnets predict PHOTO --weights {quote(subject)}")
    if (weights := find_checkpoint(Path(subject))) is not None:
        from effnets.weights.inspect import inspect_checkpoint

        checkpoint = inspect_checkpoint(weights)
        follow = _next_for_checkpoint(checkpoint)
        if as_json:
            click.echo(json.dumps({"subject": "checkpoint", **checkpoint.to_dict(), "next": follow}, indent=1))
        else:
            _print_checkpoint(checkpoint, follow)
        return
    from effnets.data.inspect import inspect_data
    from effnets.data.open import DataConfig

    with progress_bar(wanted=not as_json) as progress:
        data = inspect_data(DataConfig(subject, **options), progress=progress)
    follow = _next_for_data(data)
    if as_json:
        click.echo(json.dumps({"subject": "data", **data.to_dict(), "next": follow}, indent=1))
    else:
        _print_data(data, follow)


def find_checkpoint(path: Path) -> Path | None:
    """Return the weights file that a path is, or that a saved network's folder holds; None for data.

    A .tar is one if its content is PyTorch's.
    """
    from effnets.weights.folder import SUFFIXES, find_weights_file

    if path.is_dir():
        return find_weights_file(path)
    if path.suffix.lower() != ".tar":
        return path if path.suffix.lower() in SUFFIXES else None
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return path if file.read(4).startswith((b"PK\x03\x04", b"\x80")) else None


def _print_checkpoint(checkpoint: CheckpointSummary, follow: str) -> None:
    names = checkpoint.class_names
    rows = {
        "file": f"{checkpoint.path} (sha256 {checkpoint.sha256[:16]}…)",
        "parameters": short(checkpoint.parameters),
        "names of": checkpoint.dialect,
        "fits": ", ".join(checkpoint.models) or "no network of the zoo",
        "classes": "no classifier" if checkpoint.num_classes is None else str(checkpoint.num_classes),
        "class names": f"{', '.join(names[:_CLASSES])}{', …' if len(names) > _CLASSES else ''}" if names else "none",
        **checkpoint.header,
    }
    _print_rows(rows)
    for note in checkpoint.notes:
        click.echo(f"note: {printable(note)}")
    click.echo(f"next: {printable(follow)}")


def _next_for_checkpoint(checkpoint: CheckpointSummary) -> str:
    path = quote(checkpoint.path)
    if not checkpoint.models:
        return f"effnets convert {path} OUT.safetensors --model TABLE.yaml --to effnets, with a table of your network"
    if checkpoint.num_classes is None:
        return f"effnets finetune DATA --model {checkpoint.models[0]} --weights {path} --output RUN"
    return f"effnets predict PHOTO --model {checkpoint.models[0]} --weights {path}"


def _print_data(data: DataSummary, follow: str) -> None:
    click.echo(f"{printable(data.path)}: {data.kind}, {len(data.class_names)} classes")
    table = make_table(
        ["split", "images", "of a class", "width", "height", "corrupt"], right=["images", "of a class", "corrupt"]
    )
    for split, summary in data.splits.items():
        counts = summary.by_class.values()
        table.add_row(
            split,
            f"{summary.images:,}",
            _span(min(counts), max(counts)),
            _pixels(summary.width),
            _pixels(summary.height),
            str(len(summary.corrupt)),
        )
    print_table(table)
    names = data.class_names
    click.echo(printable(f"classes: {', '.join(names[:_CLASSES])}{', …' if len(names) > _CLASSES else ''}"))
    if data.empty:
        click.echo(printable(f"without an image: {', '.join(data.empty)}"))
    for summary in data.splits.values():
        for message in list(summary.corrupt.values())[:_SHOWN]:
            click.echo(printable(f"corrupt: {message}"))
    for note in (*data.duplicates, *data.notes):
        click.echo(printable(f"note: {note}"))
    click.echo(printable(f"next: {follow}"))


def _next_for_data(data: DataSummary) -> str:
    path = quote(data.path)
    if data.empty:
        return f"remove the empty folders ({', '.join(data.empty[:_SHOWN])}), or add images to them"
    if "train" in data.splits or "all" in data.splits:
        if len(data.class_names) < 2:
            return "add images of a second class: training needs two"
        return f"effnets finetune {path} --model mobilenetv2_100 --output RUN"
    return f"effnets eval {path} --weights RUN"


def _print_rows(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  {printable(value)}")


def _pixels(values: tuple[int, int, int] | None) -> str:
    if values is None:
        return ""
    low, median, high = values
    return _span(low, high) if low == high else f"{_span(low, high)} (median {median})"


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
