"""Options of several commands: the columns and classes of a data set."""

from __future__ import annotations

from pathlib import Path

import click


def _read_names(_context: click.Context, _parameter: click.Parameter, file: str | None) -> tuple[str, ...] | None:
    if file is None:
        return None
    from effnets.data.splits import read_names

    return read_names(Path(file))


image_column_option = click.option("--image-column", metavar="NAME", help="Of a table: the column of the images.")
label_column_option = click.option(
    "--label-column", metavar="NAME", help="Of a table: the column of the classes. Of shards: their key in the JSON."
)
class_names_option = click.option(
    "--class-names",
    metavar="FILE",
    callback=_read_names,
    help="Names of the classes 0, 1, …, one a line, if DATA has numbers only; or instead of its own.",
)
