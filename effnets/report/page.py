"""The page itself: what the template is given. Everything that comes from outside is escaped by it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from effnets._version import __version__
from effnets.evaluation.result import Evaluation
from effnets.report.charts import LARGEST, Chart, confusion_matrix, drawing, learning_curves, reliability_diagram
from effnets.report.images import CamExample, Example, contact_sheet, explain, mistakes, probability, to_data_uri
from effnets.report.write import RunSummary, Summary
from effnets.spec.cost import count
from effnets.utils.machine import describe_machine

_WEAKEST = 30  # classes shown before the others are folded away
_PAIRS = 10
_BROKEN = 20
_SPLITS = {"test": "test images", "val": "validation images", "all": "images", "given": "images"}


def render_page(
    run: RunSummary, charts: Mapping[str, Chart], shown: Sequence[Example], maps: Sequence[CamExample]
) -> str:
    """The page as HTML, with its style sheet and its images inside."""
    return render_template(
        "report.html.jinja",
        run=run,
        # matplotlib has escaped what stands in them.
        charts={name: Markup(chart.svg) for name, chart in charts.items()},
        widths={name: chart.width for name, chart in charts.items()},
        shown=shown,
        maps=maps,
        **_context(run),
    )


def render_template(name: str, **values: Any) -> str:
    """Render a template of this folder as a page that holds all it shows, with its style."""
    folder = files("effnets.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = to_data_uri
    environment.filters["probability"] = probability
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    style = Markup(folder.joinpath("report.css").read_text(encoding="utf-8"))
    return environment.get_template(name).render(style=style, version=__version__, **values)


def _context(run: RunSummary) -> dict[str, Any]:
    evaluation = run.evaluation
    classes = _class_rows(evaluation)
    low, high = evaluation.interval
    return {
        "evaluation": evaluation,
        "images": _SPLITS.get(evaluation.split, "images"),
        "lead": _lead(run),
        "low": low,
        "high": high,
        "tiles": _tiles(run),
        "classes": classes[:_WEAKEST],
        "other_classes": classes[_WEAKEST:],
        "pairs": _pairs(evaluation),
        "wrong": int((~evaluation.right).sum()),
        "facts": facts_of(run),
        "recipe": list(flattened(run.recipe)),
        "notes": [*run.notes, *(note for note in evaluation.notes if note not in run.notes)],
        "broken": evaluation.broken[:_BROKEN],
    }


def _lead(run: RunSummary) -> str:
    evaluation = run.evaluation
    classes = f"{len(evaluation.classes):,} classes"
    measured = f"measured on {evaluation.count:,} {_SPLITS.get(evaluation.split, 'images')}"
    if not run.history:
        return f"{evaluation.model}, {measured} of {classes}."
    learned = run.images.get("train")
    trained = f"trained for {len(run.history)} epoch{'s' if len(run.history) != 1 else ''}"
    trained += f" on {learned:,} images" if learned else ""
    return f"{evaluation.model}, {trained} of {classes}, {measured}."


def _tiles(run: RunSummary) -> list[tuple[str, str, str, str]]:
    """Label, figure, unit, and what it stands for."""
    evaluation, calibration = run.evaluation, run.evaluation.calibration
    tiles = []
    if run.selected_top1 is not None:
        tiles.append(("Validation", f"{run.selected_top1:.1f}", "%", "top-1 that chose these weights"))
    if len(evaluation.class_names) > evaluation.topk:
        tiles.append(
            (
                f"Top-{evaluation.topk}",
                f"{evaluation.topk_accuracy:.1f}",
                "%",
                f"the right class among {evaluation.topk}",
            )
        )
    if evaluation.real:
        tiles.append(
            ("ReaL", f"{evaluation.real.top1:.1f}", "%", f"reassessed labels, {evaluation.real.count:,} images")
        )
    f1 = evaluation.scores().f1[evaluation.classes]
    tiles += [
        ("Macro F1", f"{100 * float(np.nanmean(f1)):.1f}", "%", "mean over the classes"),
        ("Loss", f"{evaluation.loss:.3f}", "nats", "mean cross entropy"),
        ("Calibration", f"{100 * calibration.error:.1f}", "%", "expected error (ECE)"),
        ("Network", _figure(evaluation.network_speed), "images/s", evaluation.engine),
        ("Decoding", _figure(evaluation.decoding_speed), "images/s", f"on {_threads(evaluation.workers)}"),
    ]
    if run.network is not None:
        cost = count(run.network)
        tiles += [
            ("Parameters", f"{cost.params / 1e6:.2f}", "M", f"{4 * cost.params / 1e6:.1f} MB in float32"),
            ("Multiply-adds", f"{cost.madds / 1e6:,.0f}", "M", "for one image"),
        ]
    if run.training_speed is not None:
        tiles.append(("Training", _figure(run.training_speed), "images/s", "steps alone"))
    if run.training_seconds is not None:
        tiles.append(("Time", *duration(run.training_seconds), "for the whole training"))
    return tiles


def _class_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The weakest first; classes without an image last."""
    scores = evaluation.scores()
    rows = [
        {
            "name": evaluation.class_names[output],
            "images": int(scores.support[output]),
            "precision": float(scores.precision[output]),
            "recall": float(scores.recall[output]),
            "f1": float(scores.f1[output]),
        }
        for output in evaluation.classes
    ]
    return sorted(rows, key=lambda row: (row["images"] == 0, row["f1"] if row["images"] else 0.0, row["name"]))


