"""``effnets predict``."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from effnets.cli.detect import is_detector, predict_boxes
from effnets.cli.eval import is_exported, is_whole
from effnets.cli.format import (
    INTERRUPTED,
    batch_size_option,
    decode_option,
    ema_option,
    finish_journal,
    image_column_option,
    image_size_option,
    load_network,
    make_table,
    print_table,
    printable,
    progress_bar,
    ray_option,
    run_through,
    workers_option,
)
from effnets.inference.image import PhotoResult, find_photos

if TYPE_CHECKING:
    from effnets.engines.base import Engine
    from effnets.inference.predictor import Decode
    from effnets.nn.classifier import Classifier


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
@click.option(
    "--task", type=click.Choice(["classify", "detect"]), help="What the model was trained for [default: as it says]."
)
@ema_option
@click.option(
    "--topk",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Predictions for each photo; of a model of labels, all that reach their thresholds.",
)
@image_size_option
@batch_size_option
@workers_option
@decode_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--json-lines", is_flag=True, help="Print JSON, one photo a line, as soon as each is classified.")
@click.option(
    "--output",
    metavar="FILE",
    help="Write a .jsonl, .csv or .parquet instead, row by row, for any number of photos; with --ray, a folder. "
    "Of a detector a folder: the photos with the boxes drawn into them.",
)
@click.option(
    "--score-threshold",
    type=click.FloatRange(0, 1),
    help="Of a detector: leave out boxes of lower scores [default: 0.5].",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run with the same --output.")
@ray_option
@image_column_option
def command(
    photos: tuple[str, ...],
    model: str | None,
    weights: str | None,
    task: str | None,
    ema: bool,
    topk: int,
    image_size: int | None,
    batch_size: int | None,
    workers: int | None,
    decode: Decode,
    as_json: bool,
    json_lines: bool,
    output: str | None,
    score_threshold: float | None,
    resume: bool,
    ray_address: str | None,
    image_column: str | None,
) -> None:
    """Name what each PHOTO shows, and each photo in a FOLDER and its subfolders.

    The folder of a detector's training (--model RUN) finds objects instead: their boxes, with names and scores.

    A photo that cannot be read is reported, the others are classified all the same, and the exit status is 1. Without
    --model and --weights a small network that comes along answers, for a first look: it knows CIFAR-10's ten classes.

    With --ray the processes of a cluster share the work, and photos may also be in tar archives and Parquet tables, and
    in stores (s3://, gs://, hf://). The rows are then in a folder of Parquet files, which appears when it is complete.
    """
    if as_json and json_lines:
        raise click.UsageError("--json and --json-lines exclude each other; choose one")
    if task == "detect" or (task is None and (is_detector(model) or is_detector(weights))):
        if model and weights:
            raise click.UsageError(f"a detector is whole: name its folder alone, without --model {model}")
        status = predict_boxes(
            find_all(photos),
            model or weights,
            output,
            0.5 if score_threshold is None else score_threshold,
            batch_size=batch_size,
            workers=workers,
            form="json" if as_json else "lines" if json_lines else "table",
        )
        click.get_current_context().exit(status)
    if score_threshold is not None:
        raise click.UsageError(
            "--score-threshold is of a detector's boxes, and the model is a classifier; leave it out"
        )
    if as_json + json_lines + (output is not None) > 1:
        raise click.UsageError("--json, --json-lines and --output exclude each other; choose one")
    if resume and output is None:
        raise click.UsageError("--resume continues the run of an --output; name that file")
    settings: dict[str, object] = {"model": model, "weights": weights, "ema": ema}
    settings |= {"topk": topk, "image_size": image_size, "decode": decode}
    if ray_address is not None:
        if output is None:
            raise click.UsageError("--ray writes a folder; name it with --output")
        if batch_size is not None:
            raise click.UsageError("--ray takes batches by the device; leave --batch-size out")
        settings["image_column"] = image_column
        status = _predict_on_ray(ray_address, photos, output, settings, resume=resume, workers=workers)
        click.get_current_context().exit(status)
    if image_column is not None:
        raise click.UsageError("--image-column is of tables, which --ray reads; leave it out")
    if output is not None and is_complete(output, resume=resume):
        return
    network = load_model(model, weights, ema, _load_network) or _load_demonstration()

    from effnets.bulk.photos import classify_photos
    from effnets.inference.pipeline import Pipeline
    from effnets.inference.predictor import create_predictor

    predictor = create_predictor(network, image_size, decode=decode)
    pipeline = Pipeline(predictor, batch_size=batch_size, workers=workers)
    if output is not None:
        from effnets.bulk.journal import Journal

        settings |= {"sha256": hash_model(network, weights)} | data_settings(photos)
        with Journal(Path(output), settings, resume=resume) as journal:
            stream = classify_photos(pipeline, journal.pending(find_all(photos)), topk)
            status = finish_journal(stream, lambda photo: journal.write(photo.to_dict()), journal, "classified")
    else:
        several = len(photos) > 1 or os.path.isdir(photos[0])  # noqa: PTH112 (pathlib raises for names too long)
        stream = classify_photos(pipeline, find_all(photos), topk)
        status = _print(stream, wanted=several, as_json=as_json, json_lines=json_lines)
    click.get_current_context().exit(status)


def find_all(paths: Sequence[str]) -> Iterable[PhotoResult]:
    """Find the photos that arguments name; what is passed over is said on the error stream."""
    return find_photos(paths, lambda text: click.echo(printable(text), err=True))


def is_complete(output: str, suffixes: Collection[str] = (), *, resume: bool) -> bool:
    """Return whether there is nothing to resume, and say so; raises ArgumentError if the file cannot be written."""
    from effnets.bulk.journal import Journal
    from effnets.bulk.table import check_target

    check_target(Path(output), suffixes)
    complete = resume and Journal.is_complete(Path(output))
    if complete:
        click.echo(f"{output} is complete; delete it to start over", err=True)
    return complete


def data_settings(photos: Sequence[str]) -> dict[str, object]:
    """Return what tells the photos of a run from those of others: the arguments, and what they are relative to."""
    return {"photos": list(photos), "folder": os.getcwd()}  # noqa: PTH109 (as text)


def hash_model(network: Classifier | Engine, weights: str | None) -> str:
    """Return the SHA-256 of a network's values, or of the exported file `weights`."""
    from effnets.engines.base import Engine
    from effnets.weights.hashing import hash_file

    if isinstance(network, Engine):
        return hash_file(Path(str(weights)))
    from effnets.nn.utils import hash_values

    return hash_values(network)


def _predict_on_ray(
    address: str,
    data: Sequence[str],
    output: str,
    settings: Mapping[str, Any],
    *,
    resume: bool,
    workers: int | None,
) -> int:
    """Write the predictions of a cluster to a folder; return the exit status."""
    from effnets.bulk.distributed import Written, predict_on_ray
    from effnets.bulk.model import pack_model
    from effnets.bulk.parts import PartFolder
    from effnets.bulk.photos import classify_photos
    from effnets.bulk.sources import find_images
    from effnets.bulk.table import prediction_columns
    from effnets.inference.predictor import create_predictor

    folder = PartFolder(output)
    if resume and folder.is_complete():
        click.echo(f"{output} is complete; delete it to start over", err=True)
        return 0
    network = (
        load_model(settings["model"], settings["weights"], settings["ema"], _load_network) or _load_demonstration()
    )
    size, decode, topk = settings["image_size"], settings["decode"], settings["topk"]
    predictor = create_predictor(network, size, decode=decode)
    classes = len(predictor.class_names)
    most = classes if predictor.activation == "sigmoid" else min(topk, classes)
    weights = Path(settings["weights"]) if is_exported(settings["weights"]) else None
    model = pack_model(weights or cast("Classifier", network), image_size=size, decode=decode)
    images = find_images(data, lambda text: click.echo(printable(text), err=True), settings["image_column"])
    total, count = images.count(), 0

    with progress_bar() as progress:

        def report(written: Written) -> None:
            nonlocal count
            count += written.images
            progress(f"{count:,} images", count / total if count < total else 1.0)
            if written.lost:
                click.echo(f"a worker was lost; its {written.images:,} images were given to another", err=True)
            for error in written.errors:
                click.echo(printable(f"not classified: {error}"), err=True)

        try:
            failed = predict_on_ray(
                address,
                model,
                images.chunks(),
                folder,
                compute=partial(classify_photos, topk=topk),
                columns=prediction_columns(most),
                settings={**settings, "sha256": hash_model(network, settings["weights"])},
                resume=resume,
                workers=workers,
                report=report,
            )
        except KeyboardInterrupt:
            click.echo(f"interrupted: {count} images were looked at; continue with --resume", err=True)
            return INTERRUPTED
    if failed:
        click.echo(f"{failed} of {count} could not be classified", err=True)
    return 1 if failed else 0


def _print(stream: Iterable[PhotoResult], *, wanted: bool, as_json: bool, json_lines: bool) -> int:
    """Print each result as it comes, or all of them at the end; return the exit status."""
    results: list[PhotoResult] = []

    def take(result: PhotoResult) -> str | None:
        if json_lines:
            click.echo(json.dumps(result.to_dict()))
        else:
            results.append(result)
        return result.error

    status = run_through(stream, take, "classified", wanted=wanted)
    if as_json:
        # As ASCII, so that a file name of any bytes comes back the same.
        click.echo(json.dumps([result.to_dict() for result in results], indent=1))
    else:
        _print_table([result for result in results if not result.error])
    return status


def load_model(
    model: str | None, weights: str | None, ema: bool, load: Callable[[str, str | None, bool], Classifier]
) -> Classifier | Engine | None:
    """Load what --model, --weights and --ema name, a network by `load`; None if they name nothing."""
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
        return load(model, weights, ema)
    if weights is not None and is_whole(weights):
        return load(weights, None, ema)
    if weights is not None:
        raise click.UsageError(f"--weights {weights}: which network are they of? Add --model (FILE.onnx needs none)")
    return None


def _load_demonstration() -> Classifier:
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


def _print_table(results: Sequence[PhotoResult]) -> None:
    if not results:
        return
    table = make_table(["photo", "class", "probability"], right=["probability"])
    for result in results:
        if not result.predictions:  # of a model of labels, none of which it has
            table.add_row(printable(result.path), "–", "")
        for rank, prediction in enumerate(result.predictions):
            photo = printable(result.path) if rank == 0 else ""
            table.add_row(photo, printable(prediction.label), f"{100 * prediction.probability:.1f} %")
        table.add_section()
    print_table(table)
