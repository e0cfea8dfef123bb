"""Training callbacks for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from effnets.cli.format import printable
from effnets.train.callbacks import Callback

if TYPE_CHECKING:
    from effnets.report.write import EpochRow


class ProgressBarCallback(Callback):
    """Move a progress bar, if there is one (`effnets.cli.format`)."""

    def __init__(self, bar: Callable[[str, float], None] | None) -> None:
        self._bar = bar

    def on_progress(self, what: str, fraction: float) -> None:
        if self._bar is not None:
            self._bar(what, fraction)


class ConsoleCallback(ProgressBarCallback):
    """Print messages, and a line for each epoch, as well."""

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
        if row.seconds and row.phase == "all":
            parts.append(f"{row.images / row.seconds:.0f} images/s")
        # The head start counts its own epochs, without validation.
        alone = "classifier alone, " if row.phase == "head" and row.val_top1 is None else ""
        if parts:
            click.echo(f"{alone}epoch {row.epoch}: {', '.join(parts)}")
