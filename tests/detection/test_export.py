"""Exported detectors find torchvision's boxes on ONNX Runtime and OpenVINO; a file that does not is refused."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import effnets
from effnets.detection.detector import Detector
from effnets.detection.static import at_size, make_static
from effnets.detection.verify import find_difference, matched
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, ExportError, VerificationError
from tests.support.detectors import CLASSES, KINDS, SIZE, pictures, shaken_detector
from tests.support.networks import ONE_A_FAMILY, create

ENGINES = ("onnxruntime", "openvino")


def detect(detector: Detector, images: torch.Tensor) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        (found,) = detector([images[0]])
    return {name: value.numpy() for name, value in found.items()}


def photo(height: int, width: int) -> torch.Tensor:
    return pictures(2, height=height, width=width)[1][None]


def assert_finds_the_same(path, detector: Detector, images: torch.Tensor) -> None:
    expected = detect(detector, images)
    double = detect(detector.double(), images.double())
    detector.float()
    assert len(expected["scores"]) > 5
    for name in ENGINES:
        found = effnets.load_engine(path, name).run(images.numpy())
        assert find_difference(found, expected, double) is None
        assert matched(expected, found).mean() > 0.95


@functools.cache
def export_once(kind: str, nms: bool = True) -> tuple[Path, effnets.ExportReport]:
    """The file of the shaken detector of a kind; exporting takes seconds."""
    folder = Path(tempfile.mkdtemp(prefix="effnets-detector-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / f"{kind}.onnx"
    return path, effnets.export_detector(shaken_detector(kind), path, nms=nms)


@pytest.mark.parametrize("kind", KINDS)
def test_the_static_form_is_torchvisions(kind):
    for size in ((SIZE, SIZE), (96, 130)):
        detector = at_size(shaken_detector(kind), size)
        images = photo(*size)
        expected = detect(detector, images)
        with torch.inference_mode():
            boxes, labels, scores = (value.numpy() for value in make_static(detector, size)(images))
        kept = scores > 0
        assert kept.sum() == len(expected["scores"]) > 5
        np.testing.assert_allclose(scores[kept], expected["scores"], atol=1e-6)
        np.testing.assert_array_equal(labels[kept], expected["labels"])
        np.testing.assert_allclose(boxes[kept], expected["boxes"], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_exported_detectors_find_torchvisions_boxes(kind):
    path, report = export_once(kind)
    assert set(report.errors) == set(ENGINES)
    assert max(report.errors.values()) < 1e-4
    assert "scores within onnxruntime" in str(report)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [output.name for output in model.graph.output] == ["boxes", "labels", "scores"]
    assert "NonMaxSuppression" in {node.op_type for node in model.graph.node}
    assert_finds_the_same(path, at_size(shaken_detector(kind), (SIZE, SIZE)), photo(SIZE, SIZE))


@pytest.mark.parametrize("kind", ["ssdlite", pytest.param("retinanet", marks=pytest.mark.full)])
def test_without_suppression(kind):
    path, _ = export_once(kind, nms=False)
    detector = shaken_detector(kind)
    images = torch.cat([photo(SIZE, SIZE), 1 - photo(SIZE, SIZE)])
    with torch.inference_mode():
        static = make_static(at_size(detector, (SIZE, SIZE)), (SIZE, SIZE), suppresses=False)
        boxes, scores = static(images)
    for name in ENGINES:
        engine = effnets.load_engine(path, name)
        found = engine.run(images.numpy())
        assert set(found) == {"boxes", "scores"}
        np.testing.assert_allclose(found["scores"], scores, atol=1e-4)
        np.testing.assert_allclose(found["boxes"], boxes, atol=0.1)
        assert found["scores"].shape == (2, boxes.shape[1], len(engine.labels))


def test_images_of_any_size(tmp_path):
    detector = shaken_detector()
    effnets.export_detector(detector, tmp_path / "any.onnx", dynamic_size=True)
    for size in ((SIZE, SIZE), (150, 101), (60, 200)):
        assert_finds_the_same(tmp_path / "any.onnx", detector, photo(*size))


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_another_image_size(kind, tmp_path):
    detector = shaken_detector(kind)
    report = effnets.export_detector(detector, tmp_path / "wide.onnx", image_size=(64, 130))
    assert report.description.size == (64, 130)
    assert_finds_the_same(tmp_path / "wide.onnx", at_size(detector, (64, 130)), photo(64, 130))


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*ONE_A_FAMILY, "tf_mobilenetv2_100"])
def test_every_family_is_exported(name, kind, tmp_path):
    detector = shaken_detector(kind, name)
    effnets.export_detector(detector, tmp_path / "detector.onnx")
    assert_finds_the_same(tmp_path / "detector.onnx", at_size(detector, (SIZE, SIZE)), photo(SIZE, SIZE))


def test_metadata():
    metadata = ModelMetadata.from_file(export_once("ssdlite")[0])
    assert metadata.labels == ("background", *CLASSES)
    assert metadata.detector == "ssdlite"
    assert metadata.size == (SIZE, SIZE)
    assert metadata.preprocess.mean == (0, 0, 0)
    assert {"effnets", "torch", "torchvision"} <= set(metadata.versions)


def test_a_detector_gives_no_logits():
    engine = effnets.load_engine(export_once("ssdlite")[0])
    with pytest.raises(ArgumentError, match=r"is a detector \(ssdlite\), .* instead of logits; get them with run"):
        engine(photo(SIZE, SIZE).numpy())
    with pytest.raises(ArgumentError):
        engine.run(photo(SIZE, SIZE + 1).numpy())


def break_anchors(model: onnx.ModelProto) -> None:
    """Move the anchors by some pixels: a constant ``[1, A, 4]``, or folded to several ``[A, 1]``."""
    broken = 0
    for entry in model.graph.initializer:
        array = numpy_helper.to_array(entry)
        if array.ndim < 4 and array.shape[-1:] in ((1,), (4,)) and array.size > 100:
            entry.CopyFrom(numpy_helper.from_array(array + np.float32(5), entry.name))
            broken += 1
    assert broken


def break_suppression(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "NonMaxSuppression")
    model.graph.initializer.append(numpy_helper.from_array(np.array([0.9], np.float32), "loose"))
    node.input[3] = "loose"


@pytest.mark.parametrize("fault", [break_anchors, break_suppression])
def test_a_wrong_graph_is_refused(fault, tmp_path, monkeypatch):
    whole, _ = export_once("ssdlite")

    def broken(*_):
        model = onnx.load(whole)
        fault(model)
        return model

    monkeypatch.setattr("effnets.detection.graph.export_graph", broken)
    path = tmp_path / "detector.onnx"
    path.write_bytes(b"before")
    with pytest.raises(
        VerificationError, match=r"mobilenetv1_025: not exported: onnxruntime: of \d+ boxes \d+ are missing"
    ):
        effnets.export_detector(shaken_detector(), path, engines=["onnxruntime"])
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_boxes_without_suppression_are_refused(tmp_path, monkeypatch):
    whole, _ = export_once("ssdlite", nms=False)

    def broken(*_):
        model = onnx.load(whole)
        break_anchors(model)
        return model

    monkeypatch.setattr("effnets.detection.graph.export_graph", broken)
    with pytest.raises(VerificationError, match="onnxruntime: boxes differ from torch's by up to"):
        effnets.export_detector(shaken_detector(), tmp_path / "raw.onnx", nms=False, engines=["onnxruntime"])


def test_differences_are_found():
    expected = detect(at_size(shaken_detector(), (SIZE, SIZE)), photo(SIZE, SIZE))
    assert find_difference(expected, expected, expected) is None
    half = {name: value[::2] for name, value in expected.items()}
    assert "boxes" in str(find_difference(half, expected, expected))
    relabeled = {**expected, "labels": expected["labels"] % 3 + 1}
    assert "are missing" in str(find_difference(relabeled, expected, expected))
    moved = {**expected, "boxes": expected["boxes"] * 1.01}
    assert "are missing" in str(find_difference(moved, expected, expected))
    worse = {**expected, "scores": expected["scores"] * 0.99}
    assert "are missing" in str(find_difference(worse, expected, expected))
    broken = {**expected, "scores": expected["scores"] * np.nan}
    assert find_difference(broken, expected, expected) == "boxes or scores are not finite"


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("faster_rcnn", {"nms": False}, "nms=False leaves all boxes to you, and faster_rcnn suppresses some"),
        ("retinanet", {"dynamic_size": True}, "dynamic_size is for ssdlite"),
        ("ssdlite", {"dynamic_size": True, "image_size": 96}, "image_size contradicts dynamic_size=True"),
        ("ssdlite", {"image_size": 0}, "image_size is 0"),
        ("ssdlite", {"engines": ["tensorrt"]}, "engines has 'tensorrt'"),
    ],
)
def test_refusals(kind, arguments, message, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        effnets.export_detector(shaken_detector(kind), tmp_path / "detector.onnx", **arguments)
    assert not list(tmp_path.iterdir())


def test_refused_places_and_models(tmp_path):
    with pytest.raises(ArgumentError, match=r"give the file the suffix .onnx"):
        effnets.export_detector(shaken_detector(), tmp_path / "detector.tflite")
    with pytest.raises(ExportError, match="is not a folder; make it first"):
        effnets.export_detector(shaken_detector(), tmp_path / "no" / "detector.onnx")
    with pytest.raises(ArgumentError, match="model is a Classifier; give a detector"):
        effnets.export_detector(create("mobilenetv1_025"), tmp_path / "detector.onnx")
