"""A person at a terminal who is told how far a training is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from effnets.cli.format import printable

if TYPE_CHECKING:
    from effnets.report.summary import EpochRow


class BarMover:
    """Moves a bar where somebody watches (`effnets.cli.format`); notes are for the report."""

    def __init__(self, bar: Callable[[str, float], None] | None) -> None:
        self._bar = bar

    def note(self, text: str) -> None: ...

    def step(self, what: str, share: float) -> None:
        if self._bar is not None:
            self._bar(what, share)

    def row(self, row: EpochRow) -> None: ...


class EpochPrinter(BarMover):
    """Shows notes, and a line for each epoch, as well."""

    def note(self, text: str) -> None:
        click.echo(f"note: {printable(text)}", err=True)

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
        # The head start's epochs are counted for themselves, and judged by nobody.
        alone = "classifier alone, " if row.phase == "head" and row.val_top1 is None else ""
        if parts:
            click.echo(f"{alone}epoch {row.epoch}: {', '.join(parts)}")
