"""`effnets.quantize` and ``effnets export --int8``, from network to file."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import effnets
from effnets.cli import main
from effnets.deploy.export import base
from effnets.deploy.export.base import write_file
from effnets.deploy.export.verify import probe_images
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.deploy.quantize import quantize as quantize_module
from effnets.deploy.quantize.accuracy_gate import Gate
from effnets.engines.metadata import ModelMetadata
from effnets.spec.specs import PreprocessSpec
from tests.support import SHARED, needs_shared
from tests.support.detectors import shaken_detector
from tests.support.small_graphs import small_graph

# Random networks are no measure of int8; what is tested is the way to the file.
EASY = Gate(lead=0.0, min_agreement=0.6, min_in_top5=0.8, min_images=16)
PREPROCESS = PreprocessSpec(input_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
LABELS = tuple("abcdefghij")


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """As if exported: torch's exporter takes longer than all else here."""
    path = tmp_path_factory.mktemp("float") / "small.onnx"
    model = small_graph(spread=0.3)
    description = ModelMetadata(model="small", family="none", labels=LABELS, preprocess=PREPROCESS, size=(16, 16))
    for key, value in description.to_properties().items():
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, pixels in enumerate(probe_images(40, 64, 72, 3, seed=5)):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def quantize(exported, target, folder, **changes):
    return effnets.quantize(exported, target, folder, **{"gate": EASY, "timing_seconds": 0, "smaller": True, **changes})


def test_from_float_to_int8(exported, folder, tmp_path):
    target = tmp_path / "small.int8.onnx"
    report = quantize(exported, target, folder, timing_seconds=0.1)
    assert report.path == target
    assert not report.failures
    assert set(report.agreement) == {"onnxruntime", "openvino"}
    assert set(report.speed_ratios) == {"onnxruntime", "openvino"}
    assert report.size == target.stat().st_size
    said = json.loads(target.with_suffix(".json").read_text())
    assert said["path"] == "small.int8.onnx"
    assert said["agreement"]["openvino"]["images"] == 20
    assert said["agreement"]["openvino"]["accuracy_verdict"] == "accuracy not measured: no image has a known label"
    image = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    before = effnets.load_engine(exported)
    for name in ("onnxruntime", "openvino"):
        engine = effnets.load_engine(target, name)
        assert engine.description.precision == "int8"
        assert engine.description.labels == before.description.labels
        assert engine.description.preprocess == before.description.preprocess
        assert engine.description.quantisation["left_in_float"] == list(report.left)
        assert engine(image).shape == (2, 10)
    shown = CliRunner().invoke(main, ["predict", str(folder / "0.png"), "--weights", str(target)])
    assert shown.exit_code == 0, shown.output
    text = str(report)
    assert text.count("; accuracy not measured: no image has a known label") == 2
    assert "times smaller" in text
    assert "times as fast" in text
    with pytest.raises(effnets.ArgumentError, match="is in int8 already"):
        quantize(target, tmp_path / "again.onnx", folder)


def test_the_engine_that_a_file_is_made_for_is_kept(exported, folder, tmp_path):
    target = tmp_path / "out.onnx"
    quantize(exported, target, folder, engine="openvino", engines=["onnxruntime"])
    assert effnets.load_engine(target).name == "openvino"


def test_a_broken_quantization_is_refused_and_nothing_written(exported, folder, tmp_path, monkeypatch):
    def broken(_, histograms):
        return dict.fromkeys(histograms, (0.0, 1e-3))

    monkeypatch.setattr(quantize_module, "ranges_by", broken)
    with pytest.raises(effnets.QuantizationError, match=r"small: not written.*onnxruntime: .*Layers to blame.*\(") as e:
        quantize(exported, tmp_path / "small.int8.onnx", folder, max_left=0.3)
    assert list(tmp_path.iterdir()) == []
    report = e.value.report
    assert report.path is None
    assert report.attempts > 1
    assert len(report.sensitivity) == report.layers
    assert json.dumps(report.to_dict())


def test_too_few_clear_images_are_no_proof(exported, folder, tmp_path):
    gate = Gate(lead=1.0, min_agreement=0, min_in_top5=0, min_images=16)
    with pytest.raises(effnets.QuantizationError, match="clear first class on 0 of 20") as refusal:
        quantize(exported, tmp_path / "small.int8.onnx", folder, gate=gate)
    assert refusal.value.report.attempts == 1, "no layer is to blame"


