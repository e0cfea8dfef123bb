"""`write_report`: the page, and its pictures as files."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from PIL import Image

from effnets.errors import ReportError
from effnets.train.report.curves import learning_curves
from effnets.train.report.drawing import Drawing
from effnets.train.report.matrix import LARGEST, confusion_matrix
from effnets.train.report.page import render_page
from effnets.train.report.pictures import Attention, Shown, attention, mistakes, probability
from effnets.train.report.reliability import reliability_diagram
from effnets.train.report.sheet import picture_sheet
from effnets.train.report.summary import RunSummary

__all__ = ["write_report"]

_PAGE, _PICTURES = "report.html", "report"
_MISTAKES = 18
_EXPLAINED_MISTAKES, _EXPLAINED_RIGHT = 4, 6


def write_report(folder: str | os.PathLike[str], run: RunSummary) -> Path:
    """Write ``report.html`` into `folder`, which is made if need be, and its pictures as PNG into ``report/``.

    The page holds everything: it needs no network and no script, and is read by day and by night, on a desk and on a
    telephone.

    Returns:
        The page.

    Raises:
        ReportError: the folder cannot be written; what was there before is still there.
    """
    folder = Path(folder)
    charts, shown, maps = _draw(run), mistakes(run.evaluation, _MISTAKES), []
    if run.network is not None:
        maps = attention(run.evaluation, run.network, _EXPLAINED_MISTAKES, _EXPLAINED_RIGHT)
    page = render_page(run, charts, shown, maps)
    files = {f"{_PICTURES}/{name}.png": drawing.png for name, drawing in charts.items()}
    if shown:
        files[f"{_PICTURES}/mistakes.png"] = picture_sheet([(one.image, _caption(one)) for one in shown], 6)
    if maps:
        files[f"{_PICTURES}/attention.png"] = picture_sheet(_explained(maps), 6)
    _write(folder, {**files, _PAGE: page.encode()})
    return folder / _PAGE


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


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """All under other names first, then quickly to their own."""
    mark = uuid.uuid4().hex
    written = {folder / name: folder / Path(name).parent / f".{mark}.{Path(name).name}" for name in files}
    try:
        (folder / _PICTURES).mkdir(parents=True, exist_ok=True)
        for (path, temporary), content in zip(written.items(), files.values(), strict=True):
            if path.is_dir():
                raise ReportError(f"{path}: is a folder, where the report wants to write a file; move it away")
            temporary.write_bytes(content)
        for path, temporary in written.items():
            temporary.replace(path)
    except OSError as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(
            f"{folder}: the report cannot be written ({error.strerror or error}); "
            "name a folder that may be written, with room left"
        ) from None
    finally:
        with suppress(OSError):
            for temporary in written.values():
                temporary.unlink(missing_ok=True)
