"""``effnets predict`` and ``effnets eval`` with the folder of a detector."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner
from PIL import Image

from effnets.cli import main
from effnets.cli.detect import is_detector
from tests.support.boxed_sets import CLASSES, ColorDetector, draw_scene, splits, voc_files
from tests.support.data_sets import write

OBJECTS = [("cat", 4, 6, 24, 16), ("dog", 40, 10, 60, 30)]


@pytest.fixture(autouse=True)
def stored(monkeypatch):
    """Detectors that see colors, instead of trained ones."""
    module = ModuleType("effnets.detection.folder")
    module.load_detector = lambda folder: ColorDetector(
        json.loads(Path(folder, "config.json").read_text())["label_names"]
    )
    monkeypatch.setitem(sys.modules, "effnets.detection.folder", module)


@pytest.fixture
def trained(tmp_path):
    config = {"detector": {"kind": "ssdlite"}, "label_names": list(CLASSES)}
    return write(tmp_path / "run", {"config.json": json.dumps(config).encode()}).resolve()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    draw_scene(OBJECTS).save(folder / "a.png")
    draw_scene(OBJECTS[:1]).save(folder / "more" / "a.png")
    draw_scene([]).save(folder / "more" / "z.jpg")
    return folder


def run(*arguments, status=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


def test_a_table_of_boxes(trained, photos):
    result = run("predict", photos / "a.png", "--model", trained)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["photo", "class", "score", "left", "top", "right", "bottom"]
    assert lines[2].split()[1:] == ["cat", "90.0", "%", "4", "6", "24", "16"]
    assert lines[3].split() == ["dog", "80.0", "%", "40", "10", "60", "30"]
    assert "cat" in run("predict", photos / "a.png", "--weights", trained, "--task", "detect").stdout
    assert "dog" not in run("predict", photos / "a.png", "--model", trained, "--score-threshold", 0.85).stdout


def test_rows_as_json(trained, photos):
    rows = json.loads(run("predict", photos, "--model", trained, "--json").stdout)
    assert [row["path"] for row in rows] == [str(photos / name) for name in ("a.png", "more/a.png", "more/z.jpg")]
    assert [[box["label"] for box in row["boxes"]] for row in rows] == [["cat", "dog"], ["cat"], []]
    lines = run("predict", photos, "--model", trained, "--json-lines").stdout.splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_photos_with_boxes(trained, photos, tmp_path):
    result = run("predict", photos, "--model", trained, "--output", tmp_path / "drawn")
    assert f"3 photos with boxes: {tmp_path / 'drawn'}" in result.stderr
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a-2.jpg", "a.jpg", "z.jpg"]
    plain, drawn = (Image.open(path).convert("RGB") for path in (photos / "a.png", tmp_path / "drawn" / "a.jpg"))
    assert drawn.size == plain.size
    assert drawn.tobytes() != plain.tobytes()


def test_photos_that_cannot_be_read(trained, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"no image")
    result = run("predict", photos, "--model", trained, "--output", tmp_path / "drawn", status=1)
    assert "broken.jpg" in result.stderr
    assert "1 of 4 could not be examined" in result.stderr
    assert len(list((tmp_path / "drawn").iterdir())) == 3


def test_photos_are_not_replaced(trained, photos, tmp_path):
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    for folder in (photos, tmp_path):
        result = run("predict", photos, "--model", trained, "--output", folder, status=2)
        assert "holds the photo" in result.stderr
    result = run("predict", photos, "--model", trained, "--output", photos / "a.png", status=2)
    assert "is a file; name a folder" in result.stderr
    assert {path: path.read_bytes() for path in photos.rglob("*.*")} == before


def test_options_without_meaning(trained, photos):
    for option in (["--topk", 3], ["--image-size", 64], ["--resume"], ["--ema"], ["--decode", "fast"]):
        result = run("predict", photos, "--model", trained, *option, status=2)
        assert f"{option[0]} means nothing for a detector; leave it out" in result.stderr
    result = run("predict", photos, "--score-threshold", 0.3, status=2)
    assert "--score-threshold is of a detector's boxes" in result.stderr
    result = run("predict", photos, "--model", "mobilenetv2_100", "--weights", trained, status=2)
    assert "a detector is whole: name its folder alone, without --model mobilenetv2_100" in result.stderr
    result = run("predict", photos, "--model", trained, "--json", "--json-lines", status=2)
    assert "--json and --json-lines exclude each other" in result.stderr
    result = run("predict", photos, "--task", "detect", status=2)
    assert "--task detect needs a detector: name the folder of its training, --model RUN" in result.stderr


def test_average_precision(trained, tmp_path):
    data = write(tmp_path / "pets", voc_files(splits()))
    for arguments in ((trained, data), (data, "--weights", trained), (data, "--model", trained)):
        result = run("eval", *arguments)
        lines = [line.split() for line in result.stdout.splitlines() if line]
        assert lines[0][-6:] == ["4", "test", "images", "with", "5", "boxes"]
        assert lines[1][:2] == ["class", "boxes"]
        assert lines[3][:3] == ["cat", "3", "100.0"]
        assert lines[4][:3] == ["dog", "2", "100.0"]
        assert lines[-1][:4] == ["run", "100.0", "100.0", "100.0"]
    values = json.loads(run("eval", trained, data, "--json", "-").stdout)
    (row,) = values["evaluations"]
    assert (row["mean_ap"], row["split"], row["images"]) == (pytest.approx(100), "test", 4)
    assert [one["name"] for one in row["classes"]] == list(CLASSES)
    run("eval", trained, data, "--json", tmp_path / "figures.json", "--report", tmp_path / "page")
    assert json.loads((tmp_path / "figures.json").read_text())["evaluations"][0]["classes"] == row["classes"]
    assert "mAP@[.5:.95] on 4 test images" in (tmp_path / "page" / "report.html").read_text(encoding="utf-8")


def test_corrupt_images_are_left_out_and_named(trained, tmp_path):
    data = write(tmp_path / "pets", voc_files(splits()) | {"JPEGImages/test000.png": b"no image"})
    result = run("eval", trained, data)
    assert "3 test images" in result.stdout
    assert "left out of test: 1 corrupt image" in result.stderr
    assert "test000.png" in result.stderr
    result = run("eval", trained, data, "--strict", status=1)
    assert "test: 1 of 4 images cannot be read, and 0 may be left out" in result.stderr


def test_several_detectors(trained, tmp_path):
    data = write(tmp_path / "pets", voc_files(splits()))
    other = write(tmp_path / "other", {"config.json": (trained / "config.json").read_bytes()})
    lines = run("eval", data, "--weights", trained, "--weights", other).stdout.splitlines()
    assert [line.split()[0] for line in lines[-2:]] == ["run", "other"]
    result = run("eval", data, "--weights", trained, "--weights", tmp_path / "a.onnx", status=2)
    assert "a.onnx is not the folder of a detector" in result.stderr
    result = run("eval", trained, data, "--engine", "onnxruntime", status=2)
    assert "--engine means nothing for a detector; leave it out" in result.stderr


def test_what_is_a_detector(trained, tmp_path):
    assert is_detector(str(trained))
    assert not is_detector(None)
    assert not is_detector("mobilenetv2_100")
    for name, text in {"a": "[]", "b": "{", "c": '{"architecture": "x"}'}.items():
        assert not is_detector(str(write(tmp_path / name, {"config.json": text.encode()})))
