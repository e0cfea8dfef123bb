"""What ``effnets predict`` and ``effnets eval`` do with a detector."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

import click

from effnets.cli.format import (
    make_table,
    print_table,
    printable,
    progress_bar,
    refuse_options,
    run_through,
    title_of,
)

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn

    from effnets.detection.evaluate import DetectionEvaluation
    from effnets.detection.predict import DetectedPhoto
    from effnets.inference.image import PhotoResult

Form = Literal["table", "json", "lines"]

# What these commands' other options are to a detector.
_PREDICT = ("photos", "model", "weights", "task", "output", "score_threshold", "batch_size", "workers")
_EVAL = ("data", "data_of_run", "model", "weights", "strict", "batch_size", "json_file", "report", "per_class")
_BATCH = 8


def is_detector(name: str | None) -> bool:
    """Return whether it is the folder of a detector."""
    config = Path(name or "", "config.json")
    try:
        content = json.loads(config.read_bytes()) if name and config.is_file() else None
    except (OSError, ValueError):  # loading it says what is wrong
        return False
    return isinstance(content, dict) and "detector" in content


def predict_boxes(
    photos: Iterable[PhotoResult],
    folder: str | None,
    output: str | None,
    score_threshold: float,
    *,
    batch_size: int | None,
    workers: int | None,
    form: Form,
) -> int:
    """Find objects in photos, and print or draw them; return the exit status.

    Args:
        photos: as of `effnets.inference.image.find_photos`.
        folder: of the detector.
        output: the folder for the photos with boxes, if wanted.
        score_threshold, batch_size, workers: as of `effnets.detection.predict.detect_photos`.
        form: of what is printed.
    """
    refuse_options({*_PREDICT, "as_json", "json_lines"}, "a detector")
    if folder is None:
        raise click.UsageError("--task detect needs a detector: name the folder of its training, --model RUN")
    listed = list(photos)
    target = None if output is None else _check_output(Path(output), listed)
    model = _load(folder)
    from effnets.detection.predict import detect_photos

    results: list[DetectedPhoto] = []
    names: set[str] = set()

    def draw(photo: DetectedPhoto, image: Image.Image) -> None:
        if target is not None:
            _draw(target / _new_name(photo.path, names), photo, image)

    def take(photo: DetectedPhoto) -> str | None:
        if form == "lines":
            click.echo(json.dumps(photo.to_dict()))
        else:
            results.append(photo)
        return photo.error

    stream = detect_photos(model, listed, score_threshold, batch_size=batch_size or _BATCH, workers=workers, use=draw)
    status = run_through(stream, take, "examined", wanted=len(listed) > 1)
    if form == "json":
        click.echo(json.dumps([photo.to_dict() for photo in results], indent=1))
    elif form == "table":
        _print_boxes([photo for photo in results if not photo.error])
    if target is not None:
        click.echo(f"{len(names)} photos with boxes: {target}", err=True)
    return status


def evaluate_boxes(
    folders: Sequence[str],
    data: str,
    *,
    strict: bool,
    batch_size: int | None,
    report: str | None,
    quiet: bool,
) -> list[dict[str, Any]]:
    """Measure detectors, print their figures unless `quiet`, and return them as plain values.

    Args:
        folders: of the detectors.
        data: as of `effnets.detection.annotations.open_boxes`.
        strict: raise an error for a bad box.
        batch_size: images at a time.
        report: the folder for a page about the first of them, if wanted.
    """
    refuse_options(set(_EVAL), "a detector")
    if others := [folder for folder in folders if not is_detector(folder)]:
        raise click.UsageError(f"{others[0]} is not the folder of a detector, as {folders[0]} is; measure it by itself")
    from effnets.detection.annotations import open_evaluation_boxes
    from effnets.detection.evaluate import evaluate_detector
    from effnets.detection.report import DetectionSummary, write_detection_report

    with progress_bar() as progress:
        opened = open_evaluation_boxes(data, strict=strict, progress=progress)
        found: list[DetectionEvaluation] = []
        for folder in folders:
            watch = partial(progress, folder)
            model = _load(folder)
            found.append(evaluate_detector(model, opened.source, batch_size=batch_size or _BATCH, progress=watch))
    if not quiet:
        images = {"all": "images"}.get(opened.split, f"{opened.split} images")
        count = len(opened.source.table.labels)
        click.echo(f"{printable(data)}: {found[0].count:,} {images} with {count:,} boxes\n")
        if len(found) == 1:
            _print_classes(found[0])
            click.echo()
        _print_means(folders, found)
    for note in (*opened.notes, *(f"left out: {reason}" for reason in found[0].broken)):
        click.echo(printable(note), err=True)
    if report is not None:
        summary = DetectionSummary(
            title=title_of(data),
            command=shlex.join(["effnets", *sys.argv[1:]]),
            model=Path(folders[0]).name,
            evaluation=found[0],
            split=opened.split,
            notes=opened.notes,
        )
        click.echo(f"report: {write_detection_report(report, summary)}", err=True)
    return [
        {"weights": folder, "data": data, "split": opened.split, **one.to_dict()}
        for folder, one in zip(folders, found, strict=True)
    ]


def _load(folder: str) -> nn.Module:
    from effnets.detection.folder import load_detector

    return load_detector(folder)


def _check_output(folder: Path, photos: Sequence[PhotoResult]) -> Path:
    """Return the folder to draw into, which is made."""
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"--output {folder} is a file; name a folder for the photos with boxes")
    target = folder.resolve()
    inside = next((photo.path for photo in photos if target in Path(os.path.realpath(photo.path)).parents), None)
    if inside is not None:
        raise click.UsageError(f"--output {folder} holds the photo {inside}, which might be replaced; name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"--output {folder}: cannot be made ({error.strerror or error})") from None
    return folder


def _new_name(path: str, names: set[str]) -> str:
    """Return a file name for a drawn photo, of several alike with a number; add it to `names`."""
    stem = PurePath(path).stem
    name, number = f"{stem}.jpg", 2
    while name in names:
        name, number = f"{stem}-{number}.jpg", number + 1
    names.add(name)
    return name


def _draw(target: Path, photo: DetectedPhoto, image: Image.Image) -> None:
    from effnets.detection.draw import draw_boxes
    from effnets.utils.atomic_file import new_file

    try:
        with new_file(target) as beside:
            draw_boxes(image, photo.boxes).save(beside, "JPEG", quality=92)
    except OSError as error:
        raise click.ClickException(
            f"{target}: cannot be written ({error.strerror or error}); name another folder"
        ) from error


def _print_boxes(photos: Sequence[DetectedPhoto]) -> None:
    if not photos:
        return
    numbers = ["score", "left", "top", "right", "bottom"]
    table = make_table(["photo", "class", *numbers], right=numbers)
    for photo in photos:
        path = printable(photo.path)
        if not photo.boxes:
            table.add_row(path, "–")
        for place, box in enumerate(photo.boxes):
            edges = (f"{edge:.0f}" for edge in (box.x1, box.y1, box.x2, box.y2))
            table.add_row("" if place else path, printable(box.label), f"{100 * box.score:.1f} %", *edges)
        table.add_section()
    print_table(table)


def _print_classes(found: DetectionEvaluation) -> None:
    numbers = ["boxes", "AP %", "AP@.5 %", "AP@.75 %", "recall %"]
    table = make_table(["class", *numbers], right=numbers)
    for one in found.result.classes:
        table.add_row(printable(one.name), str(one.boxes), *map(_shown, (one.ap, one.ap50, one.ap75, one.recall)))
    print_table(table)


def _print_means(folders: Sequence[str], found: Sequence[DetectionEvaluation]) -> None:
    numbers = ["mAP %", "mAP@.5 %", "mAP@.75 %", "recall %", "small %", "medium %", "large %", "network/s"]
    table = make_table(["weights", *numbers], right=numbers, whole=["weights"])
    for folder, one in zip(folders, found, strict=True):
        result = one.result
        means = (result.mean_ap, result.mean_ap50, result.mean_ap75, result.recall)
        sizes = (result.small, result.medium, result.large)
        name = printable(Path(folder).name or folder)
        table.add_row(name, *map(_shown, (*means, *sizes)), f"{one.network_speed:,.1f}")
    print_table(table)


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"
