"""``effnets predict``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effnets.errors import ImageError, MissingFileError

if TYPE_CHECKING:
    from effnets.nn.classifier import Classifier
    from effnets.preprocess import Transform
    from effnets.runtime.predictions import Prediction

__all__ = ["command"]


@dataclass(slots=True)
class _Result:
    """What became of one photograph: predictions, or the reason why there are none."""

    path: Path
    predictions: Sequence[Prediction] = ()
    error: str | None = None


@click.command(name="predict")
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PHOTO|FOLDER…")
@click.option("--model", required=True, help="A model of the zoo, or a YAML file of your own.")
@click.option("--weights", type=click.Path(path_type=Path), help="A weights file [default: the published weights].")
@click.option("--topk", type=click.IntRange(1), default=5, show_default=True, help="Predictions for each photo.")
@click.option("--image-size", type=click.IntRange(1, 8192), help="Side of the input in pixels [default: the weights'].")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Photos at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    photos: tuple[Path, ...],
    model: str,
    weights: Path | None,
    topk: int,
    image_size: int | None,
    batch_size: int,
    as_json: bool,
) -> None:
    """Name what each PHOTO shows, and each photo in a FOLDER and its subfolders.

    A photo that cannot be read is reported, the others are classified all the same, and the exit status is 1.
    """
    results = list(_find_photos(photos))

    # Imported here: torch takes seconds, and neither --help nor a mistyped option should wait for it.
    from effnets.preprocess import create_transform
    from effnets.zoo import create_model

    network = create_model(model, pretrained=weights is None, weights=weights)
    for note in network.load_report.notes if network.load_report else ():
        click.echo(f"{weights}: {note}", err=True)
    transform = create_transform(network, input_size=image_size)
    for batch in _with_progress(results, batch_size):
        _classify(batch, network, transform, topk)

    if as_json:
        click.echo(json.dumps([_as_json(result) for result in results], indent=1, ensure_ascii=False))
    else:
        _print_table([result for result in results if not result.error])
    failures = [result for result in results if result.error]
    for result in failures:
        click.echo(f"not classified: {result.error}", err=True)
    if failures:
        click.echo(f"{len(failures)} of {len(results)} could not be classified", err=True)
        sys.exit(1)


def _find_photos(paths: Iterable[Path]) -> Iterator[_Result]:
    """Every path that is not a folder, and the image files in those that are; what else they hold is mentioned."""
    from PIL import Image

    suffixes = Image.registered_extensions()
    for path in paths:
        if not path.is_dir():
            yield _Result(path)
            continue
        files = sorted(file for file in path.rglob("*") if file.is_file())
        images = [file for file in files if file.suffix.lower() in suffixes]
        if not images:
            yield _Result(path, error=f"{path}: no image file in this folder")
        if others := [file.name for file in files if file not in set(images)]:
            shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
            click.echo(f"{path}: passed over {len(others)} that are no image files by their names: {shown}", err=True)
        yield from map(_Result, images)


def _with_progress(results: Sequence[_Result], batch_size: int) -> Iterator[Sequence[_Result]]:
    """The batches, with a bar on the error stream where there is more than one photo and somebody watches."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=len(results) < 2 or not console.is_terminal) as progress:
        task = progress.add_task("classifying", total=len(results))
        for start in range(0, len(results), batch_size):
            batch = results[start : start + batch_size]
            yield batch
            progress.advance(task, len(batch))


def _classify(batch: Sequence[_Result], network: Classifier, transform: Transform, topk: int) -> None:
    """Fill in predictions or errors."""
    import torch

    from effnets.inference import classify

    readable, inputs = [], []
    for result in batch:
        if result.error:
            continue
        try:
            inputs.append(transform(result.path))
            readable.append(result)
        except (ImageError, MissingFileError) as error:
            result.error = str(error)
    if readable:
        for result, predictions in zip(readable, classify(network, torch.stack(inputs), topk), strict=True):
            result.predictions = predictions


def _as_json(result: _Result) -> dict[str, object]:
    if result.error:
        return {"path": str(result.path), "error": result.error}
    return {"path": str(result.path), "predictions": [asdict(prediction) for prediction in result.predictions]}


def _print_table(results: Sequence[_Result]) -> None:
    if not results:
        return

    from effnets.cli.tables import make_table, print_table

    table = make_table(["photo", "class", "probability"], right=["probability"])
    for result in results:
        for rank, prediction in enumerate(result.predictions):
            photo = str(result.path) if rank == 0 else ""
            table.add_row(photo, prediction.label, f"{100 * prediction.probability:.1f} %")
        table.add_section()
    print_table(table)
