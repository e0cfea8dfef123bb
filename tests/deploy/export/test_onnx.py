"""Networks leave as one file, verified, or not at all."""

from __future__ import annotations

import copy
import json
import os

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import effnets
from effnets.deploy.export.base import write_file
from effnets.deploy.optimize.rewrites import PRESETS
from effnets.errors import ArgumentError, ExportError, VerificationError
from tests.support import SHARED, images, needs_shared, shake, shake_gently
from tests.support.tiny_network import tiny

FAMILIES = [
    ("mobilenetv1_025", {"image_size": 96}),
    ("mobilenetv2_035", {"dynamic_size": True}),
    ("mixnet_s", {"image_size": (64, 96), "optimize": False}),
    ("tf_mixnet_s", {"dynamic_size": True}),
    ("rexnet_100", {"image_size": 96, "preprocess": True, "topk": 5}),
]
ENGINES = ("onnxruntime", "openvino")


@pytest.mark.parametrize(("name", "arguments"), FAMILIES)
def test_one_of_each_family(name, arguments, tmp_path, capfd, recwarn):
    torch.manual_seed(0)
    model = shake(effnets.create_model(name), size=64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = tmp_path / "model.onnx"
    report = effnets.export_onnx(model, path, **arguments)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []
    assert set(report.errors) == set(ENGINES)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if not arguments.get("preprocess"):
        _compare_at_sizes(
            model,
            path,
            [report.description.size] if report.description.size else [(224, 224), (225, 225), (256, 320), (33, 64)],
        )


def _compare_at_sizes(model, path, sizes):
    for engine in ENGINES:
        loaded = effnets.load_engine(path, engine, threads=1)
        for batch, size in enumerate(sizes, start=1):
            pixels = images(batch, 3, *size)
            with torch.inference_mode():
                expected = model.double()(pixels.double()).numpy()
            model.float()
            found = loaded(pixels.numpy())
            assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-4, (engine, size)


@pytest.mark.full
@pytest.mark.parametrize("preprocess", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", effnets.list_models())
def test_the_whole_zoo(name, dynamic, preprocess, tmp_path):
    if dynamic and preprocess:
        pytest.skip("preprocessing brings images to one size")
    torch.manual_seed(0)
    model = shake_gently(effnets.create_model(name))
    report = effnets.export_onnx(model, tmp_path / "m.onnx", dynamic_size=dynamic, preprocess=preprocess)
    assert set(report.errors) == set(ENGINES)


@needs_shared
@pytest.mark.parametrize("file", ["tf_mobilenetv1_025_128"])
def test_photographs_through_the_graph(file, tmp_path):
    _photographs(file, tmp_path)


@needs_shared
@pytest.mark.full
@pytest.mark.parametrize(
    "file", ["tf_mobilenetv1_050_160", "tf_mobilenetv1_075_192", "tf_mobilenetv1_100_224", "tf_mobilenetv2_100_224"]
)
def test_photographs_through_the_graphs(file, tmp_path):
    _photographs(file, tmp_path)


def _photographs(file, tmp_path):
    weights = SHARED / "weights" / f"{file}.timm.safetensors"
    model = effnets.create_model(file.rsplit("_", 1)[0], weights=weights)
    path = tmp_path / "photos.onnx"
    report = effnets.export_onnx(model, path, preprocess=True)
    assert report.description.weights["source"] == weights.name
    assert report.description.weights["sha256"] == model.load_report.sha256
    golden = json.loads((SHARED / "golden" / "photos.json").read_text())[weights.name]
    assert len(golden) == 10
    for name in ENGINES:
        engine = effnets.load_engine(path, name, threads=1)
        for photo, expected in golden.items():
            pixels = np.asarray(Image.open(SHARED / "data" / "photos" / photo).convert("RGB"))
            logits = engine(pixels[None])[0]
            assert np.abs(logits[:8] - expected["logits_first8"]).max() < 0.02
            first, second = (probability for _, _, probability in expected["top3"][:2])
            if first - second >= 0.03:
                assert logits.argmax() == expected["top3"][0][0], (name, photo)


@pytest.fixture
def model(tmp_path):
    return tiny(tmp_path)


def test_the_file_is_one_and_tells_no_tales(model, tmp_path):
    path = tmp_path / "t.onnx"
    model.class_names = tuple(f"thing {index}" for index in range(12))
    report = effnets.export_onnx(model, path, image_size=48, topk=3, engines=["onnxruntime"])
    file = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(file, full_check=True)
    assert [value.name for value in file.graph.output] == [
        "logits",
        "probabilities",
        "top_probabilities",
        "top_indices",
    ]
    assert str(tmp_path).encode() not in path.read_bytes()
    assert b"site-packages" not in path.read_bytes()
    properties = {entry.key: json.loads(entry.value) for entry in file.metadata_props}
    assert properties["effnets.labels"][1] == "thing 1"
    assert properties["effnets.size"] == [48, 48]
    assert properties["effnets.rewrites"]["fold_bn"] is True
    assert report.size == path.stat().st_size
    engine = effnets.load_engine(path)
    assert engine.labels == model.class_names
    pixels = images(2, 3, 48, 48).numpy()
    outputs = engine.run(pixels)
    assert (outputs["top_indices"][:, 0] == outputs["logits"].argmax(1)).all()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_is_left_of_a_failure(failure, tmp_path, monkeypatch):
    path = tmp_path / "t.onnx"
    path.write_bytes(b"what was there")

    def fail(_):
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt if failure is KeyboardInterrupt else ExportError):
        write_file(path, b"new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["t.onnx"]
    assert path.read_bytes() == b"what was there"


def test_a_wrong_graph_is_not_written(model, tmp_path, monkeypatch):
    from effnets.deploy.export import graph

    export_graph = graph.export_graph

    def wrong(*arguments, **options):
        exported = export_graph(*arguments, **options)
        exported.model.graph.node[3].op_type = "Neg"
        del exported.model.graph.node[3].input[1:], exported.model.graph.node[3].attribute[:]
        return exported

    monkeypatch.setattr(graph, "export_graph", wrong)
    with pytest.raises(VerificationError, match="tiny: not exported: the exported graph is wrong at node"):
        effnets.export_onnx(model, tmp_path / "t.onnx", image_size=48)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.yaml"]


def test_any_size_has_a_usual_one(model, tmp_path):
    path = tmp_path / "any.onnx"
    effnets.export_onnx(model, path, image_size=(48, 64), dynamic_size=True, engines=["onnxruntime"])
    description = effnets.load_engine(path).description
    assert (description.size, description.image_size) == (None, (48, 64))


@pytest.mark.parametrize("engine", ["", *ENGINES])
def test_the_engine_that_a_file_is_made_for_is_taken_first(engine, model, tmp_path):
    report = effnets.export_onnx(model, tmp_path / "model.onnx", engine=engine)
    assert report.description.rewrites == PRESETS[engine or "onnxruntime"].to_dict()
    assert effnets.load_engine(tmp_path / "model.onnx").name == (engine or "onnxruntime")
    assert effnets.load_engine(tmp_path / "model.onnx", "onnxruntime").name == "onnxruntime"


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("t.pt", {}, ArgumentError, "give the file the suffix .onnx"),
        ("gone/t.onnx", {}, ExportError, "is not a folder; make it first"),
        ("t.onnx", {"preprocess": True, "dynamic_size": True}, ArgumentError, "dynamic_size contradicts it"),
        ("t.onnx", {"topk": 13}, ArgumentError, "topk is 13, but the model has 12 classes"),
        ("t.onnx", {"topk": 0}, ArgumentError, "topk is 0; it must be at least 1"),
        ("t.onnx", {"image_size": 0}, ArgumentError, "image_size is 0"),
        ("t.onnx", {"engine": "openvin"}, ArgumentError, "engine is .openvin.; choose onnxruntime or openvino"),
        ("t.onnx", {"engines": []}, ArgumentError, "engines is empty"),
        ("t.onnx", {"engines": ["tensorflow"]}, ArgumentError, "engines has 'tensorflow'"),
    ],
)
def test_mistakes(name, arguments, error, message, model, tmp_path):
    with pytest.raises(error, match=message):
        effnets.export_onnx(model, tmp_path / name, **arguments)


def test_names_of_another_number_than_outputs(model, tmp_path):
    network = copy.deepcopy(model)
    network.class_names = ("a", "b")
    with pytest.raises(ArgumentError, match=r"model\.class_names has 2 names for 12 outputs; give one for each"):
        effnets.export_onnx(network, tmp_path / "t.onnx")


def test_models_without_logits(tmp_path):
    for options in ({"num_classes": 0}, {"global_pool": "none"}, {"features_only": True}):
        model = effnets.create_model("mobilenetv1_025", **options)
        with pytest.raises(ArgumentError, match=r"give a classifier|gives no logits"):
            effnets.export_onnx(model, tmp_path / "t.onnx")