@pytest.mark.parametrize(
    ("names", "measured", "message"),
    [
        (("a", "b"), True, None),
        (
            ("left", "right"),
            False,
            "accuracy not measured: the folders' names (left, right) are not classes of the model",
        ),
        (
            ("a", "b", "left", "right"),
            True,
            "2 folders give no label: the folders' names (left, right) are not classes of the model",
        ),
    ],
)
def test_folders_of_no_class_are_named(exported, folder, tmp_path, names, measured, message):
    for index, photo in enumerate(sorted(folder.iterdir())):
        place = tmp_path / names[index % len(names)] / photo.name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(photo.read_bytes())
    gate = Gate(lead=0.0, min_agreement=0.6, min_in_top5=0.8, min_images=16, max_loss=100)
    report = quantize(exported, tmp_path / "out.onnx", tmp_path, gate=gate)
    assert all("\n" not in line for line in report.lines())
    assert [line for line in report.lines() if "not classes" in line] == ([message] if message else [])
    assert (report.agreement["onnxruntime"].labelled > 0) is measured
    assert all(("labeled (" in line) is measured for line in report.lines() if "held-out images" in line)
    assert ("no loss above 100.0 points)" in str(report)) is measured


def test_a_report_is_replaced_and_what_is_no_report_is_not(exported, folder, tmp_path, monkeypatch):
    target, report = tmp_path / "model.onnx", tmp_path / "model.json"
    quantize(exported, target, folder)
    first = report.read_bytes()
    quantize(exported, target, folder, seed=1)
    assert report.read_bytes() != first
    target.unlink()
    monkeypatch.setattr(quantize_module.QuantSearch, "__init__", None)  # no work is done
    for content in (b'{"threshold": 0.5}', b"[]", b"", b"\xff", b"[" * 100_000):
        report.write_bytes(content)
        with pytest.raises(effnets.ExportError, match=r"model\.json: exists, and is not a report.*model\.onnx"):
            quantize(exported, target, folder)
        assert [entry.name for entry in tmp_path.iterdir()] == ["model.json"]
        assert report.read_bytes() == content
    report.unlink()
    report.mkdir()
    with pytest.raises(effnets.ExportError, match=r"model\.json: cannot be written there"):
        quantize(exported, target, folder)
    command = ["export", "no-such-model", str(target), "--int8", "--calibration", str(folder)]
    assert "model.json: cannot be written there" in " ".join(CliRunner().invoke(main, command).stderr.split())


@pytest.mark.parametrize("there", [False, True])
def test_a_model_that_cannot_be_written_leaves_no_report(exported, folder, tmp_path, monkeypatch, there):
    target, report = tmp_path / "model.onnx", tmp_path / "model.json"
    if there:
        quantize(exported, target, folder)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}

    def full(path, data):
        if path == target:
            assert json.loads(report.read_text())["calibration_images"] == 16
            raise effnets.ExportError(f"{path}: cannot be written (No space left on device)")
        write_file(path, data)

    monkeypatch.setattr(base, "write_file", full)
    with pytest.raises(effnets.ExportError, match="No space left"):
        quantize(exported, target, folder, calibration_images=16)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--int8"], "--calibration FOLDER, at least 100"),
        (["--calibration", "."], "--calibration is for --int8"),
        (["--int8", "--calibration", "nowhere"], "nowhere: no such folder"),
        (["--int8", "--calibration", ".", "--preprocess"], "leave --preprocess out"),
        (["--int8", "--calibration", ".", "--dynamic-size"], "leave --dynamic-size out"),
    ],
)
def test_wrong_commands(arguments, message):
    result = CliRunner().invoke(main, ["export", "mobilenetv1_025", "out.onnx", *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_too_few_photographs_are_reported_before_the_work(folder, tmp_path):
    command = ["export", "no-such-model", str(tmp_path / "out.tflite"), "--int8", "--calibration", str(folder)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "calibration has 40 different photographs; give at least 100" in " ".join(result.stderr.split())


def other_than_classes(kind):
    """A network of labels, of embeddings, or of boxes; and what int8 says of it."""
    if kind == "boxes":
        return shaken_detector(), "model is a SSDLite; give a classifier that create_model built"
    network = effnets.create_model("mobilenetv1_025", num_classes=3)
    network.classifier_activation = kind
    given = {"sigmoid": "any number of labels", "l2": "an embedding"}[kind]
    return network, f"int8 is for networks that give an image one class, and this one gives it {given}; export it to"


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".tflite", ".pte"])
@pytest.mark.parametrize("kind", ["sigmoid", "l2", "boxes"])
def test_other_networks_are_refused_before_any_work(folder, tmp_path, kind, suffix):
    network, message = other_than_classes(kind)
    done = []
    with pytest.raises(effnets.ArgumentError, match=message):
        quantize(network, tmp_path / f"out{suffix}", folder, progress=done.append)
    assert not done
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes", [{"classifier_activation": "sigmoid"}, {"classifier_activation": "l2"}, {"detector": "ssdlite"}]
)
def test_exported_files_of_other_networks_are_refused(folder, tmp_path, changes):
    model = small_graph(spread=0.3)
    described = ModelMetadata(
        model="small", family="none", labels=LABELS, preprocess=PREPROCESS, size=(16, 16), **changes
    )
    for key, value in described.to_properties().items():
        model.metadata_props.add(key=key, value=value)
    (tmp_path / "float.onnx").write_bytes(model.SerializeToString())
    given = {"sigmoid": "any number of labels", "l2": "an embedding"}.get(described.classifier_activation, "boxes")
    with pytest.raises(effnets.ArgumentError, match=f"one class, and this one gives it {given}; keep the float file"):
        quantize(tmp_path / "float.onnx", tmp_path / "out.onnx", folder)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", ["sigmoid", "l2", "boxes"])
