"""``effnets demo``."""

from __future__ import annotations

import itertools
import os
import shlex
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effnets.cli.format import load_network, make_table, print_table, printable, progress_bar, short
from effnets.cli.predict import DEMONSTRATION
from effnets.errors import ArgumentError, EffnetsError, ImageError, MissingFileError, TrainingInterruptedError
from effnets.train.callbacks import ProgressCallback

if TYPE_CHECKING:
    from effnets.deploy.export.base import ExportReport
    from effnets.inference.labels import Prediction
    from effnets.nn.classifier import Classifier
    from effnets.train.run import TrainedModel

MODEL = "mixnet_xs_32px"
# Beside the recipe's defaults: so few images are not worth loader processes.
SETTINGS: Mapping[str, str | int] = {"model": MODEL, "freeze": "backbone", "epochs": 20, "workers": 0}
PLAIN = "PyTorch, as built"

_EXTRAS: Mapping[str, Sequence[str]] = {
    "train": ("accelerate", "matplotlib", "timm", "torchvision"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
}
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
@click.option("--web", is_flag=True, help="Serve a web page that classifies photos in the browser, until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), help="For --web: of 127.0.0.1 [default: 8000]; 0: any free one.")
@click.option("--ort", metavar="DIST", help="For --web: folder dist of onnxruntime-web [default: find or fetch].")
def command(photos: tuple[str, ...], output: Path, web: bool, port: int | None, ort: str | None) -> None:
    """See it work, offline, in under a minute: classify, fine-tune, export, compare engines, report.

    It classifies drawings that come with the package; PHOTO, or those in FOLDER, instead, if given. Each step shows the
    command to type to do it yourself.
    """
    if not web and (port is not None or ort is not None):
        raise click.UsageError("--port and --ort are for the web page of --web; add --web, or leave them out")
    if web:
        if photos:
            raise click.UsageError("--web takes photos in the browser; leave PHOTO out")
        _serve_web(output / "web", 8000 if port is None else port, ort)
        return
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


def _serve_web(folder: Path, port: int, ort: str | None) -> None:
    if not _installed("export", "export to ONNX"):
        click.get_current_context().exit(1)
    from effnets.utils.shutdown import exit_on_sigterm
    from effnets.utils.static_server import StaticServer

    with StaticServer(folder, port) as server:  # a port in use is reported before the work
        with exit_on_sigterm(), writing(folder), progress_bar() as progress:
            progress("exporting, and verifying", 0.0)
            from effnets.deploy.export.web import check_folder, export_web, find_ort

            folder.parent.mkdir(parents=True, exist_ok=True)
            check_folder(folder)
            find_ort(ort)
            report = export_web(load_network(DEMONSTRATION, None), folder, ort=ort)
        click.echo(printable(str(report)))
        click.echo(f"Open {server.url} in a browser; Ctrl-C stops it.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("stopped")


def _load() -> Classifier:
    # Imported here and below: torch takes seconds, and --help should not wait for it.
    with progress_bar() as progress:
        progress("loading torch", 0.0)
        from effnets.spec.cost import count

        network = load_network(DEMONSTRATION, None).eval()
    names = network.class_names or ()
    _heading("1. Classify, with the network in this package")
    click.echo(
        f"{MODEL} has {short(count(MODEL).params)} parameters and learned from the 32-pixel images of CIFAR-10.\n"
        f"It knows {', '.join(names)},\nand answers with one of these whatever it is shown."
    )
    return network


def _classify(network: Classifier, folder: Path, photos: tuple[str, ...]) -> list[Answer]:
    answers = []
    with progress_bar() as progress:
        images = list(_images(folder, photos))
        for number, (path, meant, error) in enumerate(images):
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
        callback = ProgressCallback(progress)
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


def missing(extra: str) -> list[str]:
    """Return the packages of an extra, ``train`` or ``export``, that are not installed."""
    return [package for package in _EXTRAS[extra] if not find_spec(package)]


def make_folder(wanted: Path) -> Path:
    """Make a new folder: `wanted`, or, where that holds something, the same name with a number.

    Raises:
        ArgumentError: if it cannot be made or written, is a file, or is ``.`` or ``..`` and not empty.
    """
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with writing(folder):
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if not folder.is_dir():
                    raise ArgumentError(f"{folder}: is a file; name a folder, --output DIR") from None
                if any(folder.iterdir()):
                    if wanted.name in ("", ".."):
                        raise ArgumentError(f"{folder}: holds something already; name a folder, --output DIR") from None
                    continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        raise ArgumentError(f"{folder}: cannot be written (Permission denied); name another folder, --output DIR")
    raise AssertionError("numbers do not end")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an OSError while writing to `folder` into an ArgumentError that names the folder."""
    try:
        yield
    except EffnetsError:  # some are OSErrors too, and say what they mean
        raise
    except OSError as error:
        raise ArgumentError(
            f"{folder}: cannot be written ({error.strerror or error}); name another folder, --output DIR"
        ) from None


def extract_images(folder: Path, part: str) -> list[Path]:
    """Write a part of the packaged images into `folder`, and return its files.

    Args:
        part: ``drawings``: one image of each of eight classes that the network knows, named by its class; or
            ``drawn-objects``: train/, val/ and test/ with four classes that it does not know.
    """
    with files("effnets").joinpath("assets", "demo_images.zip").open("rb") as file, zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.startswith(f"{part}/")]
        archive.extractall(folder, names)
    return [folder / name for name in names]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The network's answer for one image.

    Attributes:
        path: of the image. meant: the class that was drawn; None for a user's image.
        prediction: the most likely class; None if the image could not be read, and `error` says why.
    """

    path: str
    meant: str | None = None
    prediction: Prediction | None = None
    error: str | None = None

    @property
    def right(self) -> bool:
        """Whether the answer is the class that was meant."""
        return self.prediction is not None and self.prediction.label == self.meant


def classify(network: Classifier, path: str, meant: str | None = None) -> Answer:
    """Classify one image; an image that cannot be read gives an answer with its error."""
    from effnets.inference.predictor import predict

    try:
        return Answer(path=path, meant=meant, prediction=predict(network, path, topk=1)[0][0])
    except (ImageError, MissingFileError) as error:
        return Answer(path=path, meant=meant, error=str(error))


def compare_engines(
    network: Classifier,
    exported: Path | None,
    *,
    batches: Sequence[int] = (1, 16),
    rounds: int = 9,
    seconds: float = 3.0,
    progress: Callable[[str, float], object] | None = None,
) -> dict[str, dict[int, float]]:
    """Time a network as it is, rewritten by `effnets.optimize`, and its exported file on the engines that read it.

    All take turns, and all use every core.

    Args:
        network: in evaluation mode. exported: its ONNX file; or None.
        batches: images at a time. rounds: samples of each engine at each. seconds: no round begins after this time.
        progress: called with a description and the fraction done, 0 to 1.

    Returns:
        Median milliseconds per image, by engine and number of images at a time.
    """
    import numpy as np
    import torch

    from effnets.deploy.engine import load_engine
    from effnets.engines.base import available_engines
    from effnets.utils.machine import describe_machine
    from effnets.utils.timing import interleave

    threads, before = describe_machine().cores, torch.get_num_threads()
    torch.set_num_threads(threads)
    found: dict[str, dict[int, float]] = {}
    try:
        calls = {
            PLAIN: torch.inference_mode()(lambda images: network(torch.from_numpy(images))),
            "PyTorch, effnets.optimize": load_engine(network, "torch", threads=threads),
        }
        for engine, title in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")):
            if exported is not None and engine in available_engines():
                calls[title] = load_engine(exported, engine, threads=threads)
        side = network.spec.input_size
        for turn, batch in enumerate(batches):

            def report(done: float, turn: int = turn, batch: int = batch) -> None:
                if progress is not None:
                    progress(f"measuring, {batch} at a time", (turn + done) / len(batches))

            images = np.random.default_rng(0).standard_normal((batch, network.in_chans, side, side), np.float32)
            timed = {name: (lambda call=call, images=images: call(images)) for name, call in calls.items()}
            for name, timing in interleave(timed, rounds=rounds, seconds=seconds, progress=report).items():
                found.setdefault(name, {})[batch] = timing.median / batch
    finally:
        torch.set_num_threads(before)
    return found
