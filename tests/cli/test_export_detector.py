"""``effnets export`` of a detector's folder."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

import effnets
from effnets.cli import main
from tests.support.detectors import shaken_detector


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    effnets.save_detector(shaken_detector(), folder)
    return folder


def export(*arguments):
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


@pytest.mark.parametrize(("options", "outputs"), [((), 3), (("--no-nms",), 2), (("--dynamic-size",), 3)])
def test_a_detector_is_exported(folder, tmp_path, options, outputs):
    done = export(folder, tmp_path / "detector.onnx", *options)
    assert done.exit_code == 0, done.output
    assert "scores within" in done.output
    import onnx

    assert len(onnx.load(tmp_path / "detector.onnx").graph.output) == outputs


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
