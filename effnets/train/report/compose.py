"""Everything a report shows: charts, pictures, the page."""

from __future__ import annotations

from PIL import Image

from effnets.train.report.curves import learning_curves
from effnets.train.report.drawing import Drawing
from effnets.train.report.matrix import LARGEST, confusion_matrix
from effnets.train.report.page import render_page
from effnets.train.report.pictures import Attention, Shown, attention, mistakes, probability
from effnets.train.report.reliability import reliability_diagram
from effnets.train.report.sheet import picture_sheet
from effnets.train.report.summary import RunSummary

__all__ = ["compose_report"]

_MISTAKES = 18
_EXPLAINED_MISTAKES, _EXPLAINED_RIGHT = 4, 6


def compose_report(run: RunSummary) -> tuple[bytes, dict[str, bytes]]:
    """The page, and PNG files by name: charts, the surest mistakes, what the network looked at."""
    charts, shown = _draw(run), mistakes(run.evaluation, _MISTAKES)
    maps: list[Attention] = []
    if run.network is not None:
        maps = attention(run.evaluation, run.network, _EXPLAINED_MISTAKES, _EXPLAINED_RIGHT)
    pictures = {f"{name}.png": drawing.png for name, drawing in charts.items()}
    if shown:
        pictures["mistakes.png"] = picture_sheet([(one.image, _caption(one)) for one in shown], 6)
    if maps:
        pictures["attention.png"] = picture_sheet(_explained(maps), 6)
    return render_page(run, charts, shown, maps).encode(), pictures


def _draw(run: RunSummary) -> dict[str, Drawing]:
    evaluation = run.evaluation
    charts = learning_curves(run.history)
    if len(evaluation.classes) <= LARGEST:
        names = [evaluation.class_names[output] for output in evaluation.classes]
        matrix = confusion_matrix(evaluation.confusion()[:, : len(names)], names)
        if matrix:
            charts["confusion"] = matrix
    charts["reliability"] = reliability_diagram(evaluation.calibration)
    return charts


def _caption(shown: Shown) -> str:
    return f"{shown.truth[:24]}\ntaken for {shown.answer[:20]}, {probability(shown.probability)}"


def _explained(maps: list[Attention]) -> list[tuple[Image.Image, str]]:
    tiles: list[tuple[Image.Image, str]] = []
    for one in maps:
        tiles += [(one.shown.image, one.shown.truth), (one.for_answer, f"speaks for\n{one.shown.answer}")]
        if one.for_truth is not None:
            tiles.append((one.for_truth, f"speaks for\n{one.shown.truth}"))
    return tiles
