"""What commands share: numbers, names and tables as people read them, types of arguments, options of data sets."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from rich.progress import ProgressColumn
    from rich.table import Table

    from effnets.bulk.journal import Journal
    from effnets.evaluation import Comparison, Evaluation
    from effnets.nn.classifier import Classifier


def short(number: int) -> str:
    """``4231976`` → ``4.23 M``, ``864`` → ``0.9 k``."""
    return f"{number / 1e6:,.2f} M" if number >= 100_000 else f"{number / 1e3:.1f} k"


def split_names(text: str) -> list[str]:
    """``timm, torchvision`` → both; of empty text none."""
    return [part.strip() for part in text.split(",") if part.strip()]


def title_of(data: str) -> str:
    """Return what a report is called: the data's own name."""
    return Path(data).resolve().name.partition(".")[0] or data


def printable(text: str) -> str:
    """`text` on one line, with what would steer a terminal escaped: a file may have any name."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "backslashreplace").decode()
        for character in text
    )


def load_network(model: str, weights: str | None, *, answers: str = "answers", ema: bool = False) -> Classifier:
    """Load a trained network; without a trained classifier its `answers`, as the message calls them, mean nothing."""
    # Imported here: torch takes seconds, and neither --help nor a mistyped option should wait for it.
    from effnets.engines.base import EXPORTED
    from effnets.errors import UnknownModelError
    from effnets.factory import create_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the loader warns of is an error here
        try:
            network = create_model(model, pretrained=weights is None, weights=weights, ema=ema)
        except UnknownModelError:
            if not Path(model).is_file():
                raise
            raise click.UsageError(
                f"{model} is neither an exported model ({', '.join(EXPORTED)}) nor a network (.yaml); weights go to "
                "--weights"
            ) from None
    if network.load_report and network.load_report.reinitialised:
        raise click.ClickException(
            f"{network.load_report.source}: has no classifier, so that {answers} would be chance"
        )
    return network


def refuse_options(known: Collection[str], subject: str) -> None:
    """Raise a UsageError for an option of the command that was given, and is not among the `known` ones.

    `known` are names of parameters; `subject` is what the others mean nothing for.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name not in known and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} means nothing for {subject}; leave it out")


_NUMBER = re.compile(r"(\d+(?:\.\d+)?|\.\d+) ?([^\s\d.]*)", re.ASCII)


class Quantity(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """A positive number with one of some units, as a float in the unit whose factor is 1."""

    def __init__(self, name: str, units: Mapping[str, str], example: str, at_most: float = 1e18) -> None:
        self.name = name
        self.units = {unit: Decimal(factor) for unit, factor in units.items()}
        self.example = example
        self.at_most = at_most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):  # a default
            return value
        match = _NUMBER.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no positive {self.name}; write it like {self.example}", param, ctx)
        digits, unit = match.groups()
        if unit not in self.units:
            units = ", ".join(known for known in self.units if known)
            problem = f"has the unit {unit!r}" if unit else "has no unit"
            self.fail(f"{value!r} {problem}; use {units}, like {self.example}", param, ctx)
        number = float(Decimal(digits) * self.units[unit])
        if not 0 < number <= self.at_most:
            between = f"above 0 and at most {self.at_most:g}"
            self.fail(f"{value!r} is no {self.name}: it must be {between}, like {self.example}", param, ctx)
        return number


LATENCY = Quantity("latency", {"ms": "1", "us": "0.001", "µs": "0.001", "s": "1000"}, "5ms or 0.005s")
COUNT = Quantity("number", {"": "1", "k": "1e3", "M": "1e6", "G": "1e9"}, "4M or 300M")
MEMORY = Quantity(
    "size", {"B": "1", "kB": "1e3", "MB": "1e6", "GB": "1e9", "KiB": "1024", "MiB": "1048576"}, "2MB or 512KiB"
)
PER_CENT = Quantity("percentage", {"": "1", "%": "1"}, "75 or 75%", at_most=100)
SECONDS = Quantity("time", {"": "1", "s": "1", "min": "60"}, "60, 60s or 2min")


@contextlib.contextmanager
def progress_bar(*columns: str | ProgressColumn, wanted: bool = True) -> Iterator[Callable[[str, float], None]]:
    """A function to call with what is being done and the share that is done, 0 to 1; idle where nobody watches.

    Args:
        columns: what the bar shows; none are rich's own.
    """
    if not wanted or not sys.stderr.isatty():
        yield lambda _what, _share: None
        return

    from rich.console import Console
    from rich.progress import Progress

    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda what, share: progress.update(task, description=what, completed=share)


