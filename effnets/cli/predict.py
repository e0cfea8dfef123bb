"""``effnets predict``."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from effnets.cli.eval import is_exported, is_whole
from effnets.cli.format import ema_option, load_network, make_table, print_table, printable, progress_bar
from effnets.inference.image import PhotoResult, find_photos

if TYPE_CHECKING:
    from effnets.engines.base import Engine
    from effnets.inference.predictor import Predictor
    from effnets.nn.classifier import Classifier


_BATCH = 16
_BATCH_PIXELS = 1 << 22  # of inputs at a time, where the user names no batch size
_INTERRUPTED = 130
DEMONSTRATION = "mixnet_xs_32px.cifar10"  # with its weights in the package


@click.command(name="predict")
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO|FOLDER…")
@click.option(
    "--model",
    help="A model of the zoo, or a YAML file of your own; an exported model needs none "
    "[default: a demonstration network of ten classes].",
)
@click.option(
    "--weights",
    help="A weights file, a tag, an exported model, or a folder of a training [default: the published weights].",
)
@ema_option
@click.option("--topk", type=click.IntRange(1), default=5, show_default=True, help="Predictions for each photo.")
@click.option("--image-size", type=click.IntRange(1, 8192), help="Side of the input in pixels [default: the weights'].")
@click.option("--batch-size", type=click.IntRange(1), help=f"Photos at a time [default: {_BATCH}, fewer large ones].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    photos: tuple[str, ...],
    model: str | None,
    weights: str | None,
    ema: bool,
    topk: int,
    image_size: int | None,
    batch_size: int | None,
    as_json: bool,
) -> None:
    """Name what each PHOTO shows, and each photo in a FOLDER and its subfolders.

    A photo that cannot be read is reported, the others are classified all the same, and the exit status is 1. Without
    --model and --weights a small network that comes along answers, for a first look: it knows CIFAR-10's ten classes.
    """
    results = list(find_photos(photos, lambda text: click.echo(printable(text), err=True)))
    network = _load(model, weights, ema)

    from effnets.inference.predictor import create_predictor

    predictor = create_predictor(network, image_size)
    if batch_size is None:
        batch_size = max(1, min(_BATCH, _BATCH_PIXELS // (image_size or _input_size(network)) ** 2))
    status = 0
    try:
        _classify(results, predictor, topk, batch_size)
    except KeyboardInterrupt:
        results = [result for result in results if result.predictions or result.error]
        click.echo(f"interrupted: {len(results)} photos were looked at", err=True)
        status = _INTERRUPTED

    if as_json:
        # As ASCII, so that a file name of any bytes comes back the same.
        click.echo(json.dumps([result.to_dict() for result in results], indent=1))
    else:
        _print_table([result for result in results if not result.error])
    failures = [result for result in results if result.error]
    for result in failures:
        click.echo(printable(f"not classified: {result.error}"), err=True)
    if failures:
        click.echo(f"{len(failures)} of {len(results)} could not be classified", err=True)
    click.get_current_context().exit(status or (1 if failures else 0))


def _load(model: str | None, weights: str | None, ema: bool) -> Classifier | Engine:
    if is_exported(model):
        raise click.UsageError(f"--model {model}: an exported model goes to --weights, and needs no --model")
    if ema and (weights is None or is_exported(weights)):
        raise click.UsageError("--ema chooses among the weights in a file; give one by --weights")
    # Imported here and below: torch takes seconds, and neither --help nor a mistyped option should wait for it.
    if weights is not None and is_exported(weights):
        if model is not None:
            raise click.UsageError(f"{weights} is a whole model; leave --model out")
        from effnets.engines.base import load_file

        return load_file(weights)
    if model is not None:
        return _load_network(model, weights, ema)
    if weights is not None and is_whole(weights):
        return _load_network(weights, None, ema)
    if weights is not None:
        raise click.UsageError(f"--weights {weights}: which network are they of? Add --model (FILE.onnx needs none)")
    network = load_network(DEMONSTRATION, None)
    names = network.class_names or ()
    notice = (
        f"No model is named, so the demonstration network answers, {DEMONSTRATION}. It was trained on CIFAR-10's "
        f"images of {network.spec.input_size} pixels and knows only {len(names)} classes: {', '.join(names)}. "
        "For ImageNet's 1,000 name a model: --model mobilenetv2_100, for example."
    )
    click.echo(textwrap.fill(notice, width=100), err=True)
    return network


def _load_network(model: str, weights: str | None, ema: bool) -> Classifier:
    network = load_network(model, weights, answers="predictions", ema=ema)
    if report := network.load_report:
        for note in report.notes:
            click.echo(printable(f"{weights or report.source}: {note}"), err=True)
    return network


def _input_size(network: Classifier | Engine) -> int:
    from effnets.engines.base import Engine

    return max(network.description.image_size) if isinstance(network, Engine) else network.spec.input_size


def _classify(results: Sequence[PhotoResult], predictor: Predictor, topk: int, batch_size: int) -> None:
    """Fill in predictions or errors, with a progress bar for more than one photo."""
    readable = [result for result in results if not result.error]
    paths = (result.path for result in readable)
    with progress_bar(wanted=len(results) > 1) as progress:
        stream = predictor.stream(paths, topk, batch_size, on_error="skip")
        for done, (result, found) in enumerate(zip(readable, stream, strict=True), start=1):
            if isinstance(found, str):
                result.error = found
            else:
                result.predictions = found
            progress("classifying", done / len(readable))


def _print_table(results: Sequence[PhotoResult]) -> None:
    if not results:
        return
    table = make_table(["photo", "class", "probability"], right=["probability"])
    for result in results:
        for rank, prediction in enumerate(result.predictions):
            photo = printable(result.path) if rank == 0 else ""
            table.add_row(photo, printable(prediction.label), f"{100 * prediction.probability:.1f} %")
        table.add_section()
    print_table(table)
