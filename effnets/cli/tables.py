"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["make_table", "print_table"]

# Where nobody watches, a line is as long as it needs to be.
_UNBOUNDED = 1000


def make_table(
    columns: Iterable[str], *, right: Sequence[str] = (), whole: Sequence[str] = (), title: str | None = None
) -> Table:
    """A plain table; the columns named in `right` hold numbers, and like those in `whole` are never broken."""
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title, title_justify="left", title_style="bold"
    )
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, justify=justify, no_wrap=column in (*right, *whole), overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print to standard output, fitted to the terminal if it is one."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=_UNBOUNDED)
    console.print(table)
