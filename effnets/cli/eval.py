"""``effnets eval``."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effnets.cli.detect import evaluate_boxes, is_detector
from effnets.cli.eval_labels import gives_labels, measure, print_labels
from effnets.cli.format import (
    class_names_option,
    class_table,
    comparison_table,
    decode_option,
    ema_option,
    image_column_option,
    image_size_option,
    label_column_option,
    load_network,
    print_table,
    printable,
    progress_bar,
    ray_option,
    result_table,
    title_of,
    workers_option,
)

if TYPE_CHECKING:
    from effnets.engines.base import Engine
    from effnets.evaluation import Comparison, Evaluation
    from effnets.evaluation.multilabel import LabelEvaluation
    from effnets.nn.classifier import Classifier


_PER_CLASS = 30  # classes that are listed without being asked for
_BROKEN = 5
_APART = "measure them apart"


@click.command(name="eval")
@click.argument("data", metavar="[RUN] DATA")
@click.argument("data_of_run", required=False, metavar="")
@click.option("--model", help="A model of the zoo, or a YAML file of your own; exported models and folders need none.")
@click.option(
    "--weights",
    multiple=True,
    help="A weights file, folder, tag, or exported model; several are compared [default: the published weights].",
)
@ema_option
@click.option(
    "--engine",
    "engines",
    multiple=True,
    help="onnxruntime, openvino, torch (rewritten) and the like; several are compared [default: the network as built].",
)
@click.option("--topk", type=click.IntRange(1), default=5, show_default=True, help="For the second figure.")
@image_size_option
@click.option("--batch-size", type=click.IntRange(1), help="Images at a time in each thread [default: by the device].")
@workers_option
@ray_option
@decode_option
@click.option("--real-labels", metavar="FILE", help="ReaL's reassessed labels, for ImageNet's validation images.")
@click.option(
    "--temperature", type=float, help="Of other images, to measure calibration with [default: fitted on these images]."
)
@click.option("--strict", is_flag=True, help="Fail at an image that is broken or unlabeled, instead of leaving it out.")
@image_column_option
@label_column_option
@class_names_option
@click.option(
    "--class-order",
    type=click.Choice(["numeric", "lexicographic"]),
    help="Of classes called by numbers, for a model without class names: 0, 1, 2 or 0, 1, 10.",
)
@click.option("--per-class", is_flag=True, help="List the classes, however many.")
@click.option("--per-image", is_flag=True, help="Put the answer for each image into the JSON.")
@click.option("--json", "json_file", metavar="FILE", help="Write everything as JSON; - prints it instead of the table.")
@click.option("--report", metavar="FOLDER", help="Write a page about the first of them, report.html.")
def command(
    data: str,
    data_of_run: str | None,
    model: str | None,
    weights: tuple[str, ...],
    engines: tuple[str, ...],
    ema: bool,
    image_size: int | None,
    per_class: bool,
    per_image: bool,
    json_file: str | None,
    report: str | None,
    ray_address: str | None,
    workers: int | None,
    **options: Any,
) -> None:
    """Measure a model's accuracy on DATA: a folder of images by class, or labeled images in another form.

    The images of test/ are used, else those of val/, else all. Several --weights or --engine answer for the same
    images and are compared with the first: a network and what was exported of it, in float and in int8.

    RUN, the folder of a training, is short for --weights RUN. Of a detector the average precision is measured, on DATA
    with boxes: COCO's, Pascal VOC's or YOLO's.

    Of a model of labels, DATA is a table with the labels of each image, and the figures are each label's average
    precision, and precision, recall and F1 at its threshold.
    """
    if data_of_run is not None:
        weights, data = (data, *weights), data_of_run
    if json_file not in (None, "-"):
        _check_json(Path(str(json_file)))
    detectors = [one for one in (*weights, model) if is_detector(one)]
    if detectors:
        rows = evaluate_boxes(
            [str(one) for one in (*weights, model) if one is not None],
            data,
            strict=options["strict"],
            batch_size=options["batch_size"],
            report=report,
            quiet=json_file == "-",
        )
        if json_file is not None:
            _write_json(json_file, _with_facts(rows))
        return
    if per_image and json_file is None:
        raise click.UsageError("--per-image is for the JSON; add --json FILE")
    # Imported here: NumPy and torch take time, and neither --help nor a mistyped option should wait for them.
    from effnets.data.splits import ALL
    from effnets.evaluation import compare, evaluate

    subjects = subjects_of(model, weights, engines, ema)
    first: Classifier | Engine | None = None
    evaluations: list[Evaluation] = []
    of_labels: list[LabelEvaluation] = []
    for subject in subjects:
        with ExitStack() as stack, progress_bar() as progress:
            source, loaded = subject.load(stack, image_size)
            if gives_labels(loaded):
                if evaluations:
                    raise click.UsageError(f"{subject.name} has labels, and {subjects[0].name} classes; {_APART}")
                of_labels.append(measure(loaded, data, image_size, workers, options, partial(progress, subject.name)))
                continue
            if of_labels:
                raise click.UsageError(f"{subject.name} has classes, and {subjects[0].name} labels; {_APART}")
            distribute = None
            if ray_address is not None:
                from effnets.bulk.distributed import evaluate_on_ray
                from effnets.bulk.model import pack_model

                packed = pack_model(source, engine=subject.executed_by, image_size=image_size, decode=options["decode"])
                distribute = evaluate_on_ray(ray_address, packed, workers)
            for note in subject.notes:
                click.echo(printable(note), err=True)
            found = evaluate(
                loaded,
                data,
                image_size=image_size,
                workers=workers,
                **options,
                progress=partial(progress, subject.name),
                distribute=distribute,
            )
            if found.split == ALL and (learned := subject.learned_from(data)):
                found = replace(found, notes=(*found.notes, learned))
            evaluations.append(found)
            if len(evaluations) == 1:
                first = loaded
    if of_labels:
        names = [subject.name for subject in subjects]
        if json_file != "-":
            print_labels(names, of_labels)
        if json_file is not None:
            rows = [{"weights": name, **one.to_dict()} for name, one in zip(names, of_labels, strict=True)]
            _write_json(json_file, _with_facts(rows))
        return
    comparisons = [compare(evaluations[0], other) for other in evaluations[1:]]
    names = [subject.name for subject in subjects]
    if json_file != "-":
        _print(names, evaluations, comparisons, per_class)
    _tell(evaluations)
    if json_file is not None:
        _write_json(json_file, _as_json(names, evaluations, comparisons, per_image))
    if report is not None:
        _write_report(report, evaluations[0], first, names[0])


def _check_json(path: Path) -> None:
    from effnets.utils.atomic_file import find_target

    if not path.absolute().parent.is_dir():
        raise click.UsageError(f"--json {path}: there is no folder {path.parent}")
    try:
        find_target(path)
    except OSError as error:
        reason = error.strerror or error
        raise click.UsageError(f"--json {path}: cannot be written there ({reason}); - prints it") from None


def _write_json(file: str, values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=1)
    if file == "-":
        click.echo(text)
        return
    from effnets.utils.atomic_file import write_whole

    try:
        write_whole(Path(file), f"{text}\n".encode())
    except OSError as error:
        raise click.ClickException(f"{file}: cannot be written ({error.strerror or error}); name another") from error


def _write_report(folder: str, evaluation: Evaluation, loaded: Classifier | Engine | None, name: str) -> None:
    from effnets.engines.base import Engine
    from effnets.report import RunSummary, write_report

    title = title_of(evaluation.data)
    summary = RunSummary(
        title=title,
        command=shlex.join(["effnets", *sys.argv[1:]]),
        evaluation=evaluation,
        network=None if isinstance(loaded, Engine) else loaded,
        recipe={"weights": Path(name).name},
    )
    click.echo(f"report: {write_report(folder, summary)}", err=True)


def _as_json(
    names: list[str], evaluations: list[Evaluation], comparisons: list[Comparison], per_image: bool
) -> dict[str, Any]:
    rows = [
        {"weights": name, **evaluation.to_dict(per_image=per_image)}
        for name, evaluation in zip(names, evaluations, strict=True)
    ]
    for row, comparison in zip(rows[1:], comparisons, strict=True):
        row["compared_with_first"] = comparison.to_dict()
    return _with_facts(rows)


def _with_facts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return evaluations with what they were made with."""
    from effnets._version import __version__
    from effnets.utils.machine import describe_machine

    return {"effnets": __version__, "machine": describe_machine().to_dict(), "evaluations": rows}


