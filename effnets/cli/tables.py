"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from effnets.cli.format import printable

if TYPE_CHECKING:
    from rich.table import Table

    from effnets.evaluation import Comparison, Evaluation


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


def result_table(names: Sequence[str], evaluations: Sequence[Evaluation]) -> Table:
    """Accuracy and speed, a row for each."""
    topk, real = f"top-{evaluations[0].topk} %", ["ReaL %"] if evaluations[0].real else []
    numbers = ["top-1 %", "95 % interval", topk, *real, "loss", "ECE %", "temperature", "network/s", "decoding/s"]
    table = make_table(["weights", "engine", *numbers], right=numbers, whole=["weights"])
    for name, found in zip(names, evaluations, strict=True):
        temperature = found.calibration.temperature
        table.add_row(
            _short(name),
            found.engine,
            f"{found.top1:.2f}",
            "{:.1f} – {:.1f}".format(*found.interval),
            f"{found.topk_accuracy:.2f}",
            *([f"{found.real.top1:.2f}"] if found.real else []),
            f"{found.loss:.3f}",
            f"{100 * found.calibration.error:.1f}",
            "–" if temperature is None else f"{temperature:.2f}",
            f"{found.network_speed:,.0f}",
            f"{found.decoding_speed:,.0f}",
        )
    return table


def comparison_table(
    names: Sequence[str], evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison]
) -> Table:
    """How the answers of each but the first differ from those of the first."""
    numbers = ["same answer %", "changed", "now right", "now wrong", "p (McNemar)", "probability changed by"]
    title = f"against {_short(names[0])} in {evaluations[0].engine}"
    table = make_table(["weights", "engine", *numbers], right=numbers, whole=["weights"], title=title)
    for name, found, comparison in zip(names[1:], evaluations[1:], comparisons, strict=True):
        table.add_row(
            _short(name),
            found.engine,
            f"{comparison.agreement:.2f}",
            str(comparison.changed),
            str(comparison.gained),
            str(comparison.lost),
            f"{comparison.p_value:.2g}",
            f"{comparison.confidence_change:.1e}",
        )
    return table


def class_table(found: Evaluation) -> Table:
    """Precision, recall and F1 of each class of the data, in per cent."""
    numbers = ["pictures", "precision %", "recall %", "F1 %"]
    table = make_table(["class", *numbers], right=numbers)
    scores = found.scores()
    for output in found.classes:
        values = (scores.precision[output], scores.recall[output], scores.f1[output])
        shown = ["–" if value != value else f"{100 * value:.1f}" for value in values]
        table.add_row(printable(found.class_names[output]), str(scores.support[output]), *shown)
    return table


def _short(name: str) -> str:
    """A file's or folder's own name: paths make tables wide."""
    return printable(Path(name).name or name)
