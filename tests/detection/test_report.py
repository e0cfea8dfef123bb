"""The page about a detector holds everything, and shows the worst images first."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image

from effnets.detection.annotations import open_boxes
from effnets.detection.evaluate import evaluate_detector
from effnets.detection.report import DetectionSummary, worst_places, write_detection_report
from effnets.errors import ReportError
from effnets.report.write import EpochRow
from tests.support.boxed_sets import ColorDetector, scenes, voc_files
from tests.support.data_sets import write

HISTORY = tuple(
    EpochRow(epoch=epoch, train_loss=4 / epoch, val_mean_ap=40 - 30 / epoch, average_mean_ap=70 - 40 / epoch)
    for epoch in range(1, 7)
)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    listed = scenes(16)
    for scene in listed[:3]:
        scene.objects = [*scene.objects, ("cat", 50, 34, 62, 46)]  # a second cat, which one box for both cannot find
    data = write(tmp_path_factory.mktemp("<data>"), voc_files({"train": listed}))
    return evaluate_detector(ColorDetector(), open_boxes(data, val_share=0).train)


@pytest.fixture(scope="module")
def run(evaluation):
    return DetectionSummary(
        title="<i>cells</i> & pets",
        command="effnets detect '<data>'",
        model="ssdlite & co",
        evaluation=evaluation,
        history=HISTORY,
        selected_map=34.9,
        recipe={"epochs": 6, "augmentation": {"crop": 0.8}},
        notes=("12 boxes <cut>",),
        images={"train": 100, "test": 16},
        training_seconds=200.0,
        training_speed=12.5,
        seed=3,
    )


def test_the_worst_come_first(evaluation):
    assert set(worst_places(evaluation, 3)) == {0, 1, 2}
    assert len(worst_places(evaluation, 100)) == 16


def test_a_page_that_holds_everything(run, tmp_path):
    page = write_detection_report(tmp_path, run)
    text = page.read_text(encoding="utf-8")
    assert "<i>cells</i>" not in text
    assert "&lt;i&gt;cells&lt;/i&gt; &amp; pets" in text
    assert "12 boxes &lt;cut&gt;" in text
    for part in ("mAP@[.5:.95] on 16 test images", "AP@.75", "Class by class", "Where it errs", "augmentation.crop"):
        assert part in text, part
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert text.count("<img ") == 12
    assert text.count('<svg class="chart"') == 3
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"loss.png", "map.png", "learning-rate.png", *(f"example-{n:02}.png" for n in range(1, 13))}
    example = Image.open(io.BytesIO((tmp_path / "report/example-01.png").read_bytes()))
    assert example.size == (64, 48)


def test_a_mere_evaluation(run, tmp_path):
    summary = DetectionSummary(title="pets", command="effnets eval", model="m", evaluation=run.evaluation, split="all")
    text = write_detection_report(tmp_path, summary).read_text(encoding="utf-8")
    assert "evaluation report" in text
    assert "How it learned" not in text
    assert "m, measured on 16 images with" in text


def test_a_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="the report cannot be written"):
        write_detection_report(tmp_path / "file", run)
