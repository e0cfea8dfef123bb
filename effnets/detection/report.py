"""Write the HTML report of a detector's training or evaluation."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from markupsafe import Markup
from PIL import Image

from effnets.detection.draw import draw_boxes
from effnets.detection.evaluate import DetectionEvaluation
from effnets.report.charts import Chart, drawing, line_chart
from effnets.report.page import duration, facts_of, flattened, render_template
from effnets.report.write import EpochRow, Summary, write_page

_SHOWN = 12
_SIDE = 640  # pixels: twice what the page shows, for dense screens


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionSummary(Summary):
    """A run of a detector, as its report tells it.

    Attributes:
        model: its name.
        evaluation: of the weights that were kept. split: "test", "val", or "all" of a data set without splits.
        history: the epochs, none for a mere evaluation.
        selected_map: mAP@[.5:.95] on validation, in per cent, of the weights that were kept.
        score_threshold: of the boxes in the images that are shown.
    """

    model: str
    evaluation: DetectionEvaluation
    split: str = "test"
    history: Sequence[EpochRow] = ()
    selected_map: float | None = None
    score_threshold: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Example:
    """An image with what was found and what is labeled, and how many of each do not fit."""

    name: str
    image: Image.Image
    missed: int
    wrong: int


def write_detection_report(folder: str | os.PathLike[str], run: DetectionSummary) -> Path:
    """Write ``report.html`` into `folder`, and its images as PNG into ``report/``.

    Returns:
        The page.

    Raises:
        ReportError: as of `effnets.report.write_report`.
    """
    return write_page(Path(folder), lambda: _compose(run))


def worst_places(evaluation: DetectionEvaluation, count: int, score_threshold: float = 0.5) -> list[int]:
    """Return the places of the images with most mistakes, the worst first.

    Mistakes are objects that are missed, and detections that are none.
    """
    totals = [sum(evaluation.mistakes(place, score_threshold)) for place in range(evaluation.count)]
    return sorted(range(evaluation.count), key=lambda place: (-totals[place], place))[:count]


def _compose(run: DetectionSummary) -> tuple[bytes, dict[str, bytes]]:
    charts, shown = _charts(run), _examples(run)
    page = render_template(
        "detection.html.jinja",
        run=run,
        # matplotlib has escaped what stands in them.
        charts={name: Markup(chart.svg) for name, chart in charts.items()},
        shown=shown,
        **_context(run),
    )
    images = {f"{name}.png": chart.png for name, chart in charts.items()}
    images |= {f"example-{number:02}.png": _png(one.image) for number, one in enumerate(shown, 1)}
    return page.encode(), images


def _charts(run: DetectionSummary) -> dict[str, Chart]:
    charts: dict[str, Chart | None] = {}
    with drawing("the learning curves"):
        charts["loss"] = line_chart(run.history, "loss", "Loss", {"training": "train_loss"})
        charts["map"] = line_chart(
            run.history,
            "map",
            "mAP@[.5:.95] on validation, %",
            {"weights": "val_mean_ap", "moving average": "average_mean_ap"},
            mark_best=True,
        )
        charts["learning-rate"] = line_chart(
            run.history, "learning-rate", "Learning rate", {"learning rate": "learning_rate"}
        )
    return {name: chart for name, chart in charts.items() if chart}


def _examples(run: DetectionSummary) -> list[_Example]:
    evaluation, found = run.evaluation, list[_Example]()
    for place in worst_places(evaluation, _SHOWN, run.score_threshold):
        index = int(evaluation.indices[place])
        name = evaluation.source.name(index)
        with drawing(name):
            image = evaluation.source.images.image(index)
            assert isinstance(image, Image.Image), "as all of 3 channels"
            width, height = (int(side) for side in evaluation.source.image_sizes[index])
            if image.size != (width, height):  # shrunk, and boxes are in pixels of the whole
                image = image.resize((width, height))
            boxes = evaluation.detections[place].above(run.score_threshold).named(evaluation.class_names)
            drawn = draw_boxes(image, boxes, evaluation.truth(place))
            drawn.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            missed, wrong = evaluation.mistakes(place, run.score_threshold)
            found.append(_Example(name="/".join(PurePath(name).parts[-2:]), image=drawn, missed=missed, wrong=wrong))
    return found


def _context(run: DetectionSummary) -> dict[str, Any]:
    result, evaluation = run.evaluation.result, run.evaluation
    return {
        "result": result,
        "lead": _lead(run),
        "images": {"test": "test images", "val": "validation images"}.get(run.split, "images"),
        "tiles": _tiles(run),
        # The weakest first; classes without a box last.
        "classes": sorted(result.classes, key=lambda one: (math.isnan(one.ap), one.ap, one.name)),
        "facts": facts_of(run),
        "recipe": list(flattened(run.recipe)),
        "notes": [*run.notes, *(f"left out: {reason}" for reason in evaluation.broken[:_SHOWN])],
    }


def _lead(run: DetectionSummary) -> str:
    evaluation, learned = run.evaluation, run.images.get("train")
    count = len(evaluation.class_names)
    classes = f"{count:,} class{'es' * (count != 1)}"
    measured = f"measured on {evaluation.count:,} images with {sum(one.boxes for one in evaluation.result.classes):,}"
    measured += f" boxes of {classes}"
    if not run.history:
        return f"{run.model}, {measured}."
    trained = f"trained for {len(run.history)} epoch{'s' * (len(run.history) != 1)}"
    trained += f" on {learned:,} images" if learned else ""
    return f"{run.model}, {trained}, {measured}."


def _tiles(run: DetectionSummary) -> list[tuple[str, str, str, str]]:
    """Label, figure, unit, and what it stands for."""
    result = run.evaluation.result
    figures = [
        ("mAP@.5", result.mean_ap50, "boxes that overlap by half"),
        ("mAP@.75", result.mean_ap75, "by three quarters"),
        ("Recall", result.recall, "of the 100 best boxes of an image"),
        ("Small", result.small, "mAP of boxes below 32² pixels"),
        ("Medium", result.medium, "below 96² pixels"),
        ("Large", result.large, "above"),
    ]
    if run.selected_map is not None:
        figures.insert(0, ("Validation", run.selected_map, "mAP that chose these weights"))
    tiles = [(label, f"{value:.1f}", "%", hint) for label, value, hint in figures if not math.isnan(value)]
    tiles.append(("Network", f"{run.evaluation.network_speed:,.1f}", "images/s", "on this machine"))
    if run.training_speed is not None:
        tiles.append(("Training", f"{run.training_speed:,.1f}", "images/s", "steps alone"))
    if run.training_seconds is not None:
        tiles.append(("Time", *duration(run.training_seconds), "for the whole training"))
    return tiles


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