def _pairs(evaluation: Evaluation) -> list[dict[str, Any]]:
    pairs = evaluation.confused_pairs(_PAIRS)
    most = max((times for _, _, times in pairs), default=1)
    return [{"truth": truth, "answer": answer, "times": times, "share": times / most} for truth, answer, times in pairs]


def facts_of(run: Summary) -> list[tuple[str, str]]:
    """Return names and values of what a run was: versions, data, machine."""
    versions = run.versions
    if run.machine is None or versions is None:
        machine = describe_machine()
        versions = machine.versions if versions is None else versions
    facts = [("effnets", __version__)]
    if run.finished is not None:
        facts.append(("finished", run.finished.isoformat(sep=" ", timespec="minutes")))
    if run.seed is not None:
        facts.append(("seed", str(run.seed)))
    facts += [(f"{split} images", f"{number:,}") for split, number in run.images.items()]
    facts.append(("machine", run.machine if run.machine is not None else str(machine)))
    return facts + [(name, version) for name, version in versions.items() if name != "effnets"]


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield names and values of settings; those of mappings within are called ``optimizer.lr``."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flattened(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _figure(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"


def _threads(workers: int) -> str:
    return f"{workers} thread{'s' if workers != 1 else ''}"


def duration(seconds: float) -> tuple[str, str]:
    """Return a time as a number and its unit."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f}", unit
    return f"{seconds:.0f}", "s"


_MISTAKES = 18
_EXPLAINED_MISTAKES, _EXPLAINED_RIGHT = 4, 6


def compose_report(run: RunSummary) -> tuple[bytes, dict[str, bytes]]:
    """The page, and PNG files by name: charts, the surest mistakes, what the network looked at."""
    charts, shown = _draw(run), mistakes(run.evaluation, _MISTAKES)
    maps: list[CamExample] = []
    if run.network is not None:
        maps = explain(run.evaluation, run.network, _EXPLAINED_MISTAKES, _EXPLAINED_RIGHT)
    images = {f"{name}.png": chart.png for name, chart in charts.items()}
    sheets = {"mistakes.png": [(one.image, _caption(one)) for one in shown], "attention.png": _explained(maps)}
    for name, tiles in sheets.items():
        with drawing(name):
            images |= {name: contact_sheet(tiles, 6)} if tiles else {}
    return render_page(run, charts, shown, maps).encode(), images


def _draw(run: RunSummary) -> dict[str, Chart]:
    evaluation = run.evaluation
    charts: dict[str, Chart] = {}
    with drawing("the learning curves"):
        charts |= learning_curves(run.history)
    if len(evaluation.classes) <= LARGEST:
        with drawing("the confusion matrix"):
            names = [evaluation.class_names[output] for output in evaluation.classes]
            matrix = confusion_matrix(evaluation.confusion()[:, : len(names)], names)
            charts |= {"confusion": matrix} if matrix else {}
    with drawing("the reliability diagram"):
        charts["reliability"] = reliability_diagram(evaluation.calibration)
    return charts


def _caption(shown: Example) -> str:
    return f"{shown.truth[:24]}\ntaken for {shown.answer[:20]}, {probability(shown.probability)}"


def _explained(maps: list[CamExample]) -> list[tuple[Image.Image, str]]:
    tiles: list[tuple[Image.Image, str]] = []
    for one in maps:
        tiles += [(one.example.image, one.example.truth), (one.for_answer, f"speaks for\n{one.example.answer}")]
        if one.for_truth is not None:
            tiles.append((one.for_truth, f"speaks for\n{one.example.truth}"))
    return tiles