INTERRUPTED = 130


def run_through(
    stream: Iterable[Any], take: Callable[[Any], str | None], done: str, *, wanted: bool = True, hint: str = ""
) -> int:
    """Give each result to `take`, which returns its error if it has one; report these, and return the exit status.

    Args:
        done: what the others were, as the messages call it.
        wanted: whether a bar shows how many there were.
        hint: what to do after an interruption.
    """
    failures: list[str] = []
    count, status = 0, 0
    try:
        with progress_bar("{task.description}", wanted=wanted) as progress:
            for result in stream:
                count += 1
                if error := take(result):
                    failures.append(error)
                progress(f"{count:,} photos", 0)
    except KeyboardInterrupt:
        click.echo(f"interrupted: {count} photos were looked at{hint}", err=True)
        status = INTERRUPTED
    for failure in failures:
        click.echo(printable(f"not {done}: {failure}"), err=True)
    if failures:
        click.echo(f"{len(failures)} of {count} could not be {done}", err=True)
    return status or (1 if failures else 0)


def finish_journal(stream: Iterable[Any], take: Callable[[Any], None], journal: Journal, done: str) -> int:
    """Give each result to `take`, which writes it to the journal, and make the file; return the exit status.

    All errors are printed, also those of the run that this one continues.
    """
    hint = "; continue with --resume"
    status = run_through(stream, take, done, hint=hint)
    if status != INTERRUPTED:
        status = run_through(journal.rows(), lambda row: row.get("error"), done, hint=hint)
    if status != INTERRUPTED:
        journal.finish()
    return status


class DrawnFile(click.Path):
    """A file of that suffix, ``.svg`` or ``.html``, in a folder that exists, as a path."""

    def __init__(self, suffix: str) -> None:
        super().__init__(path_type=Path, dir_okay=False)
        self._suffix = suffix

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix.lower() != self._suffix:
            kind = self._suffix[1:].upper()
            self.fail(f"{str(path)!r} is not the name of an {kind} file; it must end in {self._suffix}", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"{path.parent} is not a folder; create it first", param, ctx)
        if not find_spec("matplotlib"):
            self.fail("matplotlib, which draws it, is not installed: pip install 'effnets[train]'", param, ctx)
        return path


def _check_address(_context: click.Context, _parameter: click.Parameter, address: str | None) -> str | None:
    if address is not None:
        from effnets.bulk.cluster import check_address

        check_address(address)
    return address


def _read_names(_context: click.Context, _parameter: click.Parameter, file: str | None) -> tuple[str, ...] | None:
    if file is None:
        return None
    from effnets.data.splits import read_names

    return read_names(Path(file))


ema_option = click.option(
    "--ema", is_flag=True, help="Of a training program's checkpoint take the averaged weights instead of the last ones."
)
workers_option = click.option(
    "--workers", type=click.IntRange(1), help="Threads that decode and infer [default: one for each core, up to 16]."
)
image_size_option = click.option(
    "--image-size", type=click.IntRange(1, 8192), help="Side of the input in pixels [default: the weights']."
)
batch_size_option = click.option(
    "--batch-size", type=click.IntRange(1), help="Photos at a time in each thread [default: by the device]."
)
decode_option = click.option(
    "--decode",
    type=click.Choice(["exact", "fast"]),
    default="exact",
    show_default=True,
    help="Decode JPEGs whole, or at the smallest scale that leaves the resize twice the pixels that it needs.",
)
ray_option = click.option(
    "--ray",
    "ray_address",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    callback=_check_address,
    help="Work on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or without ADDRESS one of this machine's cores; "
    "--workers is then of processes.",
)
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


# Where nobody watches, a line is as long as it needs to be.
_UNBOUNDED = 1000


def make_table(
    columns: Iterable[str], *, right: Sequence[str] = (), whole: Sequence[str] = (), title: str | None = None
) -> Table:
    """A plain table; the columns named in `right` hold numbers, and like those in `whole` are never broken."""
    from rich import box  # here, because `effnets list` needs no rich, whose import takes longer than its work
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title, title_justify="left", title_style="bold"
    )
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, justify=justify, no_wrap=column in (*right, *whole), overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print to standard output, fitted to the terminal if it is one."""
    from rich.console import Console

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
    numbers = ["images", "precision %", "recall %", "F1 %"]
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
