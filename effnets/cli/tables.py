"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["make_table", "print_table"]

# Where nobody watches, a line is as long as it needs to be.
_UNBOUNDED = 1000


def make_table(columns: Iterable[str], *, right: Sequence[str] = (), title: str | None = None) -> Table:
    """A plain table; the columns named in `right` hold numbers: aligned to the right, never broken."""
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title, title_justify="left", title_style="bold"
    )
    for column in columns:
        numbers = column in right
        table.add_column(column, justify="right" if numbers else "left", no_wrap=numbers, overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print to standard output, fitted to the terminal if it is one."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=_UNBOUNDED)
    console.print(table)