def test_the_command_refuses_other_networks(tmp_path, kind):
    network, message = other_than_classes(kind)
    save = effnets.save_detector if kind == "boxes" else effnets.save_pretrained
    save(network, tmp_path / "run")
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, pixels in enumerate(probe_images(100, 8, 8, 3, seed=5)):
        Image.fromarray(pixels).save(photos / f"{index}.png")
    target = tmp_path / "out.onnx"
    command = ["export", str(tmp_path / "run"), str(target), "--int8", "--calibration", str(photos)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == (2 if kind == "boxes" else 1)
    expected = "--int8 is for classifiers, and" if kind == "boxes" else message
    assert expected in " ".join(result.stderr.split())
    assert not target.exists()


def test_wrong_arguments(exported, folder, tmp_path):
    with pytest.raises(effnets.ArgumentError, match=r"suffix \.onnx"):
        quantize(exported, tmp_path / "out", folder)
    with pytest.raises(effnets.ArgumentError, match="engine is 'torch'; choose onnxruntime or openvino"):
        quantize(exported, tmp_path / "out.onnx", folder, engine="torch")
    with pytest.raises(effnets.ArgumentError, match="max_left is 2"):
        quantize(exported, tmp_path / "out.onnx", folder, max_left=2)
    with pytest.raises(effnets.ArgumentError, match=r"gate\.lead is 3"):
        Gate(lead=3)
    with pytest.raises(effnets.ArgumentError, match="40 different photographs; give at least 100"):
        quantize(exported, tmp_path / "out.onnx", folder, gate=None)


def test_a_file_is_as_it_was_exported(exported, folder, tmp_path):
    message = r"small\.onnx: has the size, rewrites and outputs .*; leave image_size, optimize, topk out"
    with pytest.raises(effnets.ArgumentError, match=message):
        quantize(exported, tmp_path / "out.onnx", folder, image_size=64, topk=2, optimize=False)
    with pytest.raises(effnets.ArgumentError, match="leave optimize out"):
        quantize(exported, tmp_path / "out.onnx", folder, optimize=Rewrites())
    assert list(tmp_path.iterdir()) == []


REAL = (
    "mobilenetv1_100_224",
    "mobilenetv1_075_192",
    "mobilenetv1_050_160",
    "mobilenetv1_025_128",
    "mobilenetv2_100_224",
)


@needs_shared
@pytest.mark.full
@pytest.mark.parametrize("name", REAL)
def test_real_weights_pass_the_gate(name, tmp_path):
    with tarfile.open(SHARED / "data" / "grocery20.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    weights = SHARED / "weights" / f"tf_{name}.timm.safetensors"
    model = effnets.create_model(name.rpartition("_")[0], weights=weights)
    report = effnets.quantize(model, tmp_path / "int8.onnx", tmp_path, held_out_images=600, timing_seconds=0)
    for found in report.agreement.values():
        assert found.clear > 100
        assert found.agreement >= 0.99
        assert found.in_top5 >= 0.99