def _print(names: list[str], evaluations: list[Evaluation], comparisons: list[Comparison], per_class: bool) -> None:
    first = evaluations[0]
    images = {"given": "images", "all": "images"}.get(first.split, f"{first.split} images")
    click.echo(f"{printable(first.data)}: {first.count:,} {images} of {len(first.classes):,} classes\n")
    if len(evaluations) == 1 and (per_class or len(first.classes) <= _PER_CLASS):
        print_table(class_table(first))
        click.echo()
    print_table(result_table(names, evaluations))
    if comparisons:
        click.echo()
        print_table(comparison_table(names, evaluations, comparisons))


def _tell(evaluations: list[Evaluation]) -> None:
    """Print notes and unreadable images on the error stream; they are the same for all."""
    for note in dict.fromkeys(note for evaluation in evaluations for note in evaluation.notes):
        click.echo(printable(note), err=True)
    evaluation = evaluations[0]
    if evaluation.calibration.temperature is not None and evaluation.calibration.fitted_here:
        click.echo(
            "the temperature was fitted on the same images that measure calibration; give another by --temperature",
            err=True,
        )
    for broken in evaluation.broken[:_BROKEN]:
        click.echo(printable(f"left out: {broken.reason}"), err=True)
    if evaluation.broken:
        total = evaluation.count + len(evaluation.broken)
        click.echo(f"{len(evaluation.broken)} of {total} images could not be read and count nowhere", err=True)


