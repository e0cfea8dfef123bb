"""``effnets demo``."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effnets.cli.demo_steps import (
    MODEL,
    PLAIN,
    SETTINGS,
    Answer,
    classify,
    compare_engines,
    extract_images,
    make_folder,
    missing,
    writing,
)
from effnets.cli.eval import load_demonstration
from effnets.cli.format import printable, progress_bar, short
from effnets.cli.training import ProgressBarCallback
from effnets.errors import TrainingInterruptedError

if TYPE_CHECKING:
    from effnets.deploy.export.onnx import ExportReport
    from effnets.nn.classifier import Classifier
    from effnets.train.run import TrainedModel


_INTERRUPTED = 130
_DATA = "drawn-objects"  # what the report is called


@click.command(name="demo")
@click.argument("photos", nargs=-1, metavar="[PHOTO|FOLDER…]")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default="effnets-demo",
    show_default=True,
    help="Folder for what is made; where that holds something, a number is added.",
)
def command(photos: tuple[str, ...], output: Path) -> None:
    """See it work, offline, in under a minute: classify, fine-tune, export, compare engines, report.

    It classifies drawings that come with the package; PHOTO, or those in FOLDER, instead, if given. Each step shows the
    command to type to do it yourself.
    """
    begin = time.monotonic()
    folder = make_folder(output)
    if folder != output:
        click.echo(printable(f"{output} is there already, so this goes into {folder}."))
    status = 0
    try:
        network = _load()
        answers = _classify(network, folder, photos)
        trained = _finetune(folder)
        network = trained.load() if trained else network
        exported = _export(network, folder, trained)
        _compare(network, exported)
        _conclude(folder, trained, exported, time.monotonic() - begin)
        status = 1 if any(answer.error for answer in answers) else 0
    except (KeyboardInterrupt, TrainingInterruptedError) as interruption:
        click.echo(printable(f"interrupted: what was made so far is in {folder}"), err=True)
        status = 128 + interruption.signal if isinstance(interruption, TrainingInterruptedError) else _INTERRUPTED
    click.get_current_context().exit(status)


def _load() -> Classifier:
    # Imported here and below: torch takes seconds, and --help should not wait for it.
    with progress_bar() as progress:
        if progress:
            progress("loading torch", 0.0)
        from effnets.spec.cost import count

        network = load_demonstration().eval()
    names = network.class_names or ()
    _heading("1. Classify, with the network in this package")
    click.echo(
        f"{MODEL} has {short(count(MODEL).params)} parameters and learned from the 32-pixel images of CIFAR-10.\n"
        f"It knows {', '.join(names)},\nand answers with one of these whatever it is shown."
    )
    return network


def _classify(network: Classifier, folder: Path, photos: tuple[str, ...]) -> list[Answer]:
    from effnets.cli.format import make_table, print_table

    answers = []
    with progress_bar() as progress:
        images = list(_images(folder, photos))
        for number, (path, meant, error) in enumerate(images):
            if progress:
                progress("classifying", number / len(images))
            answers.append(error or classify(network, path, meant))
    columns = ["image", *([] if photos else ["meant"]), "answer", "probability"]
    table = make_table(columns, right=["probability"])
    for answer in answers:
        if answer.prediction is not None:
            said = [answer.prediction.label, f"{100 * answer.prediction.probability:.1f} %"]
            table.add_row(printable(answer.path), *([] if answer.meant is None else [answer.meant]), *said)
    if table.row_count:
        click.echo()
        print_table(table)
        click.echo()
    for answer in answers:
        if answer.error:
            click.echo(printable(f"not classified: {answer.error}"), err=True)
    if not photos:
        right = sum(answer.right for answer in answers)
        click.echo(f"{right} of these {len(answers)} drawings are named as they were meant.")
    _typed("predict", *(photos or (str(folder / "drawings"),)))
    return answers


def _images(folder: Path, photos: tuple[str, ...]) -> Iterator[tuple[str, str | None, Answer | None]]:
    """Yield path and class for each image, or an answer with the error if it was not found."""
    from effnets.inference.image import find_photos

    if not photos:
        with writing(folder):
            images = extract_images(folder, "drawings")
        yield from ((str(path), path.stem, None) for path in images)
        return
    for result in find_photos(photos, lambda text: click.echo(printable(text), err=True)):
        yield result.path, None, Answer(path=result.path, error=result.error) if result.error else None


def _finetune(folder: Path) -> TrainedModel | None:
    _heading("2. Fine-tune it, for classes that it has never seen")
    if not _installed("train", "fine-tune, and report on it"):
        return None
    options = [part for key, value in SETTINGS.items() for part in (f"--{key}", str(value))]
    words = ["finetune", str(folder / _DATA), *options, "--output"]
    with progress_bar() as progress, writing(folder):
        callback = ProgressBarCallback(progress)
        extract_images(folder, _DATA)
        callback.on_progress("loading what trains", 0.0)
        from effnets.train.recipe import find_recipe, read_recipe
        from effnets.train.run import finetune

        recipe = read_recipe(find_recipe("finetune"), SETTINGS)
        command = _line(*words, str(folder / "run"))
        trained = finetune(recipe, folder / _DATA, folder / "run", callbacks=[callback], command=command)
    images, classes = trained.metrics["images"], trained.metrics["classes"]
    click.echo(
        f"There are {sum(images.values())} images of {', '.join(classes)}, no two alike, and a new last layer learned "
        f"from {images['train']} of them.\n"
        f"It names {trained.best_top1:.1f} % of {images['val']} others right (validation), and "
        f"{trained.test_top1:.1f} % of {images['test']} that chose nothing (test)."
    )
    _typed(*words, str(folder / "run-2"))  # a finished training is not repeated
    return trained


def _export(network: Classifier, folder: Path, trained: TrainedModel | None) -> ExportReport | None:
    _heading("3. Export it: one file to ship")
    if not _installed("export", "export to ONNX, and compare its engines"):
        return None
    with progress_bar() as progress:
        if progress:
            progress("exporting, and verifying", 0.0)
        from effnets.deploy.export.onnx import export_onnx

        report = export_onnx(network, folder / "model.onnx")
    errors = ", ".join(f"{error:.0e} on {engine}" for engine, error in report.errors.items())
    click.echo(
        printable(f"{report.path} ({report.size / 1e6:.1f} MB) holds weights, class names and preprocessing.") + "\n"
        "Before it was written it was compared: every operation with torch's, and the logits of batches of 1 and 3\n"
        f"with the network's in float64. As a share of the largest logit, the largest difference is {errors}."
    )
    _typed("export", str(trained.folder) if trained else MODEL, str(report.path))
    return report


def _compare(network: Classifier, exported: ExportReport | None) -> None:
    from effnets.cli.format import make_table, print_table

    _heading("4. Compare engines, on this machine")
    with progress_bar() as progress:
        found = compare_engines(network, exported.path if exported else None, progress=progress)
    columns = [column for batch in found[PLAIN] for column in (f"ms/image by {batch}", "×")]
    table = make_table(["engine", *columns], right=columns, whole=["engine"])
    for engine, milliseconds in found.items():
        cells = []
        for batch, value in milliseconds.items():
            cells += [f"{value:.2f}", f"{found[PLAIN][batch] / value:.2f}"]
        table.add_row(engine, *cells)
    print_table(table)
    click.echo("\nMedians, measured in turns; × is times as fast as the first line. For longer, and against timm:")
    _typed("bench", MODEL)


def _conclude(folder: Path, trained: TrainedModel | None, exported: ExportReport | None, seconds: float) -> None:
    _heading(f"Done, after {seconds:.0f} s")
    if trained:
        click.echo(printable(f"The report, for a browser: {(trained.folder / 'report.html').resolve().as_uri()}"))
    click.echo(printable(f"All that was made is in {folder}. Next:"))
    if exported:
        _typed("predict", "PHOTO.jpg", "--weights", str(exported.path), note="without torch")
    _typed("list", "--pretrained", note="networks that know ImageNet's 1,000 classes")
    _typed("finetune", "PHOTOS", "--model", "mixnet_m", "--output", "RUN", note="your classes: a folder for each")


def _installed(extra: str, purpose: str) -> bool:
    if packages := missing(extra):
        verb = "is" if len(packages) == 1 else "are"
        click.echo(f"{', '.join(packages)} {verb} not installed. To {purpose}: pip install 'effnets[{extra}]'")
    return not packages


def _heading(text: str) -> None:
    click.echo("\n" + click.style(text, bold=True))


def _typed(*words: str, note: str = "") -> None:
    """Print a command that does the same, or more."""
    click.echo(click.style(printable(f"  $ {_line(*words)}"), fg="cyan") + (f"   # {note}" if note else ""))


def _line(*words: str) -> str:
    # In a checkout nothing is on the path: what began with uv run continues with it.
    program = ["uv", "run", "effnets"] if "UV_RUN_RECURSION_DEPTH" in os.environ else ["effnets"]
    return shlex.join([*program, *words])
