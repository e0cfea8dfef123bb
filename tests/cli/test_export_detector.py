"""``effnets export`` of a detector's folder."""

from __future__ import annotations

import onnx
import pytest
from click.testing import CliRunner

import effnets
from effnets.cli import main
from effnets.detection.export import export_detector
from effnets.train.teacher import load_teacher
from tests.support.detectors import shaken_detector
from tests.support.drawn_classes import draw_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    effnets.save_detector(shaken_detector(), folder)
    return folder


def export(*arguments):
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def test_a_detector_is_exported(folder, tmp_path):
    done = export(folder, tmp_path / "detector.onnx", "--no-nms", "--image-size", "64")
    assert done.exit_code == 0, done.output
    assert "scores within" in done.output
    graph = onnx.load(tmp_path / "detector.onnx").graph
    assert [output.name for output in graph.output] == ["boxes", "scores"]
    assert [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim][1:] == [3, 64, 64]


def test_exported_detectors_are_no_classifiers(folder, tmp_path):
    """In commands and as a teacher: said at once, and of what it is instead."""
    network = effnets.load_detector(folder)
    export_detector(network, tmp_path / "detector.onnx", nms=False, image_size=64, engines=["onnxruntime"])
    file, photos = str(tmp_path / "detector.onnx"), tmp_path / "photos"
    draw_data(photos, train=0, val=0, test=2)
    commands = (
        ["predict", str(photos / "test"), "--weights", file],
        ["eval", str(photos), "--weights", file],
        ["embed", str(photos), "--weights", file, "--output", str(tmp_path / "vectors.npy")],
    )
    for command in commands:
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 1
        assert "is a detector (ssdlite), which answers with boxes; name the folder" in " ".join(done.output.split())
    recipe = effnets.Recipe(model="mobilenetv1_025", teacher=file)
    with pytest.raises(effnets.TrainingError, match=r"detector\.onnx is a detector, .*; name a classifier"):
        load_teacher(recipe, effnets.create_model("mobilenetv1_025"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"nms": True, "image_size": None, "dynamic_size": False}),
        (("--nms", "--dynamic-size"), {"nms": True, "image_size": None, "dynamic_size": True}),
    ],
)
def test_options_reach_the_export(folder, tmp_path, monkeypatch, options, expected):
    given = {}
    monkeypatch.setattr("effnets.detection.export.export_detector", lambda *_, **options: given.update(options))
    assert export(folder, tmp_path / "detector.onnx", *options).exit_code == 0
    assert given == expected


def test_options_of_classifiers_are_refused(folder, tmp_path):
    done = export(folder, tmp_path / "detector.onnx", "--topk", "5")
    assert done.exit_code == 2
    assert "--topk is for classifiers" in done.output
    done = export(folder, tmp_path / "detector.tflite")
    assert done.exit_code == 1
    assert "give the file the suffix .onnx" in done.output
    assert not list(tmp_path.iterdir())


def test_nms_is_of_detectors(tmp_path):
    done = export("mobilenetv1_025", tmp_path / "network.onnx", "--no-nms")
    assert done.exit_code == 2
    assert "--nms and --no-nms are for the folder of a detector" in done.output