_AUTO = "auto"


@dataclass(slots=True)
class Subject:
    """Weights and the engine that executes them.

    Attributes:
        weights: a file, a folder or a tag; None for the published ones of `model`.
        ema: take the averaged weights of the file.
        notes: what loading has to say.
    """

    model: str | None
    weights: str | None
    engine: str
    ema: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What was measured, in a table."""
        return self.weights or str(self.model)

    @property
    def executed_by(self) -> str | None:
        """The engine; None for a network as it is built."""
        return None if self.engine == _AUTO and not is_exported(self.weights) else self.engine

    def load(self, stack: ExitStack, image_size: int | None) -> tuple[Classifier | Path, Classifier | Engine]:
        """The network or exported file, and the model, ready to be evaluated at `image_size`.

        What it needs on disk lives as long as `stack`.
        """
        from effnets.deploy.engine import load_engine
        from effnets.engines.base import FILE_OF

        if is_exported(self.weights):
            path = Path(str(self.weights))
            return path, load_engine(path, self.engine)
        network = self._load_network()
        if self.engine == _AUTO:
            return network, network
        if self.engine not in FILE_OF:
            return network, load_engine(network, self.engine)
        from effnets.deploy.export.export import export

        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / f"model{FILE_OF[self.engine]}"
        export(network, path, image_size=image_size)
        return path, load_engine(path, self.engine)

    def learned_from(self, data: str) -> str | None:
        """Return a warning if `data`, without splits, is what the run in `weights` was trained on."""
        from effnets.train.checkpoint import METRICS

        try:
            metrics = json.loads((Path(str(self.weights)) / METRICS).read_text(encoding="utf-8"))
            trained_on, images = metrics.get("data_path") or metrics["data"], metrics["images"]["train"]
        except (OSError, ValueError, KeyError, TypeError):  # no run of ours
            return None
        if not Path(trained_on).exists() or Path(trained_on).resolve() != Path(data).resolve():
            return None
        return (
            f"{self.weights} was trained on {images:,} of these images, so this says little about others; "
            "set some apart, in test/, before training"
        )

    def _load_network(self) -> Classifier:
        network = load_network(self.model or str(self.weights), self.weights if self.model else None, ema=self.ema)
        if report := network.load_report:
            self.notes += [f"{self.name}: {note}" for note in report.notes]
        return network


def subjects_of(
    model: str | None, weights: tuple[str, ...], engines: tuple[str, ...], ema: bool = False
) -> list[Subject]:
    """Every one of `weights` in each of `engines` that can execute it.

    Raises:
        click.UsageError: something cannot be executed, or needs a model's name.
    """
    from effnets.engines.base import ENGINES

    for engine in engines:
        if engine not in (_AUTO, *ENGINES):
            raise click.UsageError(f"--engine {engine}: choose among {', '.join((_AUTO, *ENGINES))}")
    if ema and (not weights or any(is_exported(one) for one in weights)):
        raise click.UsageError("--ema chooses among the weights in a file; give such files by --weights")
    subjects: list[Subject] = []
    for one in weights or (None,):
        if one is None and model is None:
            raise click.UsageError(
                "--model is missing; only an exported model or a folder, --weights, needs none "
                "(--model mixnet_xs_32px is the demonstration network, for CIFAR-10)"
            )
        if one is not None and model is None and not (is_exported(one) or is_whole(one)):
            raise click.UsageError(f"--weights {one}: which network are they of? Add --model")
        possible = possible_engines(one)
        fitting = [engine for engine in engines or (_AUTO,) if engine in possible]
        if not fitting:
            raise click.UsageError(
                f"{one or model} is executed by {', '.join(possible)}, not by {' or '.join(engines)}"
            )
        subjects += [Subject(model, one, engine, ema) for engine in dict.fromkeys(fitting)]
    unused = set(engines) - {subject.engine for subject in subjects}
    if unused:
        raise click.UsageError(f"--engine {', '.join(sorted(unused))} executes none of the --weights")
    return subjects


def possible_engines(weights: str | None) -> tuple[str, ...]:
    """What can execute these weights, ``auto`` first."""
    from effnets.engines.base import ENGINES, EXPORTED

    if weights is None or not is_exported(weights):
        return (_AUTO, *(engine for engine in ENGINES if engine != "aotinductor"))  # which takes minutes to compile
    return (_AUTO, *EXPORTED[Path(weights).suffix.lower()][1])


def is_exported(weights: str | None) -> bool:
    """Whether it is the name of an exported model."""
    from effnets.engines.base import EXPORTED

    return weights is not None and Path(weights).suffix.lower() in EXPORTED


def is_whole(weights: str) -> bool:
    """Whether it says by itself which network it is."""
    return Path(weights).is_dir() or weights.startswith("hf-hub:")
