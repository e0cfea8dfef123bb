"""``effnets export``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from effnets.cli.detect import is_detector
from effnets.cli.format import ema_option, load_network, printable, progress_bar
from effnets.engines.base import EXPORTED
from effnets.utils.shutdown import exit_on_sigterm

if TYPE_CHECKING:
    from effnets.deploy.optimize.rewrites import Rewrites
    from effnets.deploy.tune import TuneReport
    from effnets.nn.classifier import Classifier


@click.command(name="export")
@click.argument("model")
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT")
@click.option("--weights", help="A weights file, or a tag [default: the published weights].")
@ema_option
@click.option("--image-size", type=click.IntRange(1, 8192), help="Side of the input in pixels [default: the weights'].")
@click.option("--dynamic-size", is_flag=True, help="Take images of any size.")
@click.option("--preprocess", is_flag=True, help="Take uint8 photos, and resize, crop and normalize in the graph.")
@click.option("--topk", type=click.IntRange(1), help="Give the K likeliest classes as well, with probabilities.")
@click.option("--output", "further", type=click.Choice(["embedding"]), help="Give the classifier's input as well.")
@click.option("--int8", is_flag=True, help="Compute in int8, if the answers stay the same; needs --calibration.")
@click.option("--calibration", metavar="FOLDER", help="Photos for --int8; by class in subfolders, accuracy counts too.")
@click.option("--smaller", is_flag=True, help="Write --int8 even where it is slower than float, for its size.")
@click.option("--seed", type=click.IntRange(0), help="Which photos calibrate --int8 and which check it [default: 0].")
@click.option("--engine", type=click.Choice(["onnxruntime", "openvino"]), help="Make it fastest there, and prefer it.")
@click.option("--no-optimize", is_flag=True, help="Leave the network as it is, instead of rewriting it faster.")
@click.option("--tune", "tuned", is_flag=True, help="Choose rewrites and engine by measuring, and keep the report.")
@click.option("--batch", type=click.IntRange(1), help="Images at a time that --tune measures with [default: 1].")
@click.option("--budget", type=click.FloatRange(0, min_open=True), help="Seconds that --tune takes [default: 120].")
@click.option("--web", is_flag=True, help="Write a folder with a web page that classifies photos in the browser.")
@click.option(
    "--nms/--no-nms", default=None, help="Of a detector: suppress overlapping boxes in the file [default: do]."
)
@click.option("--ort", metavar="DIST", help="For --web: folder dist of onnxruntime-web [default: find or fetch].")
def command(
    model: str,
    target: Path,
    weights: str | None,
    ema: bool,
    image_size: int | None,
    dynamic_size: bool,
    preprocess: bool,
    topk: int | None,
    further: str | None,
    int8: bool,
    calibration: str | None,
    smaller: bool,
    seed: int | None,
    engine: str | None,
    no_optimize: bool,
    tuned: bool,
    batch: int | None,
    budget: float | None,
    web: bool,
    nms: bool | None,
    ort: str | None,
) -> None:
    """Write MODEL, a name of the zoo, a YAML file of your own or a saved folder, as one verified file.

    The suffix of OUT says for what: .onnx for servers and browsers, .xml for OpenVINO, .tflite for LiteRT (Android),
    .pte for ExecuTorch (iOS, Android, small boxes), .mlpackage for Core ML, .pt2 for PyTorch. It is compared with the
    network on that engine before it is written; if it computes anything else there is no file, and the exit status is
    1. Core ML is on Apple's systems alone: elsewhere the package's operators are executed here.

    With --int8 the suffix may be .onnx, .xml, .tflite or .pte. Some of the photos in FOLDER calibrate, and the others
    check whether int8 still answers as float does; layers that suffer stay in float. If too many would have to, or if
    int8 is slower here, there is no file. OUT.json holds the figures.

    With --web, OUT is a folder: a page for any static host, which works offline after the first visit.

    MODEL may be the folder of a detector; OUT is an .onnx file then, and the options are --image-size,
    --dynamic-size and --nms.
    """
    context = click.get_current_context()
    context.with_resource(exit_on_sigterm())
    if is_detector(model):
        _export_detector(context, model, target, nms=nms is not False, image_size=image_size, dynamic_size=dynamic_size)
        return
    if nms is not None:
        raise click.UsageError("--nms and --no-nms are for the folder of a detector, and MODEL is a classifier")
    if ort is not None and not web:
        raise click.UsageError("--ort is for the web page of --web; give both, or neither")
    if web:
        other = (
            dynamic_size
            or preprocess
            or topk
            or further
            or int8
            or calibration
            or engine
            or tuned
            or smaller
            or seed is not None
            or batch
            or budget
        )
        if other:
            raise click.UsageError("--web goes with --weights, --ema, --image-size, --no-optimize and --ort alone")
        if target.suffix.lower() in EXPORTED:
            raise click.UsageError(f"--web writes a folder, and {target} names a file; leave --web out, or rename it")
        _export_web(model, target, weights, ema=ema, image_size=image_size, optimize=not no_optimize, ort=ort)
        return
    if int8 and calibration is None:
        raise click.UsageError("--int8 needs photographs: --calibration FOLDER, at least 100, of what the model knows")
    if calibration is not None and not int8:
        raise click.UsageError("--calibration is for --int8; give both, or neither")
    if int8 and (dynamic_size or preprocess):
        option = "--dynamic-size" if dynamic_size else "--preprocess"
        raise click.UsageError(f"--int8 is for one image size, normalized outside of the file; leave {option} out")
    if calibration is not None and not Path(calibration).is_dir():
        raise click.UsageError(f"--calibration {calibration}: no such folder")
    if int8 and further:
        raise click.UsageError(f"--output {further} is for float exports; leave it out, or --int8")
    if tuned and no_optimize:
        raise click.UsageError("--tune chooses rewrites, and --no-optimize wants none; leave one of them out")
    if engine and (tuned or int8):
        raise click.UsageError("--engine is for a float export; --tune chooses an engine, and int8 files suit both")
    if smaller and not int8:
        raise click.UsageError("--smaller is for --int8; add --int8, or leave --smaller out")
    if seed is not None and not int8:
        raise click.UsageError("--seed is for the photos of --int8; add --int8, or leave --seed out")
    if not tuned and (batch or budget):
        raise click.UsageError("--batch and --budget are what --tune measures with; add --tune")
    # Imported here: torch takes seconds, and neither --help nor a mistyped option should wait for it.
    from effnets.deploy.export.base import check_path, require_packages
    from effnets.deploy.export.export import export, writer_of
    from effnets.deploy.tune import report_path

    writer_of(target)
    if (tuned or engine) and target.suffix.lower() != ".onnx":
        option = "--tune" if tuned else "--engine"
        raise click.UsageError(f"{option} is for .onnx files, and {target} is another; leave it out")
    if int8:
        require_packages(("onnx", "onnxruntime"), "export")  # with which all formats are quantized or compared
        from effnets.deploy.quantize.accuracy_gate import Gate
        from effnets.deploy.quantize.calibration import check_number
        from effnets.deploy.quantize.quantize import CALIBRATION_IMAGES, check_target, quantize
        from effnets.nn.classifier import require_single_class

        check_target(target)
        # Too few are reported before the work.
        check_number(str(calibration), calibration_images=CALIBRATION_IMAGES, min_held_out=Gate().min_images)
    else:
        check_path(target, target.suffix.lower(), is_folder=target.suffix.lower() == ".mlpackage")
    network = load_network(model, weights, answers="outputs", ema=ema)
    if int8:
        require_single_class(network, "int8")
    rewrites: bool | Rewrites = not no_optimize
    found = _tune(network, target, image_size, batch or 1, budget or 120.0) if tuned else None
    if found is not None:
        rewrites, engine = found.chosen.rewrites, found.chosen.engine
    if calibration is not None:
        with _progress() as progress:
            quantised = quantize(
                network,
                target,
                calibration,
                image_size=image_size,
                optimize=rewrites,
                topk=topk,
                smaller=smaller,
                seed=seed or 0,
                engine=engine or "",
                progress=progress,
            )
        for number, line in enumerate(quantised.lines()):
            click.echo(("  " if number else "") + printable(line))
    else:
        report = export(
            network,
            target,
            image_size=image_size,
            dynamic_size=dynamic_size,
            preprocess=preprocess,
            optimize=rewrites,
            topk=topk,
            embedding=further == "embedding",
            engine=engine or "",
        )
        click.echo(printable(str(report)))
    # After the model: beside none it would be of nothing.
    if found is not None and not found.reused:
        found.write(report_path(target))


def _export_detector(
    context: click.Context, model: str, target: Path, *, nms: bool, image_size: int | None, dynamic_size: bool
) -> None:
    possible = {"model", "target", "nms", "image_size", "dynamic_size"}
    for option in context.command.params:
        name = str(option.name)
        if name not in possible and context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{option.opts[0]} is for classifiers, and {model} holds a detector; leave it out")
    from effnets.detection.export import export_detector
    from effnets.detection.folder import load_detector

    report = export_detector(load_detector(model), target, nms=nms, image_size=image_size, dynamic_size=dynamic_size)
    click.echo(printable(str(report)))


def _export_web(
    model: str,
    folder: Path,
    weights: str | None,
    *,
    ema: bool,
    image_size: int | None,
    optimize: bool,
    ort: str | None,
) -> None:
    from effnets.deploy.export.web import check_folder, export_web, find_ort

    check_folder(folder)  # before torch's work
    find_ort(ort)
    network = load_network(model, weights, answers="outputs", ema=ema)
    report = export_web(network, folder, image_size=image_size, optimize=optimize, ort=ort)
    click.echo(printable(str(report)))


@contextmanager
def _progress() -> Iterator[Callable[[str], object]]:
    """What is being done, on the error stream where somebody watches."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return

    from rich.console import Console

    with Console(stderr=True).status("int8") as status:
        yield lambda text: status.update(f"int8: {text}")


def _tune(network: Classifier, target: Path, image_size: int | None, batch: int, budget: float) -> TuneReport:
    """What is fastest on this machine, by an earlier report beside the file if it holds."""
    from effnets.cli.tune import print_report
    from effnets.deploy.tune import report_path, tune
    from effnets.engines.base import FOR_ONNX, available_engines

    with progress_bar() as progress:
        found = tune(
            network,
            batch=batch,
            image_size=image_size,
            budget=budget,
            engines=[engine for engine in available_engines() if engine in FOR_ONNX],
            precisions=["float32"],
            report=report_path(target),
            write_report=False,
            progress=progress,
        )
    print_report(found)
    return found
